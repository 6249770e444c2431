"""Benchmarks themselves: rows that cannot flatter, fresh processes that are watched."""

import json
import os
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from benchmarks import bare_loop, indexes, neighbors, processes, rows, scan
from benchmarks.rows import BenchRow, MeasurementError

NAMES = [
    "scan",
    "encode",
    "fit",
    "attcae",
    "neighbors",
    "sharded",
    "sharded_night",
    "cells",
    "similar",
    "scheduling",
    "nightly",
    "attention",
    "avx2",
    "instruction_peak",
    "quantization",
    "osc_speed",
    "flares",
    "forecast",
    "serve",
    "labels",
    "hyrax",
]


def row(**values):
    return BenchRow(**{"what": "speed", "goal": 2.0, "value": 2.0, **values})


def printed(measure, capsys, *flags):
    rows.run_benchmark("name", "A claim.", measure, ["--json", *flags])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    ("value", "is_at_most", "ok"),
    [(2.0, False, True), (1.9, False, False), (2.0, True, True), (2.1, True, False)],
)
def test_a_row_is_ok_on_the_right_side_of_its_goal(value, is_at_most, ok):
    assert row(value=value, is_at_most=is_at_most).ok is ok


def test_a_row_needs_a_value_or_else_a_reason():
    with pytest.raises(ValueError, match="expected a value or else a reason"):
        row(value=None)
    with pytest.raises(ValueError, match="expected a value or else a reason"):
        row(reason="but it has a value")


def test_a_row_that_could_not_be_measured_is_null_and_not_ok_and_says_why():
    def measure():
        raise MeasurementError("the peer is not installed")

    (found,) = rows.measured(
        [lambda **values: BenchRow(what="speed", goal=None, **values)], measure
    )
    assert not found.ok
    line = found.to_json()
    assert (line["value"], line["ok"], line["reason"]) == (None, False, "the peer is not installed")


def test_a_number_that_is_none_stops_the_json_instead_of_passing(capsys):
    with pytest.raises(ValueError, match="JSON"):
        printed(lambda quick, folder: [row(value=float("nan"))], capsys)


def test_measuring_must_give_as_many_rows_as_it_claims():
    with pytest.raises(ValueError, match="zip"):
        rows.measured([BenchRow, BenchRow], lambda: [{"what": "a", "goal": 1.0, "value": 1.0}])


def test_a_spread_is_the_median_with_the_range_of_all_runs():
    assert rows.spread([3.0, 1.0, 2.5]) == {"value": 2.5, "low": 1.0, "high": 3.0, "runs": 3}


def test_a_benchmark_ends_with_one_line_of_json_and_leaves_nothing_behind(capsys, tmp_path):
    def measure(quick, folder):
        (folder / "large.bin").write_bytes(b"0" * 10)
        yield row(facts={"objects": 3.0}, **rows.spread([1.23456789, 2.5]))

    document = printed(measure, capsys, "--quick", "--scratch", str(tmp_path / "new"))
    assert os.listdir(tmp_path / "new") == []
    assert document.keys() == {"name", "device", "versions", "commit", "when", "quick", "rows"}
    assert document["quick"] is True
    assert "cores" in document["device"]
    assert {"python", "torch", "ray"} <= document["versions"].keys()
    (line,) = document["rows"]
    wanted = "what value unit goal ok peer limit low high runs error"
    assert set(wanted.split()) <= line.keys()
    assert (line["value"], line["low"], line["runs"]) == (1.8673, 1.2346, 2)


