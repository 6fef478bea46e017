"""Classes wherever an app may define them, and what becomes of a state when its classes change.

Most of these apps run in Streamlit's AppTest, which executes a script as a server does. Their visitor is a user, who is
found again without a browser.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import pytest
from streamlit.testing.v1 import AppTest

from persist_session import settings
from support import Visitor, write_app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Served, Visit

    Opening = Callable[[], AppTest]


def source(*parts: str) -> str:
    """Return one source of several."""
    return "\n".join(textwrap.dedent(part) for part in parts)


@pytest.fixture
def opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opening:
    """Return what opens another tab on the app.py of the test's folder; its runs do not see what pytest configured."""
    for name in ("_configured", "_resolved"):
        monkeypatch.setattr(settings, name, {})
    monkeypatch.setenv("HOME", str(tmp_path))
    return lambda: AppTest.from_file(str(tmp_path / "app.py"), default_timeout=60).run()


def click(test: AppTest, label: str) -> AppTest:
    """Press a button."""
    return next(button for button in test.button if button.label == label).click().run()


def texts(test: AppTest | Visitor) -> list[str]:
    """Return what the app shows by st.text."""
    if isinstance(test, Visitor):
        return [element.text for element in test.find("text")]
    return [text.value for text in test.text]


def error_of(test: AppTest) -> str:
    """Return the type and the message of the one exception on the page."""
    (exception,) = test.exception
    return f"{exception.proto.type}: {exception.message}"


def records(folder: Path) -> dict[Path, bytes]:
    """Return all records below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*.app-state.pickle")}


# Wherever they lie

# Every kind of class that a state may be made of, and what each looks like when it is right.
KINDS = """
    from dataclasses import dataclass, field
    from enum import Enum, Flag
    from typing import NamedTuple

    import numpy as np
    import pandas as pd
    import streamlit as st
    from pydantic import BaseModel
    from persist_session import persistent_state

    WHO = {}

    class Color(Enum):
        RED = 1
        BLUE = 2

    class Rights(Flag):
        READ = 1
        WRITE = 2

    @dataclass
    class Item:
        number: int
        color: Color = Color.RED
        notes: list = field(default_factory=list)

    @dataclass(slots=True)
    class Slotted:
        number: int
        item: Item

    @dataclass(frozen=True)
    class Frozen:
        number: int
        color: Color

    @dataclass(frozen=True, slots=True)
    class FrozenSlotted:
        number: int
        color: Color

    class Pair(NamedTuple):
        left: int
        right: Item

    class Model(BaseModel):
        number: int
        color: Color

    class AppState:
        class Inner:
            class Innermost(Enum):
                DEEP = 1

            def __init__(self, number):
                self.number = number
                self.deep = AppState.Inner.Innermost.DEEP

        def __init__(self):
            self.all = []

    def one_of_each(n):
        return [
            Item(n), Slotted(n, Item(n)), Frozen(n, Color.BLUE), FrozenSlotted(n, Color.BLUE), Pair(n, Item(n)),
            Model(number=n, color=Color.BLUE), AppState.Inner(n), Rights.READ | Rights.WRITE, Item, len,
            np.arange(n), pd.DataFrame({"n": range(n)}), {Color.RED: Item(n)}, {Frozen(n, Color.RED)},
        ]

    def wrong_in(n, each):
        item, slotted, frozen, both, pair, model, inner, rights, kind, function, array, frame, mapping, members = each
        facts = {
            "item": type(item) is Item and item == Item(n) and item.color is Color.RED,
            "slotted": type(slotted) is Slotted and slotted == Slotted(n, Item(n)),
            "frozen": type(frozen) is Frozen and frozen == Frozen(n, Color.BLUE) and frozen.color is Color.BLUE,
            "both": type(both) is FrozenSlotted and both == FrozenSlotted(n, Color.BLUE) and both.color is Color.BLUE,
            "pair": type(pair) is Pair and pair == Pair(n, Item(n)),
            "model": type(model) is Model and model.number == n and model.color is Color.BLUE,
            "inner": type(inner) is AppState.Inner and inner.deep is AppState.Inner.Innermost.DEEP,
            "rights": rights is Rights.READ | Rights.WRITE,
            "class": kind is Item and function is len,
            "array": array.tolist() == list(range(n)),
            "frame": frame["n"].tolist() == list(range(n)),
            "mapping": list(mapping) == [Color.RED] and mapping[Color.RED] == Item(n),
            "members": members == {Frozen(n, Color.RED)},
        }
        return [name for name, is_right in facts.items() if not is_right]

    def show(prefix, s, entries):
        wrong = [name for n, each in enumerate(entries) for name in wrong_in(n, each)]
        st.text(f"{prefix} {len(entries)} {wrong}")

    def add_to_list():
        with persistent_state("list-state", list, **WHO) as s:
            s.append(one_of_each(len(s)))

    def add_to_dict():
        with persistent_state("dict-state", dict, **WHO) as s:
            s[len(s)] = one_of_each(len(s))

    def add_to_root():
        with persistent_state("root-state", AppState, **WHO) as s:
            s.all.append(one_of_each(len(s.all)))

    def add_to_all():
        add_to_list()
        add_to_dict()
        add_to_root()

    def page():
        st.button("By callback", on_click=add_to_all)
        if st.button("In body"):
            add_to_all()
        with persistent_state("root-state", AppState, **WHO) as s:
            show(f"root {type(s) is AppState}", s, s.all)
        with persistent_state("list-state", list, **WHO) as s:
            show(f"list {type(s) is list}", s, s)
        with persistent_state("dict-state", dict, **WHO) as s:
            show(f"dict {type(s) is dict}", s, list(s.values()))

        @st.fragment
        def part():
            if st.button("In fragment"):
                add_to_all()
                with persistent_state("root-state", AppState, **WHO) as s:
                    show("fragment", s, s.all)

        part()
