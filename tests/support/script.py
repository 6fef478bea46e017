"""Scripts as Streamlit executes them: every run in a fresh `__main__`, which `sys.modules` need not know."""

from __future__ import annotations

import textwrap
import types
import weakref
from typing import Any

from persist_session.objects.classes import View
from persist_session.objects.live import Caller
from persist_session.objects.pickling import dumps, loads


class ScriptRun:
    """One run of a script.

    Attributes:
        namespace: The globals of its `__main__`.
    """

    def __init__(self, source: str, **seen: Any) -> None:
        module = types.ModuleType("__main__")
        self.namespace: dict[str, Any] = vars(module) | seen
        exec(compile(textwrap.dedent(source), "app.py", "exec", dont_inherit=True), self.namespace)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.namespace[name]
        except KeyError as error:
            raise AttributeError(name) from error

    @property
    def mark(self) -> weakref.ref[Any]:
        """What `host.Run.mark` would be."""
        return weakref.ref(self)

    def view(self, factory: Any = dict) -> View:
        """What the library sees in this run."""
        return View((self.namespace,), factory)

    def caller(self, factory: Any = dict) -> Caller:
        """Who asks for a state in this run."""
        return Caller(self.view(factory), factory, self.mark)

    def load(self, data: bytes, factory: Any = dict) -> Any:
        """What this run makes of a pickle."""
        return loads(data, self.view(factory))

    def copy(self, obj: Any) -> Any:
        """What this run makes of an object of whichever run."""
        return self.load(dumps(obj).data)
