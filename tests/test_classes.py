"""Classes wherever an app may define them, and what becomes of a state when its classes change."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import pytest

from support import Visitor, write_app

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Serve, Served, Visit

    from support import AppServer


def source(*parts: str) -> str:
    """Return one source of several."""
    return "\n".join(textwrap.dedent(part) for part in parts)


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
        with persistent_state("list-state", list) as s:
            s.append(one_of_each(len(s)))

    def add_to_dict():
        with persistent_state("dict-state", dict) as s:
            s[len(s)] = one_of_each(len(s))

    def add_to_root():
        with persistent_state("root-state", AppState) as s:
            s.all.append(one_of_each(len(s.all)))

    def add_to_all():
        add_to_list()
        add_to_dict()
        add_to_root()

    def page():
        st.button("By callback", on_click=add_to_all)
        if st.button("In body"):
            add_to_all()
        with persistent_state("root-state", AppState) as s:
            show(f"root {type(s) is AppState}", s, s.all)
        with persistent_state("list-state", list) as s:
            show(f"list {type(s) is list}", s, s)
        with persistent_state("dict-state", dict) as s:
            show(f"dict {type(s) is dict}", s, list(s.values()))

        @st.fragment
        def part():
            if st.button("In fragment"):
                add_to_all()
                with persistent_state("root-state", AppState) as s:
                    show("fragment", s, s.all)

        part()
"""

HERE = source(KINDS, "page()")
ELSEWHERE = "import streamlit as st"
NAVIGATION = 'import streamlit as st\nst.navigation([st.Page("kinds.py", default=True), st.Page("other.py")]).run()'
FUNCTION = source(KINDS, 'st.navigation([st.Page(page, default=True), st.Page("other.py")]).run()')

PLACES = {
    "main script": (HERE, {}, ""),
    "pages folder": (ELSEWHERE, {"pages/kinds.py": HERE}, "kinds"),
    "st.Page file": (NAVIGATION, {"kinds.py": HERE, "other.py": ELSEWHERE}, ""),
    "st.Page function": (FUNCTION, {"other.py": ELSEWHERE}, ""),
    "module": ("from kinds import page\npage()", {"kinds.py": KINDS}, ""),
}


@pytest.fixture(params=PLACES, scope="module")
def place(request: pytest.FixtureRequest, served: Served) -> tuple[AppServer, str]:
    """Return a server whose classes lie in one of the places, and the path of the page that uses them."""
    app, files, page = PLACES[request.param]
    return served(app, files=files), page


def shown(tab: Visitor) -> list[str]:
    """Return what the app shows by st.text."""
    return [element.text for element in tab.find("text")]


def all_right(count: int) -> list[str]:
    """Return what the app shows of so many entries that are all of the right classes."""
    return [f"{kind} True {count} []" for kind in ("root", "list", "dict")]


@pytest.mark.parametrize("way", ["In body", "By callback", "In fragment"])
def test_classes_are_found_wherever_they_lie(place: tuple[AppServer, str], visit: Visit, way: str) -> None:
    """Class, enum and value of every kind are right in every run and after a reload, also under a list and a dict."""
    server, page = place
    tab = visit(server, page=page)
    for count in (1, 2, 3):
        assert tab.click(way).exceptions() == []
        if way == "In fragment":
            assert shown(tab)[3:] == [f"fragment {count} []"]
            continue
        assert shown(tab) == all_right(count)
    assert shown(tab.rerun()) == all_right(3)
    with tab.reload() as again:
        assert (shown(again), again.exceptions()) == (all_right(3), [])
        with visit(server, page=page):  # another visitor's run comes between
            assert shown(again.click("By callback")) == all_right(4)


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

    with persistent_state("app-state", AppState) as s:
        s.count += st.button("Count")
        st.text(f"count={s.count}")
        if st.button("Lambda"):
            s.items[3].callback = lambda: None
        if st.button("Local"):
            s.items[3].made = make()()
        if st.button("Lock"):
            import threading
            s.items[3].by_name = {"lock": threading.Lock()}
        if st.button("Secret"):
            s.items[3].by_name = {"secret word of a visitor": (n for n in [])}

    if st.button("Local root"):
        with persistent_state("local-state", make()) as s:
            s.count = 1