"""

HERE = source(KINDS, "page()")
FOR_A_USER = HERE.replace("WHO = {}", 'WHO = {"user": "ada"}')
ELSEWHERE = "import streamlit as st"


def all_right(count: int) -> list[str]:
    """Return what the app shows of so many entries that are all of the right classes."""
    return [f"{kind} True {count} []" for kind in ("root", "list", "dict")]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("place", ["main script", "pages folder"])
def test_a_scripts_classes_are_found(tmp_path: Path, opening: Opening, place: str) -> None:
    """Class, enum and value of every kind are right in every run and in other tabs, also under a list and a dict."""
    in_pages = place == "pages folder"
    write_app(tmp_path, ELSEWHERE if in_pages else FOR_A_USER)
    write_app(tmp_path, FOR_A_USER, "pages/kinds.py")
    first, second = opening(), opening()
    for tab in (first, second):
        if in_pages:
            tab.switch_page("pages/kinds.py").run()
    for count, (tab, way) in enumerate(((first, "In body"), (second, "By callback"), (first, "By callback")), start=1):
        click(tab, way)
        assert not tab.exception
        assert texts(tab) == all_right(count)
    assert texts(second.run()) == all_right(3)


PAGES = {"file": "kinds", "function": "", "module": "imports"}
NAVIGATION = 'st.navigation([st.Page(page, default=True), st.Page("kinds.py"), st.Page("imports.py")]).run()'


@pytest.mark.parametrize("place", PAGES)
def test_a_pages_classes_are_found(served: Served, visit: Visit, place: str) -> None:
    """The same where they lie with a file, a function or a module of `st.Page`, and in a rerun of a fragment."""
    files = {"kinds.py": HERE, "module.py": KINDS, "imports.py": "from module import page\npage()"}
    tab = visit(served(source(KINDS, NAVIGATION), files=files), page=PAGES[place])
    for count, way in enumerate(("In body", "By callback", "In fragment"), start=1):
        assert tab.click(way).exceptions() == []
        assert texts(tab)[-1] == ("fragment 3 []" if way == "In fragment" else all_right(count)[-1])
    assert texts(tab.rerun()) == all_right(3)
    with tab.reload() as again, tab.new_tab() as other:
        assert texts(again) == texts(other) == all_right(3)
        assert texts(again.click("By callback")) == all_right(4)
        assert again.exceptions() == []


UNPICKLABLE = """
    import streamlit as st
    from persist_session import persistent_state

    class Item:
        pass

    class AppState:
        def __init__(self):
            self.items = [Item() for _ in range(5)]
            self.count = 0

    def make():
        class Local:
            pass
        return Local

    with persistent_state("app-state", AppState, user="ada") as s:
        s.count += st.button("Count")
        st.text(f"count={s.count}")
        if st.button("Lambda"):
            s.items[3].callback = lambda: None
        if st.button("Secret"):
            s.items[3].by_name = {"secret word of a visitor": (n for n in [])}

    if st.button("Local root"):
        with persistent_state("local-state", make(), user="ada") as s:
            s.count = 1
