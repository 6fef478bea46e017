"""A list of dataclasses with an enum, changed in callbacks. Its classes live in this page file."""

from dataclasses import dataclass, field
from enum import Enum

import streamlit as st

from persist_session import persistent_state


class Show(Enum):
    ALL = "All"
    OPEN = "Open"
    DONE = "Done"


@dataclass
class Task:
    text: str
    done: bool = False


@dataclass
class Todo:
    tasks: list[Task] = field(default_factory=list)
    show: Show = Show.ALL

    def visible(self) -> list[Task]:
        wanted = {Show.ALL: (True, False), Show.OPEN: (False,), Show.DONE: (True,)}[self.show]
        return [task for task in self.tasks if task.done in wanted]


def add() -> None:
    if text := st.session_state.new_task.strip():
        todo.tasks.append(Task(text))
    st.session_state.new_task = ""


def pick() -> None:
    todo.show = st.session_state.show


def tick(task: Task) -> None:
    task.done = not task.done


def drop(task: Task) -> None:
    todo.tasks.remove(task)


with persistent_state("demo-todo", Todo) as todo:
    st.text_input("What is to be done?", key="new_task", on_change=add, placeholder="A task, then Enter")
    st.session_state.show = todo.show  # the widget shows what is kept
    st.segmented_control("Show", Show, key="show", on_change=pick, required=True, format_func=lambda show: show.value)
    for number, task in enumerate(todo.visible()):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.checkbox(task.text, task.done, key=f"{number}-{task}", on_change=tick, args=(task,), width="stretch")
            st.button(":material/delete:", key=f"drop-{number}", type="tertiary", on_click=drop, args=(task,))
