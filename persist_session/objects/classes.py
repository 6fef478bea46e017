"""The caller's view: the namespaces in which the classes of a state are looked up.

Streamlit executes the main script and every page in a fresh module called `__main__` at each run; the one in
`sys.modules` belongs to whichever visitor ran last (streamlit/runtime/scriptrunner/script_runner.py).
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

_OURS = __name__.partition(".")[0]

Reference = tuple[str, str]
"""Module and qualified name of a class or function."""


class UnrestorableError(Exception):
    """An object can't be made again of its pickle; the message quotes nothing of the state."""


class View:
    """The namespaces in which a caller's classes are looked up.

    Args:
        namespaces: Global namespaces, the nearest first.
        factory: Makes the state; a class is found as itself, a function through its globals.
    """

    def __init__(self, namespaces: tuple[dict[str, Any], ...], factory: Callable[[], Any]) -> None:
        target = unwrapped(factory)
        self._factory_class = target if isinstance(target, type) else None
        self._namespaces = (*namespaces, *_globals_of(target))

    def find(self, module: str, qualname: str) -> Any:
        """The class or function of this name.

        Raises:
            UnrestorableError: Nothing of this name can be seen.
        """
        seen = self._factory_class
        if seen is not None and (seen.__module__, seen.__qualname__) == (module, qualname):
            return seen
        for found in self._seen(module, qualname):
            return found
        if module == "__main__":
            raise UnrestorableError(f"{qualname} is not defined where the state is loaded")
        try:
            return walk(vars(importlib.import_module(module)), qualname)
        except (ImportError, LookupError, AttributeError) as error:
            raise UnrestorableError(f"{module}.{qualname} can't be imported") from error

    def _seen(self, module: str, qualname: str) -> Iterator[Any]:
        # A hot-reloaded module lives on in the runs that imported it before: what the caller holds comes before
        # sys.modules, so that isinstance() holds in every run.
        top = qualname.partition(".")[0]
        for namespace in (*self._namespaces, *self._imported(module)):
            value = namespace.get(top)
            if namespace.get("__name__") != module and (
                getattr(value, "__module__", None) != module or getattr(value, "__qualname__", None) != top
            ):
                continue
            try:
                yield walk(namespace, qualname)
            except (LookupError, AttributeError):
                continue

    def _imported(self, module: str) -> Iterator[dict[str, Any]]:
        if module == "__main__":
            return
        for namespace in self._namespaces:
            for value in list(namespace.values()):
                if isinstance(value, ModuleType) and value.__name__ == module:
                    yield vars(value)

    def sees(self, references: Mapping[Reference, Any]) -> bool:
        """Tells whether each of these names still means the same object."""
        try:
            return all(self.find(*name) is known for name, known in references.items())
        except UnrestorableError:
            return False

    def is_like(self, other: View) -> bool:
        """Tells whether the other view looks at the same namespaces, so that every name means the same in both."""
        return (
            self._factory_class is other._factory_class
            and len(self._namespaces) == len(other._namespaces)
            and all(one is two for one, two in zip(self._namespaces, other._namespaces, strict=True))
        )

    def defined_anew(self, before: View) -> set[Reference]:
        """The names of the app's own classes and modules that are others here than in a view of an earlier run."""
        here, there = self._definitions(), before._definitions()
        return {here[key] for key in here.keys() - there.keys()} | {there[key] for key in there.keys() - here.keys()}

    def _definitions(self) -> dict[int, Reference]:
        """The classes and modules in sight, by their identity; also functions, but those of the script itself.

        A script's functions are others in every run, and a state holds none as a rule. A module's function that is
        another one tells that the module was loaded anew, with all its classes.
        """
        found: dict[int, Reference] = {}
        for namespace in self._namespaces:
            for value in list(namespace.values()):
                if isinstance(value, ModuleType):
                    _note(value, (value.__name__, ""), found)
                elif isinstance(value, FunctionType) and value.__module__ != "__main__":
                    _note(value, (value.__module__, value.__qualname__), found)
                elif isinstance(value, type):
                    _note_class(value, found)
        return found


def _note(value: Any, name: tuple[Any, str], found: dict[int, Reference]) -> bool:
    # A mock, or an object that names no module, is nobody's own.
    is_new = isinstance(name[0], str) and is_own_module(name[0]) and id(value) not in found
    if is_new:
        found[id(value)] = name
    return is_new


def _note_class(kind: type, found: dict[int, Reference]) -> None:
    for base in kind.__mro__:
        if _note(base, (base.__module__, base.__qualname__), found):
            for inner in list(vars(base).values()):
                if isinstance(inner, type):
                    _note_class(inner, found)


def unwrapped(factory: Any) -> Any:
    """The class or function behind partials and methods."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return getattr(factory, "__func__", factory)


def makes_anew(factory: Any) -> bool:
    """Tells whether a factory surely makes a new object each time: a class, called without arguments."""
    return isinstance(factory, type) or getattr(factory, "makes_anew", False)


def name_of(factory: Any) -> str:
    """The name of a factory, with its module."""
    target = unwrapped(factory)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', type(target).__qualname__)}"


def _globals_of(target: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(target, FunctionType):
        return (target.__globals__,)
    # Methods that dataclasses and namedtuples generate carry the globals of whichever `__main__` was registered when
    # they were made: only globals that know the class by its name are its own.
    candidates = (
        (value.__globals__ for value in vars(target).values() if isinstance(value, FunctionType))
        if isinstance(target, type)
        else ()
    )
    for candidate in candidates:
        if candidate.get(target.__qualname__.partition(".")[0]) is target:
            return (candidate,)
    return ()


def walk(namespace: Mapping[str, Any], qualname: str) -> Any:
    """The object that a namespace holds under a qualified name.

    Raises:
        LookupError: It does not hold it.
        AttributeError: It does not hold it.
    """
    first, *rest = qualname.split(".")
    return functools.reduce(getattr, rest, namespace[first])


def is_own_module(module: str) -> bool:
    """Tells whether a module may change while the app runs: neither the standard library's nor an installed one."""
    known = _own_modules.get(module)
    if known is None:
        known = _is_own(module)
        if module in sys.modules:  # before, nobody can tell where it lies
            _own_modules[module] = known
    return known


_own_modules: dict[str, bool] = {}


def _is_own(module: str) -> bool:
    package = module.partition(".")[0]
    if package == _OURS or package in sys.stdlib_module_names - {"__main__"}:
        return False
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return module == "__main__" or ("site-packages" not in path and "dist-packages" not in path)