"""


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("button", "parts"),
    [
        ("Lambda", [r"AppState\.items\[3\]\.callback", "made inside a function|lambda"]),
        ("Secret", [r"AppState\.items\[3\]\.by_name\[key 1\]", "generator"]),
        ("Local root", [r"make\.Local", "made inside a function"]),
    ],
)
def test_an_unpicklable_part_is_named(tmp_path: Path, opening: Opening, button: str, parts: list[str]) -> None:
    """The error says by which attributes it is reached and why, in no words of the visitor; the next run goes on."""
    write_app(tmp_path, UNPICKLABLE)
    tab = click(click(opening(), "Count"), button)
    error = error_of(tab)
    assert error.startswith("persist_session.errors.UnpicklableStateError: ")
    assert [part for part in parts if not re.search(part, error)] == []
    assert "secret word" not in error
    assert not tab.run().exception
    assert texts(tab) == texts(opening()) == ["count=1"]


# When they change

GONE = """
    import streamlit as st
    from persist_session import persistent_state

    class Kept:
        word = "kept"

    class AppState:
        def __init__(self):
            self.items = []

    with persistent_state("app-state", AppState, on_unloadable={mode!r}, user="ada") as s:
        if st.button("Add"):
            s.items.append(Kept())
        st.text(f"items={{len(s.items)}} {{[item.word for item in s.items]}}")
"""


@pytest.mark.filterwarnings("default")
def test_a_class_that_is_gone(tmp_path: Path, opening: Opening) -> None:
    """The error names class and remedy, the record stays byte for byte, and is served again once the class is back."""
    text = source(GONE).format(mode="raise")
    write_app(tmp_path, text)
    click(opening(), "Add")
    before = records(tmp_path)
    write_app(tmp_path, text.replace("Kept", "Renamed"))
    broken = opening()
    for tab in (broken, broken.run()):
        error = error_of(tab)
        assert error.startswith("persist_session.errors.UnloadableStateError: ")
        assert "Kept" in error
        assert "on_unloadable" in error
    assert records(tmp_path) == before
    write_app(tmp_path, text)
    assert texts(opening()) == ["items=1 ['kept']"]


@pytest.mark.filterwarnings("default")
def test_a_fresh_state_for_an_unloadable_one(tmp_path: Path, opening: Opening) -> None:
    """With on_unloadable="fresh" the visitor goes on with a fresh state, and the old record is kept aside."""
    text = source(GONE).format(mode="fresh")
    write_app(tmp_path, text)
    click(opening(), "Add")
    write_app(tmp_path, text.replace("Kept", "Renamed"))
    fresh = opening()
    assert (texts(fresh), len(fresh.exception)) == (["items=0 []"], 0)
    assert texts(click(fresh, "Add")) == texts(opening()) == ["items=1 ['kept']"]
    aside = [path for path in tmp_path.rglob("*") if path.is_file() and "aside" in path.name]
    assert len(aside) == 1


GROWING = """
    from dataclasses import dataclass, field
    from pathlib import Path
    import streamlit as st
    from persist_session import persistent_state

    {classes}

    def factory():
        with open(Path(__file__).parent / "called", "a") as called:
            called.write("x")
        return AppState()

    with persistent_state("app-state", factory, user="ada") as s:
        if st.button("Add"):
            {add}
        st.text(f"{show}")
