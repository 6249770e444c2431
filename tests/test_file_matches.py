"""Rows and files that are joined by hashes, a piece at a time, are those of a plain look-up."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from astroray.errors import ConfigError
from astroray.surveys import file_matches
from astroray.surveys.file_matches import NamedRows, match_files
from astroray.surveys.objects import Objects, basename, stem

NAMES = st.sampled_from(
    ["1", "1.fits", "1.jpg", "2.jpg", "a/1.jpg", "b/1.jpg", "x/a/1.jpg", "J1.5+2", ""]
)
FILES = st.sampled_from(
    ["/s/1.jpg", "/s/a/1.jpg", "/s/b/1.jpg", "/s/x/a/1.jpg", "/s/2.png", "/s/J1.5+2.fits"]
)


def folders(text: str) -> list[str]:
    return text.split("/")[-2::-1]


def plain(names: list[str], path: str) -> list[int]:
    """The rows that fit a file best, by the rule as `ObjectTable.by_file` says it."""
    own = basename(path)
    keys = [{basename(name), stem(basename(name))} if name else set() for name in names]
    rows = [row for row, key in enumerate(keys) if own in key]
    rows = rows or [row for row, key in enumerate(keys) if stem(own) in key]

    def shared(row: int) -> int:
        pairs = list(zip(folders(names[row]), folders(path), strict=False))
        return next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))

    return [row for row in rows if shared(row) == max(map(shared, rows))]


def pieces(names: list[str], step: int) -> Iterator[NamedRows]:
    for start in range(0, len(names), step):
        own = range(start, min(start + step, len(names)))
        row_B = np.array(own, np.float64)
        objects = Objects(object_id_N=[f"J{i}" for i in own], ra_deg_N=row_B, dec_deg_N=-row_B / 9)
        yield NamedRows(objects=objects, names=names[own.start : own.stop])


@given(
    names=st.lists(NAMES, min_size=1, max_size=8),
    paths=st.lists(FILES, min_size=1, max_size=6, unique=True),
    step=st.integers(1, 4),
    max_pairs=st.integers(1, 5),
)
def test_the_join_is_that_of_a_plain_look_up(names, paths, step, max_pairs):
    assume(any(names))  # the table says so before
    paths = sorted(paths)
    best = [plain(names, path) for path in paths]
    chosen = [rows[0] for rows in best if rows]
    is_refused = not chosen or any(len(rows) > 1 for rows in best) or len(set(chosen)) < len(chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_matches, "_MAX_PAIRS", max_pairs)
        patch.setattr(file_matches, "FILES_AT_ONCE", 2)
        found = match_files(lambda: pieces(names, step), paths, "/s", where="t", step=step)
        if is_refused:
            with pytest.raises(ConfigError):
                list(found)
            return
        objects = Objects.joined(list(found))
    own = Objects.from_files(paths, "/s")
    expected = [f"J{rows[0]}" if rows else own.object_id_N[i] for i, rows in enumerate(best)]
    assert list(objects.object_id_N) == expected
    np.testing.assert_array_equal(objects.ra_deg_N, [rows[0] if rows else np.nan for rows in best])
