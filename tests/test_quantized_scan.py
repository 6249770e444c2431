"""A scan on 4 bits with VFA: it selects, the reference ranks, the proof says so."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from astroray import catalog, ledger
from astroray.errors import ConfigError, LedgerError
from astroray.explain import explain_object
from astroray.inspection import verify_run
from astroray.nightly import NightConfig, run_night
from astroray.receipts import read_receipts
from astroray.run_record import QuantizedRef, RunRecord
from astroray_kernels.dispatch import why_not
from tests import scans
from tests.served_run import make_run

SURVEY = "sim:galaxies?count=120&seed=5&shard_rows=60&size=32&outliers=0.05"
TOP = 8

SETTINGS = {
    "encoder__name": "vit-tiny", "encoder__quantize": "osc-w4a4", "encoder__attention": "vfa",
    "search__top": TOP, "max_fit_rows": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run of the reference, made in this process: its numbers are those of a scan."""
    out = make_run(tmp_path_factory.mktemp("plain"), SURVEY, encoder="vit-tiny", k=3)
    return out, RunRecord.load(out)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("quantized") / "run")
    return out, scans.scan_here(SURVEY, out, **SETTINGS)


def embeddings(out):
    tables = [ledger.read_embeddings(out, r) for r in read_receipts(out).values()]
    return {
        row["object_id"]: np.array(row["embedding"], np.float32)
        for table in tables
        for row in table.select(["object_id", "embedding"]).to_pylist()
    }


def test_the_run_names_the_numbers_the_attention_and_both_models(plain, quantized):
    record = quantized[1]
    assert record.state == "done"
    assert record.backends.quantize.startswith("osc-w4a4 ")
    assert record.backends.attention.startswith("vfa ")
    assert plain[1].backends.quantize == "none"
    reference_id = plain[1].model.model_id
    assert record.model.quantized == QuantizedRef(
        choice="osc-w4a4", attention="auto", reference_id=reference_id
    )
    assert record.model.model_id != reference_id
    assert record.proof.model_id == reference_id
    assert record.proof.sentence.endswith(f"encoded again by model {reference_id}")
    assert f"of 120 objects that {record.backends.quantize} selected" in record.proof.sentence


def test_the_pass_itself_ran_on_fewer_bits(plain, quantized):
    exact, fast = embeddings(plain[0]), embeddings(quantized[0])
    assert exact.keys() == fast.keys()
    error = np.median([np.linalg.norm(fast[name] - exact[name]) for name in exact])
    size = np.median([np.linalg.norm(vector) for vector in exact.values()])
    assert 0.01 * size < error < 0.6 * size  # 12 tokens an object: 4 bits hardly average out


def test_the_shortlist_is_ranked_by_distances_of_the_reference(plain, quantized):
    exact = embeddings(plain[0])
    rows = catalog.read_catalog(quantized[0]).to_pylist()
    reference_id = plain[1].model.model_id
    ids = [row["model_id"] for row in rows]
    assert ids == [reference_id] * 2 * TOP + [quantized[1].model.model_id] * (120 - 2 * TOP)
    assert [row["certified"] for row in rows] == [True] * TOP + [False] * (120 - TOP)
    for row in rows[: 2 * TOP]:
        found = [
            np.linalg.norm(exact[row["object_id"]].astype(float) - exact[name])
            for name in row["neighbor_id"]
        ]
        # the run's attention is VFA in bf16, that of the plain one is not
        assert row["neighbor_distance"] == pytest.approx(found, rel=0.02)
        assert row["outlier_score"] == row["neighbor_distance"][-1]
    scores = [row["outlier_score"] for row in rows[: 2 * TOP]]
    assert scores == sorted(scores, reverse=True)


def test_its_list_stands_beside_that_of_the_reference(plain, quantized):
    lists = [
        [row["object_id"] for row in catalog.read_catalog(run[0]).slice(0, TOP).to_pylist()]
        for run in (plain, quantized)
    ]
    assert len(set(lists[0]) & set(lists[1])) >= 0.75 * TOP


def test_it_can_be_verified_and_its_report_says_what_was_done(quantized):
    out, record = quantized
    assert verify_run(out) == []
    with open(f"{out}/report/index.html", encoding="utf-8") as page:
        assert f"A pass in {record.backends.quantize} selected" in page.read()
    assert len(pq.read_table(f"{out}/neighbors")) == 120


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_workers_on_ray_and_the_same_command_on_a_done_run_end_in_the_same_catalog(
    ray_cluster, quantized, tmp_path
):
    expected = scans.catalog_bytes(quantized[0])
    scans.scan(SURVEY, tmp_path / "run", **SETTINGS)
    assert scans.catalog_bytes(tmp_path / "run") == expected
    scans.scan_here(SURVEY, tmp_path / "run", **SETTINGS)
    assert scans.catalog_bytes(tmp_path / "run") == expected


def test_a_model_that_decided_for_numbers_and_attention_runs_both_without_a_flag(tmp_path):
    model = scans.decide_model(SURVEY, tmp_path / "m.safetensors", choice="w8a8o", attention="vfa")
    record = scans.scan_here(SURVEY, tmp_path / "run", encoder__name=model, search__top=TOP)
    assert record.state == "done"
    assert record.backends.quantize.startswith("w8a8o ")
    if not why_not("vfa_attention", "native", "cpu"):
        assert record.backends.attention == "vfa native bf16"
    held = record.model.quantized
    assert (held.choice, held.attention) == ("w8a8o", "vfa")
    assert record.proof.model_id == held.reference_id


def test_a_list_of_two_spaces_bounds_no_night_and_its_scores_are_not_explained(quantized, tmp_path):
    out, record = quantized
    night = NightConfig(survey=SURVEY, reference=out, out=str(tmp_path / "night"))
    with pytest.raises(ConfigError, match="was selected on fewer bits"):
        run_night(night)
    first, *_, last = catalog.read_catalog(out)["object_id"].to_pylist()
    with pytest.raises(LedgerError, match=r"only the embeddings of .*, which selected it"):
        explain_object(out, first)
    assert explain_object(out, last).row["model_id"] == record.model.model_id
