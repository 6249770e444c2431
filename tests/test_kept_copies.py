"""Copies of remote files are fetched once a machine, and take no more room than they may."""

import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from astroray.actors import publish
from astroray.search import indexing
from astroray.search.sharded import rank_sharded
from astroray.storage import kept_copies, object_store
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search

PATH = "s3://sky/run/index/partition-0.arrow"


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, as of a process that begins."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept_copies._folder_in.cache_clear()
    yield tmp_path
    kept_copies._folder_in.cache_clear()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of a store was fetched; its version is what stands before the slash."""
    counts: Counter[str] = Counter()

    def get_file(path, file, span=""):
        counts[path] += 1
        file.write(path.encode() * 100)

    monkeypatch.setattr(object_store, "head", lambda path: (100 * len(path), path[-1]))
    monkeypatch.setattr(object_store, "get_file", get_file)
    return counts


def copies(parent: Path) -> list[Path]:
    return [path for path in parent.glob("astroray-copies-*/*") if path.name != "lock"]


def test_a_file_is_fetched_once_however_many_ask_for_it_at_once(parent, fetched):
    assert kept_copies.find_copy(PATH) is None
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(kept_copies.kept_copy, [PATH] * 8))
    assert {bytes(data) for data in found} == {PATH.encode() * 100}
    assert bytes(kept_copies.find_copy(PATH) or b"") == PATH.encode() * 100
    assert fetched == {PATH: 1}
    assert len(copies(parent)) == 1


def test_another_version_of_a_file_is_fetched_anew(parent, fetched, monkeypatch):
    kept_copies.kept_copy(PATH)
    monkeypatch.setattr(object_store, "head", lambda path: (100 * len(path), "later"))
    assert kept_copies.find_copy(PATH) is None
    kept_copies.kept_copy(PATH)
    assert fetched == {PATH: 2}


def test_what_was_not_asked_for_longest_makes_room_and_stays_readable(parent, fetched, monkeypatch):
    size = 100 * len(PATH)
    usage = type("Usage", (), {"free": 5 * size})()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    first, *_ = (kept_copies.kept_copy(f"{PATH[:-1]}{name}") for name in "abc")
    usage.free = 0  # half of three is room for one
    kept_copies.kept_copy(f"{PATH[:-1]}d")
    assert len(copies(parent)) == 1
    assert bytes(first) == f"{PATH[:-1]}a".encode() * 100


def test_a_file_that_is_too_large_to_keep_is_the_process_s_own(parent, fetched, monkeypatch):
    usage = type("Usage", (), {"free": 100})()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert bytes(kept_copies.kept_copy(PATH)) == PATH.encode() * 100
    assert not copies(parent)


def test_what_killed_processes_have_left_is_removed_by_the_next_one(parent, fetched):
    folder = parent / f"astroray-copies-{os.getuid()}"
    folder.mkdir(mode=0o700)
    (folder / "left").write_bytes(b"a copy")
    (folder / "begun.part").write_bytes(b"half")
    kept_copies.kept_copy(PATH)
    assert len(copies(parent)) == 1
    with open(folder / "lock", "ab") as lock:
        kept_copies._remove_if_last(folder, lock.fileno())
    assert len(copies(parent)) == 1  # this process lives
    kept_copies.clear()
    assert not copies(parent)


def test_half_a_copy_that_was_left_is_fetched_whole(parent, fetched):
    kept_copies.kept_copy(PATH)
    (copy,) = copies(parent)
    copy.unlink()
    copy.with_suffix(".part").write_bytes(b"half")
    assert bytes(kept_copies.kept_copy(PATH)) == PATH.encode() * 100


def test_a_folder_that_others_may_write_to_is_not_used(parent, fetched, caplog):
    kept_copies.kept_copy(PATH)
    folder = copies(parent)[0].parent
    kept_copies.clear()
    folder.chmod(0o777)
    kept_copies._folder_in.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert bytes(kept_copies.kept_copy(PATH)) == PATH.encode() * 100
    assert "is not a folder of this user alone" in caplog.text
    assert not copies(parent)


@pytest.mark.s3
def test_a_search_fetches_each_file_of_its_index_once_a_machine(s3, monkeypatch):
    run_dir = make_embedded(
        f"{s3.new_prefix()}/run",
        np.random.default_rng(2).normal(size=(300, 4)).astype(np.float32),
        [f"object-{i:03d}" for i in range(300)],
        rows_each=100,
    )
    monkeypatch.setattr(indexing, "LEAST_ROWS", 100)
    monkeypatch.setattr(publish, "ROWS_AT_ONCE", 50)
    whole: list[str] = []
    get_file = object_store.get_file

    def noted(path, file, span=""):
        whole.extend([path] * (not span))
        return get_file(path, file, span)

    monkeypatch.setattr(object_store, "get_file", noted)
    rank_sharded(plan_search(run_dir, top=10, k=3), in_turn, reason="")
    lists = [path for path in whole if "-near-" in path or "-scores-" in path]
    assert len(lists) == len(set(lists)) == 6