HELP_OF_EACH = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    said, sys.argv = io.StringIO(), [name, "--help"]
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    print(name, "--quick" in said.getvalue(), sorted({"torch", "ray"} & sys.modules.keys()))
"""


def test_help_is_answered_without_torch_or_ray():
    command = [sys.executable, "-c", HELP_OF_EACH, *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} True []" for name in NAMES]


def test_a_fresh_process_returns_its_result_and_its_cpu_time():
    began_s = time.time()
    fresh = processes.run_fresh(_burn, 0.3, environment={"ASTRORAY_TEST_MARK": "1"})
    used_s, mark = fresh.value()
    assert mark == "1"
    assert "ASTRORAY_TEST_MARK" not in os.environ
    assert used_s >= 0.3
    assert fresh.cpu_s(began_s - 10, time.time() + 10) > 0


def test_a_fresh_process_that_fails_is_a_measurement_error():
    with pytest.raises(MeasurementError, match="_fail ended with exit code 3"):
        processes.run_fresh(_fail)


def test_a_killed_process_has_no_value_but_its_family_is_waited_for(monkeypatch):
    monkeypatch.setattr(processes, "SAMPLE_EVERY_S", 0.05)
    fresh = processes.run_fresh(_die_with_child, may_be_killed=True)
    assert fresh.result is None
    with pytest.raises(MeasurementError, match="killed"):
        fresh.value()
    assert time.time() - fresh.samples[-1].time_s >= 0.5  # the child outlives its parent


def test_memory_counts_what_a_child_of_the_process_holds(monkeypatch):
    monkeypatch.setattr(processes, "SAMPLE_EVERY_S", 0.05)
    fresh = processes.run_fresh(_hold_in_a_child, 200, with_memory=True)
    began_s, ended_s = fresh.value()
    assert fresh.peak_bytes(began_s, ended_s) > 200 * 2**20
    with pytest.raises(MeasurementError, match="no memory sample"):
        fresh.peak_bytes(ended_s + 100, ended_s + 101)


def test_the_steady_state_leaves_out_the_first_shards_and_the_lonely_end(monkeypatch):
    """Two workers; each shard takes 2 s of work and 1 s until the next, the start took longer."""
    done = [10.0, 11.5, 13.0, 14.5, 16.0, 17.5, 20.5]
    receipts = [(done_s, _Receipt(seconds=2.0)) for done_s in done]
    monkeypatch.setattr(scan, "_done", lambda out: receipts)
    per_s, cpu_s = scan.steady("out", _Fresh())
    # From 11.5 s, when both had published, to 16 s, when one had no more: 3 s a shard each.
    assert per_s == pytest.approx(2 * 100 / 3)
    assert cpu_s == pytest.approx(2 * 4.5 / 300)


def test_the_steady_state_needs_two_shards_of_each_worker(monkeypatch):
    receipts = [(10.0, _Receipt(seconds=2.0)), (10.5, _Receipt(seconds=2.0))]
    monkeypatch.setattr(scan, "_done", lambda out: receipts)
    with pytest.raises(MeasurementError, match="but one shard"):
        scan.steady("out", _Fresh())


def test_the_bare_loop_encodes_every_row_in_padded_batches(tmp_path):
    import torch

    from astroray.surveys.shards import SurveyUri
    from astroray.surveys.simulated import list_shards

    survey = "sim:galaxies?count=70&shard_rows=70"
    path = scan.fit_model(survey, str(tmp_path), "pca", 4)
    from astroray.encoders.store import load_model

    model = load_model(path)
    sizes = []
    embed = type(model).embed
    shard = list_shards([], SurveyUri.parse(survey))[0]
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(model), "embed", lambda self, batch: sizes.append(len(batch)) or embed(self, batch)
        )
        embedding_ND = bare_loop.embed_plainly(shard, model)
    assert embedding_ND.shape == (70, model.dim)
    assert sizes == [32, 32, 32]


def test_neighbors_are_compared_with_peers_before_time_is_taken(monkeypatch):
    embedding_ND = neighbors.make_embeddings(300, 8, seed=0)
    pairs = neighbors.against_faiss_of_drawn_alike(400, 1)
    assert pairs.error <= neighbors.LARGEST_ERROR
    assert len(pairs.ours_wall_s) == 1
    wrong_NK = np.tile(np.arange(neighbors.K + 1), (300, 1))
    with pytest.raises(MeasurementError, match="distances of neighbors differ"):
        neighbors._against(embedding_ND, lambda: wrong_NK, 1)


def test_each_index_proves_the_list_without_an_index_and_says_what_it_cost(tmp_path):
    embedding_ND = neighbors.make_embeddings(1000, 8, seed=0)
    flat = indexes.by_flat(embedding_ND)
    for found in (
        indexes.by_partitions(embedding_ND, str(tmp_path)),
        *(indexes.by_index(embedding_ND, kind) for kind in ("ivf-pq", "hnsw")),
    ):
        assert all(map(np.array_equal, found["top"], flat["top"]))
        assert (found["bound_N"][flat["top"][0]] >= flat["top"][1]).all()
        assert {"cpu_s", "memory_mb", "index_mb", "rescored"} <= set(found["facts"])


@pytest.mark.parametrize("against", [neighbors.against_faiss, neighbors.against_sklearn])
def test_peers_of_the_neighbor_search_find_the_same_distances(against):
    fields = against(400, 2).fields()
    assert fields["error"] <= neighbors.LARGEST_ERROR
    assert fields["runs"] == 2


def test_scores_of_pyod_are_compared_where_it_is_installed(monkeypatch):
    class Knn:
        """PyOD's face before scikit-learn, as the benchmark uses it."""

        factor = 1.0

        def __init__(self, n_neighbors):
            self.k = n_neighbors

        def fit(self, rows_ND):
            found = NearestNeighbors(n_neighbors=self.k).fit(rows_ND)
            self.decision_scores_ = self.factor * found.kneighbors()[0][:, -1]
            return self

    monkeypatch.setitem(sys.modules, "pyod.models.knn", types.SimpleNamespace(KNN=Knn))
    assert neighbors.against_pyod_knn(300, 2).fields()["error"] < 1e-6
    Knn.factor = 1.1
    with pytest.raises(MeasurementError, match=r"scores differ by 0.1"):
        neighbors.against_pyod_knn(300, 2)
    monkeypatch.setitem(sys.modules, "pyod.models.lof", None)
    with pytest.raises(MeasurementError, match="pip install pyod"):
        neighbors.against_pyod_lof(300, 2)


class _Receipt:
    rows_embedded = 100

    def __init__(self, *, seconds):
        self.seconds = seconds


class _Fresh:
    def cpu_s(self, begin_s, end_s):
        return 2 * (end_s - begin_s)


def _burn(seconds):
    while time.process_time() < seconds:
        sum(range(10_000))
    return time.process_time(), os.environ["ASTRORAY_TEST_MARK"]


def _fail():
    sys.exit(3)


def _die_with_child():
    code = "import os, time\nwhile os.getppid() == {}: time.sleep(0.01)\ntime.sleep(0.6)"
    subprocess.Popen([sys.executable, "-c", code.format(os.getpid())])
    time.sleep(0.5)  # so that the family has been seen
    os.kill(os.getpid(), 9)


def _hold_in_a_child(mebibytes):
    code = f"held = b'x' * ({mebibytes} << 20); print('held', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child.stdout.readline()
    began_s = time.time()
    time.sleep(0.5)
    ended_s = time.time()
    child.communicate(b"\n")
    return began_s, ended_s
