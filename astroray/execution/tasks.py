"""Ray tasks on their way: what they are told, and which is begun once more because it is late."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["LOOK_S", "Tasks", "put_once"]

LATE_FACTOR, LATE_S = 4.0, 60.0
"""A task is late after so many times the median of the others', and so many seconds at least."""
LOOK_S = 1.0
"""How often it is looked for late ones."""
PLAIN_VALUES = (str, int, float, bool, type(None))


class Tasks:
    """Tasks on their way, by the reference of their result: place, arguments, and when begun."""

    def __init__(self, begin: Callable[..., Any]) -> None:
        self._begin = begin
        self.running: dict[Any, tuple[int, tuple[Any, ...], float]] = {}
        self._took_s: list[float] = []
        """Of the tasks that have ended."""

    def begin(self, place: int, args: tuple[Any, ...]) -> None:
        self.running[self._begin(*args)] = (place, args, time.monotonic())

    def end(self, ended: Any) -> int:
        """The place of a task that has ended; a second one for it is cancelled."""
        import ray

        place, _, begun_s = self.running.pop(ended)
        self._took_s.append(time.monotonic() - begun_s)
        for other in [one for one, (its, *_) in self.running.items() if its == place]:
            del self.running[other]
            ray.cancel(other)
        return place

    def repeat_late(self, at_most: int) -> None:
        """Begins once more those that run LATE_FACTOR times as long as others took."""
        if not self._took_s:
            return
        late_s = max(LATE_S, LATE_FACTOR * statistics.median(self._took_s))
        count = Counter(place for place, *_ in self.running.values())
        late = [
            (place, args)
            for place, args, begun_s in self.running.values()
            if count[place] == 1 and time.monotonic() - begun_s > late_s
        ]
        for place, args in late[:at_most]:
            self.begin(place, args)


def put_once(arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The same arguments; what occurs more than once, but plain values, is in Ray's store."""
    import ray

    times = Counter(id(value) for args in arguments for value in args)
    stored: dict[int, Any] = {}
    for args in arguments:
        for value in args:
            key = id(value)
            if times[key] > 1 and key not in stored and not isinstance(value, PLAIN_VALUES):
                stored[key] = ray.put(value)
        yield tuple(stored.get(id(value), value) for value in args)