"""


@pytest.mark.parametrize(
    ("button", "parts"),
    [
        ("Lambda", [r"AppState\.items\[3\]\.callback", "made inside a function|lambda"]),
        ("Local", [r"AppState\.items\[3\]\.made", r"make\.Local"]),
        ("Lock", [r"AppState\.items\[3\]\.by_name\['lock'\]", "lock"]),
        ("Secret", [r"AppState\.items\[3\]\.by_name\[\.\.\.\]", "generator"]),
        ("Local root", [r"make\.Local", "made inside a function"]),
    ],
)
def test_an_unpicklable_part_is_named(served: Served, visit: Visit, button: str, parts: list[str]) -> None:
    """The error says by which attributes the culprit is reached and why; a visitor's own words are not shown."""
    tab = visit(served(UNPICKLABLE)).click("Count")
    # Twice: the first load of another name asks the browser, and the answer's run takes the error off the page.
    (error,) = tab.click(button).click(button).exceptions()
    assert error.startswith("persist_session.errors.UnpicklableStateError: ")
    assert [part for part in parts if not re.search(part, error)] == []
    assert "secret word" not in error
    assert tab.rerun().exceptions() == []
    assert shown(tab) == ["count=1"]


def records(server: AppServer) -> dict[Path, bytes]:
    """Return all records in the default store."""
    return {path: path.read_bytes() for path in server.data_folder.rglob("*.pickle")}


GONE = """
    import streamlit as st
    from persist_session import persistent_state

    class Kept:
        word = "kept"

    class AppState:
        def __init__(self):
            self.items = []

    with persistent_state("app-state", AppState, on_unloadable={mode!r}) as s:
        if st.button("Add"):
            s.items.append(Kept())
        st.text(f"items={{len(s.items)}} {{[item.word for item in s.items]}}")
"""


def edit(server: AppServer, text: str) -> None:
    """Deploy another version of the app: the server is killed and started again."""
    server.kill()
    write_app(server.app.parent, text)
    server.start()


def test_a_class_that_is_gone_leaves_the_record_alone(serve: Serve, visit: Visit) -> None:
    """The error names class and remedy, the record stays byte for byte, and is served again once the class is back."""
    text = source(GONE).format(mode="raise")
    server = serve(text)
    tab = visit(server).click("Add")
    before = records(server)
    tab.close()
    edit(server, text.replace("Kept", "Renamed"))
    with tab.new_tab() as broken:
        (error,) = broken.exceptions()
        assert error.startswith("persist_session.errors.UnloadableStateError: ")
        assert "Kept" in error
        assert "on_unloadable" in error
        assert broken.rerun().exceptions() == [error]
    assert records(server) == before
    edit(server, text)
    with tab.new_tab() as healed:
        assert (shown(healed), healed.runs) == (["items=1 ['kept']"], 1)


def test_a_fresh_state_in_place_of_an_unloadable_one(serve: Serve, visit: Visit) -> None:
    """With on_unloadable="fresh" the visitor goes on with a fresh state, and the old record is kept aside."""
    text = source(GONE).format(mode="fresh")
    server = serve(text)
    tab = visit(server).click("Add")
    ((path, data),) = records(server).items()
    tab.close()
    edit(server, text.replace("Kept", "Renamed"))
    with tab.new_tab() as fresh:
        assert (shown(fresh), fresh.exceptions()) == (["items=0 []"], [])
        assert shown(fresh.click("Add")) == ["items=1 ['kept']"]
        assert shown(fresh.reload()) == ["items=1 ['kept']"]
    (aside,) = path.parent.glob("*.aside")
    assert data.partition(b"\n")[2] in aside.read_bytes()


GROWING = """
    from dataclasses import dataclass, field
    from pathlib import Path
    import streamlit as st
    from persist_session import persistent_state

    {classes}

    def factory():
        with open("called", "a") as called:
            called.write("x")
        return AppState()

    with persistent_state("app-state", factory) as s:
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


@pytest.mark.parametrize("growth", GROWTHS)
def test_a_class_that_gained_attributes_fills_them_in(serve: Serve, visit: Visit, growth: str) -> None:
    """After a deploy a saved state has its class's new attributes; no factory is called where none can be missing."""
    old, new, add, show, (before, after) = GROWTHS[growth]

    def app(classes: str) -> str:
        text = source(GROWING)
        for name, part in (("classes", source(classes)), ("add", add), ("show", show)):
            text = text.replace("{" + name + "}", part)
        return text

    server = serve(app(old))
    called = server.app.parent / "called"
    tab = visit(server)
    assert shown(tab.click("Add")) == [before]
    calls = len(called.read_text())
    assert calls == 1, "one fresh state was made"
    server.kill()
    tab.close()
    server.start()
    with tab.new_tab() as again:
        assert shown(again.rerun()) == [before]
    assert len(called.read_text()) == calls, "the class is the same: nothing can be missing"
    edit(server, app(new))
    with tab.new_tab() as grown:
        assert (shown(grown), grown.runs, grown.exceptions()) == ([after], 1, [])
        grown.click("Add")
        calls = len(called.read_text())
        with grown.reload() as again:
            assert again.exceptions() == []
            assert len(shown(again)) == 1
    assert len(called.read_text()) == calls, "what was saved by the new class lacks nothing"
