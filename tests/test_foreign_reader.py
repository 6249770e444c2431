"""Readers of one's own: the one that the documentation shows, and what is said of broken ones."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import astroray
from astroray.errors import ConfigError, ShardError
from astroray.surveys import modality_of

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
(SHOWN,) = re.findall(
    r"^```python\n(\"\"\"Stacks of cutouts.*?)^```", PAGE, re.DOTALL | re.MULTILINE
)


@pytest.fixture
def survey(tmp_path, monkeypatch):
    """Two stacks of our camera, and the reader of the documentation on the path."""
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "__init__.py").write_text("")
    (tmp_path / "shown" / "reader.py").write_text(SHOWN)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "shown"]:
        monkeypatch.delitem(sys.modules, name)
    for number in range(2):
        stack = np.random.default_rng(number).normal(size=(5, 3, 64, 64)).astype("<f4")
        (tmp_path / f"n{number}.stk").write_bytes(bytes(64) + stack.tobytes())
    return tmp_path


def test_the_documented_reader_reads_its_files(survey):
    shards = astroray.list_shards(f"{survey}/*.stk?format=shown.reader").shards
    assert [shard.reader for shard in shards] == ["shown.reader"] * 2
    assert modality_of(shards[0]) == "images"
    (rows,) = astroray.read_shard(shards[1])
    stack = np.random.default_rng(1).normal(size=(5, 3, 64, 64)).astype("<f4")
    np.testing.assert_array_equal(rows.image_BCYX, stack)
    (some,) = astroray.read_shard(shards[1], rows=[4, 2])
    assert list(some.object_id_B) == [rows.object_id_B[2], rows.object_id_B[4]]
    (survey / "n0.stk").write_bytes(bytes(100))
    with pytest.raises(ShardError, match="100 bytes, which is no whole stack"):
        list(astroray.read_shard(shards[0]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"reader shown\.broken cannot be imported: No module named .* PYTHONPATH"),
        ("import nowhere_to_be_found", "cannot be imported: No module named 'nowhere"),
        ("def list_shards(inputs, uri): return []", r"has no read_shard, expected list_shards\("),
        (SHOWN + "\nMODALITY = 'movies'\n", "MODALITY of the reader .* is 'movies', expected"),
    ],
)
def test_a_module_that_is_no_reader_is_refused_with_what_it_lacks(survey, text, message):
    if text is not None:
        (survey / "shown" / "broken.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        astroray.list_shards(f"{survey}/*.stk?format=shown.broken")


def test_a_mistyped_format_names_those_that_there_are(survey):
    with pytest.raises(
        ConfigError, match=r"format is 'fitz', expected one of .*'fields'.*your own"
    ):
        astroray.list_shards(f"{survey}/*.stk?format=fitz")
