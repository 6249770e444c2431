"""Whoever dies while a night is searched in parts, its files are those of a calm one."""

from pathlib import Path

import pytest

from astroray import faults, storage
from astroray.execution import workers
from astroray.neighbors import certificate
from astroray.search import night_index
from astroray.search.sharded import rank_sharded
from astroray.search.sharded_night import rank_night_sharded
from benchmarks.embedded_runs import begin_night, in_turn, plan_of, publish_shard
from tests import scans
from tests.deaths import die_at_each
from tests.test_nightly import scan
from tests.test_sharded_night import CONFIG, NEW, OLD, files_at, shrink

pytestmark = pytest.mark.faults

IMPORTS = f"""
from astroray.neighbors.search import SearchConfig
from astroray.neighbors import certificate
from astroray.search import night_index, sharded_night
from benchmarks.embedded_runs import in_turn, plan_of
night_index.LEAST_ROWS = 1
certificate.FIRST_BLOCK, certificate.LARGEST_BLOCK = 4, 8
plan_of_search = plan_of(sys.argv[1], {CONFIG!r})
"""
CALL = 'sharded_night.rank_night_sharded(plan_of_search, in_turn, reason="asked for")'
DEATHS = (
    ("publish.renamed", "layer-"), ("publish.written", "objects"), ("index.routed", "1"),
    ("index.partition", "4"), ("index.built", ""), ("index.manifest", ""),
    ("search.partitions", "queries-00001"), ("search.found", ""), ("search.file", ".parquet"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch):
    monkeypatch.setattr(night_index, "LEAST_ROWS", 1)
    monkeypatch.setattr(certificate, "FIRST_BLOCK", 4)  # decides what is searched, as in `calm`
    monkeypatch.setattr(certificate, "LARGEST_BLOCK", 8)
    yield
    faults.arm("")


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A reference with an index and the files of a night after it that nobody disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    scan(folder / "ref", OLD, CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        patch.setattr(night_index, "LEAST_ROWS", 1)
        rank_sharded(plan_of(str(folder / "ref"), CONFIG), in_turn, reason="asked for")
        night = begun(folder / "night", folder / "ref")
        rank_night_sharded(plan_of(night, CONFIG), in_turn, reason="asked for")
    return folder / "ref", files_at(folder / "night")


def begun(out: Path, reference: Path) -> str:
    begin_night(str(reference), str(out))
    for name, (ids, embedding_ND) in NEW.items():
        publish_shard(str(out), name, ids, embedding_ND)
    return str(out)


def test_a_driver_killed_at_each_point_of_a_night_goes_on_to_the_same_files(calm, tmp_path):
    reference, expected = calm
    night = begun(tmp_path / "night", reference)
    die_at_each(DEATHS, tmp_path, imports=IMPORTS, call=CALL, argument=night)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "reached").touch()
    faults.arm(str(tmp_path / "plan"))
    storage.remove_temporaries(night)  # as every run begins
    rank_night_sharded(plan_of(night, CONFIG), in_turn, reason="asked for")
    assert "index.partition" not in {point for point, _ in scans.reached(tmp_path / "plan")}
    assert files_at(tmp_path / "night") == expected


@pytest.mark.ray
def test_tasks_of_a_night_that_die_are_repeated_by_themselves(ray_cluster, calm, tmp_path):
    reference, expected = calm
    night = begun(tmp_path / "night", reference)
    tokens = [
        scans.token(tmp_path / "plan", "index.partition", "2"),
        scans.token(tmp_path / "plan", "search.partitions", "queries-00000"),
        scans.token(tmp_path / "plan", "search.found", ""),
    ]
    (tmp_path / "plan" / "reached").touch()
    faults.arm(str(tmp_path / "plan"))
    each = workers.each_remotely(num_cpus=0.5, at_once=2)
    rank_night_sharded(plan_of(night, CONFIG), each, reason="asked for")
    assert not any(token.exists() for token in tokens)
    steps = [point for point, _ in scans.reached(tmp_path / "plan")]
    own = [name for name in expected if name.startswith("index/partition-")]
    assert steps.count("index.partition") == len(own) + 1
    assert steps.count("search.found") == 2
    assert files_at(tmp_path / "night") == expected