"""

PLAIN = """
    class AppState:
        def __init__(self):
            self.words = []
"""

HOLDER = """
    class AppState:
        def __init__(self):
            self.items = []
"""

GROWN_ATTRIBUTE = """
    class AppState:
        def __init__(self):
            self.words = []
            self.more = ['new']
"""

GROWN_CLASS_ATTRIBUTE = """
    class AppState:
        more = 'new'
        def __init__(self):
            self.words = []
"""

DATACLASS = """
    @dataclass
    class AppState:
        words: list = field(default_factory=list)
"""

GROWN_DATACLASS = """
    @dataclass
    class AppState:
        more: list = field(default_factory=lambda: ['new'])
        words: list = field(default_factory=list)
        plain: int = 7
"""

NESTED = """
    @dataclass
    class Item:
        word: str
"""

GROWN_NESTED = """
    @dataclass
    class Item:
        word: str
        tags: list = field(default_factory=lambda: ['new'])
"""

SLOTS = """
    @dataclass(slots=True, frozen=True)
    class Item:
        word: str
        last: int = 3

    @dataclass(slots=True)
    class AppState:
        items: list = field(default_factory=list)
        end: str = 'end'
"""

GROWN_SLOTS = """
    @dataclass(slots=True, frozen=True)
    class Item:
        word: str
        middle: str = 'new'
        last: int = 0

    @dataclass(slots=True)
    class AppState:
        items: list = field(default_factory=list)
        middle: list = field(default_factory=lambda: ['new'])
        end: str = 'other'
"""

# Old and new classes; what a click adds; what is shown, before and after.
GROWTHS = {
    "plain class": (
        PLAIN,
        GROWN_ATTRIBUTE,
        "s.words.append('a')",
        "{s.words} {getattr(s, 'more', None)}",
        ["['a'] None", "['a'] ['new']"],
    ),
    "class attribute": (
        PLAIN,
        GROWN_CLASS_ATTRIBUTE,
        "s.words.append('a')",
        "{s.words} {getattr(s, 'more', None)}",
        ["['a'] None", "['a'] new"],
    ),
    "dataclass": (
        DATACLASS,
        GROWN_DATACLASS,
        "s.words.append('a')",
        "{s.words} {getattr(s, 'more', None)} {getattr(s, 'plain', None)}",
        ["['a'] None None", "['a'] ['new'] 7"],
    ),
    "dataclass in a list": (
        source(NESTED, HOLDER),
        source(GROWN_NESTED, HOLDER),
        "s.items.append(Item('a'))",
        "{[(i.word, getattr(i, 'tags', None)) for i in s.items]}",
        ["[('a', None)]", "[('a', ['new'])]"],
    ),
    "slots dataclass, a field in the middle": (
        SLOTS,
        GROWN_SLOTS,
        "s.items.append(Item('a'))",
        "{[(i.word, getattr(i, 'middle', None), i.last) for i in s.items]} {getattr(s, 'middle', None)} {s.end}",
        ["[('a', None, 3)] None end", "[('a', 'new', 3)] ['new'] end"],
    ),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("growth", GROWTHS)
def test_a_class_that_gained_attributes(tmp_path: Path, opening: Opening, growth: str) -> None:
    """After a deploy a saved state has its class's new attributes; no factory is called where none can be missing."""
    old, new, add, show, (before, after) = GROWTHS[growth]
    called = tmp_path / "called"

    def write(classes: str) -> None:
        text = source(GROWING)
        for name, part in (("classes", source(classes)), ("add", add), ("show", show)):
            text = text.replace("{" + name + "}", part)
        write_app(tmp_path, text)

    write(old)
    assert texts(click(opening(), "Add")) == texts(opening()) == [before]
    assert called.read_text() == "x", "one fresh state was made, and nothing can be missing in the other tab"
    write(new)
    grown = opening()
    assert (texts(grown), len(grown.exception)) == ([after], 0)
    click(grown, "Add")
    calls = called.read_text()
    assert len(texts(opening())) == 1
    assert called.read_text() == calls, "what was saved by the new class lacks nothing"
