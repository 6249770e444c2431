"""How the tasks of a stage are run, wherever that is, and who is told how far they are."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

__all__ = ["Each", "Note", "noted", "run_all"]


class Each(Protocol):
    """Runs a function on each tuple of arguments; yields place and result as they come."""

    def __call__(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], /
    ) -> Iterator[tuple[int, Any]]: ...


Note = Callable[[str, int, int], None]
"""Is told what is being done, how many tasks of it are done, and of how many."""

_WORDS = {
    "damage": "checking the index",
    "identify": "checking embeddings",
    "number_objects": "numbering objects",
    "choose_cells": "finding cells",
    "route": "sorting vectors by cell",
    "build": "building partitions",
    "search_cells": "searching cells",
    "measure_moments": "further scores, moments",
    "measure_squares": "further scores, spread",
    "score_vectors": "further scores, neighbors",
    "measure_reach": "further scores, densities",
    "lay_out": "laying out the catalog",
    "write_file": "writing the catalog",
    "finish": "joining the catalog",
    "read_before": "reading the scores before",
    "number_night": "numbering objects",
    "finish_night": "writing what was searched",
}


def noted(each: Each, note: Note, what: str = "") -> Each:
    """The same as `each`, which says how far it is; `what` is done, else what the tasks do."""

    def run(
        function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], /
    ) -> Iterator[tuple[int, Any]]:
        words = what or _WORDS[function.__name__]
        note(words, 0, len(arguments))
        for done, found in enumerate(each(function, arguments), start=1):
            note(words, done, len(arguments))
            yield found

    return run


def run_all(
    each: Each, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """The results of all tasks, in the order of their arguments."""
    results = dict(each(function, arguments))
    return [results[place] for place in range(len(arguments))]
