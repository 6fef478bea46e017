"""What another tab's save costs this one: `python -m tests.benchmarks.merge`. Ratios to `pickle.dumps` + `loads`."""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Callable
from typing import Any

from persist_session.objects.graft import become
from persist_session.objects.merge import merge


class Chat:
    """A chat, as an app would have it."""

    def __init__(self, number: int) -> None:
        self.title = f"chat {number}"
        self.messages = [{"role": "user", "content": f"message {n}"} for n in range(20)]


class Chats:
    """Chats, of which one is open."""

    def __init__(self, size: int) -> None:
        self.chats = {str(number): Chat(number) for number in range(size)}
        self.current = self.chats["0"]


def seconds(prepare: Callable[[], Any], work: Callable[[Any], Any], times: int = 7) -> float:
    """The median time of the work, without its preparation."""
    spent = []
    for _ in range(times):
        prepared = prepare()
        start = time.perf_counter()
        work(prepared)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def main() -> None:
    """Prints the ratios for states of some sizes."""
    for size in (10, 100, 1000):
        data = pickle.dumps(Chats(size))

        def sides(data: bytes = data) -> tuple[Any, Any, Any]:
            base, mine, theirs = (pickle.loads(data) for _ in range(3))
            mine.current.messages.append({"role": "user", "content": "mine"})
            theirs.current = theirs.chats["new"] = Chat(0)
            return base, mine, theirs

        round_trip = seconds(sides, lambda three: pickle.loads(pickle.dumps(three[0])))
        follow = seconds(sides, lambda three: become(three[0], three[2]))
        merged = seconds(sides, lambda three: merge(*three))
        print(f"{size} chats, {len(data)} bytes: follow {follow / round_trip:.1f}, merge {merged / round_trip:.1f}")


if __name__ == "__main__":
    main()
