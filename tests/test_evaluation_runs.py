"""Evaluations from the command line to the page, on small made-up sets."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from astroray.actors.sample import Sample
from astroray.cli import cli
from astroray.encoders import read_model_file
from astroray.encoders.pretrained import object_hash
from astroray.encoders.store import load_model, save_model
from astroray.errors import ConfigError
from astroray.evaluation import compared, models, runs, scoring
from astroray.evaluation.label_tables import open_protocol
from astroray.evaluation.models import embed, fit_model, take_sample, was_trained_on
from astroray.evaluation.pictures import Pictures
from astroray.evaluation.runs import EvaluationConfig, evaluate_outliers
from tests import labelled_made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    labelled_made.make_mirabest(folder)
    return str(labelled_made.make_efigi(folder))


@pytest.fixture(autouse=True)
def few_passes(monkeypatch):
    monkeypatch.setattr(models, "NUM_PASSES", 2)
    monkeypatch.setattr(models, "NUM_THREADS", 1)
    monkeypatch.setattr(scoring, "NUM_RESAMPLES", 40)


def evaluate(data, out, *arguments):
    command = ["evaluate", "outliers", "--protocol", "efigi", "--data", data, "--out", str(out)]
    return CliRunner().invoke(cli, [*command, *arguments])


def config(data, out, **options):
    settings = {"protocol": "efigi", "encoders": ("pca",), "num_seeds": 1, "data": data}
    return EvaluationConfig(**(settings | options | {"out": str(out)}))


@pytest.fixture(scope="module")
def sampled(data, tmp_path_factory):
    """The pictures of the efigi protocol and the sample of its first seed."""
    pictures = Pictures(open_protocol("efigi", data=data))
    folder = str(tmp_path_factory.mktemp("fits"))
    return pictures, take_sample(pictures, pictures.protocol.fit_rows(0), folder)


def test_the_command_ends_with_a_table_a_page_and_one_line_of_json(data, tmp_path):
    result = evaluate(data, tmp_path, "--encoders", "attcae", "--seeds", "1", "--json")
    assert result.exit_code == 0, result.output
    lines = result.output.strip().splitlines()
    document = json.loads(lines[-1])
    assert document["complete"] is True
    assert {row["encoder"] for row in document["rows"]} == {
        *compared.ALWAYS["images"],
        "attcae",
    }
    assert {row["subset"] for row in document["rows"]} == {"S1", "S2", "S3", "S4", "S5", "R1"}
    for row in document["rows"]:
        assert set(row) >= {"what", "value", "unit", "goal", "ok", "peer", "limit", "low", "high"}
        assert row["low"] <= row["value"] <= row["high"] or row["metric"] == "recall"
    against = {(row["encoder"], row["peer"]) for row in document["rows"] if row["peer"]}
    assert ("pca", "attcae") in against
    assert ("attcae", "pixels") in against
    assert ("attcae", "attcae") not in against
    assert "recall - attcae" in result.output
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == document["rows"]
    page = (tmp_path / "index.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("Outliers ranked highest") >= 12  # six subsets, two encoders


def test_an_encoder_with_a_setting_stands_beside_itself(data, tmp_path):
    asked = ("rings?latent=7", "rings", "rings?latent=7")
    evaluation = evaluate_outliers(config(data, tmp_path, encoders=asked))
    document = evaluation.document
    assert list(document["encoders"])[-2:] == ["rings?latent=7", "rings"]
    seven, plain = (document["encoders"][label] for label in ("rings?latent=7", "rings"))
    assert (seven["name"], seven["settings"]) == ("rings", {"latent": 7})
    assert plain["settings"] == {}
    assert seven["model_ids"] != plain["model_ids"]
    dims = {
        file.model_id: file.dim
        for path in (tmp_path / "fits").glob("*/rings-*.safetensors")
        for file in [read_model_file(str(path))]
    }
    assert dims[seven["model_ids"][0]] == 7
    assert dims[plain["model_ids"][0]] > 7
    (row,) = (
        row
        for row in document["rows"]
        if row["what"] == "efigi S5 rings?latent=7 kth: recall minus rings"
    )
    assert row["low"] <= row["value"] <= row["high"]


def test_every_row_of_an_encoder_has_its_metrics_and_seconds(data, tmp_path):
    rows = evaluate_outliers(config(data, tmp_path, scores=("kth", "mean"))).document["rows"]
    (row,) = (r for r in rows if r["what"] == "efigi S5 pca mean: recall")
    assert {"auc", "recall", "recall_at_5", "recall_at_10", "recall_at_15", "lift"} <= set(
        row["facts"]
    )
    assert {"fit_s", "encode_s", "index_s", "query_s"} <= set(row["facts"])
    assert row["facts"]["lift"] == pytest.approx(row["value"] / row["contamination"], rel=1e-3)


def test_a_second_call_takes_everything_from_the_first(data, tmp_path, monkeypatch):
    first = evaluate_outliers(config(data, tmp_path, encoders=("cae",)))

    def refuse(*arguments, **options):
        raise AssertionError("done again")

    monkeypatch.setattr(models, "run_passes", refuse)
    monkeypatch.setattr(models, "_encode", refuse)
    monkeypatch.setattr(scoring, "_score", refuse)
    again = evaluate_outliers(config(data, tmp_path, encoders=("cae",)))
    assert again.table.partition("seconds")[0] == first.table.partition("seconds")[0]


def test_scores_beyond_the_distance_are_rows_of_their_own(data, tmp_path):
    evaluation = evaluate_outliers(
        config(data, tmp_path, encoders=("cae",), scores=("kth", "lof", "reconstruction"))
    )
    rows = evaluation.document["rows"]
    assert {r["score"] for r in rows if r["value"] is not None} >= {"kth", "lof"}
    missing = [r for r in rows if r["encoder"] == "pca" and r["score"] == "reconstruction"]
    assert all(r["value"] is None and not r["ok"] for r in missing)
    assert missing[0]["reason"] == "it does not reconstruct its input"


def test_an_encoder_minus_itself_differs_by_nothing(data, tmp_path):
    path = tmp_path / "pixels.safetensors"
    evaluate_outliers(config(data, tmp_path / "first"))
    (made,) = (tmp_path / "first").glob("fits/*/pixels-seed0-*.safetensors")
    path.write_bytes(made.read_bytes())
    rows = evaluate_outliers(config(data, tmp_path / "out", encoders=(str(path),))).document["rows"]
    label = f"pixels:{read_model_file(str(path)).model_id[:8]}"
    own = [row for row in rows if row["encoder"] == label and row["peer"] == "pixels"]
    assert len(own) == 12
    assert all((row["value"], row["low"], row["high"]) == (0, 0, 0) for row in own)


def test_what_the_budget_did_not_reach_is_a_row_with_a_reason(data, tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(runs.time, "monotonic", lambda: float(next(clock)))
    evaluation = evaluate_outliers(
        config(data, tmp_path, encoders=("cae",), num_seeds=2, budget_min=1.0)
    )
    assert evaluation.document["complete"] is False
    rows = [row for row in evaluation.document["rows"] if row["encoder"] == "cae"]
    assert [row["value"] for row in rows] == [None] * 6
    assert "the budget of 1 min was spent" in rows[0]["reason"]
    assert "* cae is not complete: the budget" in evaluation.table


def test_a_fit_that_the_budget_cut_goes_on_where_it_was(sampled, tmp_path, monkeypatch):
    pictures, sample = sampled
    monkeypatch.setattr(models, "NUM_PASSES", 4)
    path = fit_model("cae", sample, seed=3, budget_s=0.0)
    cut = embed(path, pictures, str(tmp_path))
    first_loss = read_model_file(path).fit["loss"][0]
    assert (cut.num_passes, cut.is_whole) == (1, False)
    whole = embed(fit_model("cae", sample, seed=3, budget_s=60.0), pictures, str(tmp_path))
    assert (whole.num_passes, whole.is_whole) == (4, True)
    assert read_model_file(path).fit["loss"][0] == first_loss


def test_labels_do_not_reach_the_fit(sampled, tmp_path):
    pictures, sample = sampled
    rows = pictures.protocol.fit_rows(0)
    shuffled = np.random.default_rng(0).permutation(rows)  # another order, so other labels first
    again = take_sample(pictures, shuffled, str(tmp_path))
    ids = [
        read_model_file(fit_model("cae", s, seed=0, budget_s=60.0)).model_id
        for s in (sample, again)
    ]
    assert ids[0] == ids[1]


def test_a_changed_recipe_is_fitted_anew(sampled, monkeypatch):
    _, sample = sampled
    before = fit_model("pca", sample, seed=0, budget_s=1.0)
    monkeypatch.setattr(models, "FIT_BATCH", 16)
    assert fit_model("pca", sample, seed=0, budget_s=1.0) != before


def test_another_seed_or_other_objects_give_another_model(sampled, tmp_path):
    pictures, sample = sampled
    other = take_sample(pictures, pictures.protocol.fit_rows(1), str(tmp_path))
    paths = [
        fit_model("cae", sample, seed=0, budget_s=60.0),
        fit_model("cae", sample, seed=1, budget_s=60.0),
        fit_model("cae", other, seed=0, budget_s=60.0),
    ]
    assert len({read_model_file(path).model_id for path in paths}) == 3


def shipped_model(sample: Sample, path: str, trained_on: dict) -> str:
    model = load_model(fit_model("pca", sample, seed=0, budget_s=1.0))
    save_model(path, dataclasses.replace(model, fit={"trained_on": trained_on}))
    return path


def test_objects_that_a_model_was_trained_on_are_counted_and_said(sampled, data, tmp_path):
    pictures, sample = sampled
    ids = pictures.protocol.object_ids
    known = [object_hash("efigi", object_id) for object_id in ids[: len(ids) // 2]]
    path = shipped_model(sample, str(tmp_path / "model.safetensors"), {"efigi": sorted(known)})
    model = read_model_file(path)
    assert was_trained_on(model, "efigi", ids) == pytest.approx(0.5, abs=0.02)
    assert was_trained_on(model, "gz2", ids) == 0
    evaluation = evaluate_outliers(config(data, tmp_path / "out", encoders=(path,)))
    assert "trained on 50% of these objects" in evaluation.table
    notes = {row.get("note") for row in evaluation.document["rows"] if ":" in row["encoder"]}
    assert notes == {"trained on 50% of these objects"}


def test_a_model_for_other_bands_is_refused_by_name(sampled, data, tmp_path):
    _, sample = sampled
    path = shipped_model(sample, str(tmp_path / "model.safetensors"), {})
    with pytest.raises(ConfigError, match=r"cannot be prepared for .* bands R, G, B"):
        evaluate_outliers(config(data, tmp_path / "out", protocol="mirabest", encoders=(path,)))


def test_an_object_without_a_readable_picture_is_named(tmp_path):
    folder = labelled_made.make_efigi(tmp_path / "data")
    picture = folder / "galaxies/efigi/images/PGCS1000.jpg"
    picture.write_bytes(picture.read_bytes()[:-60])  # the header is whole, the pixels are not
    with pytest.raises(ConfigError, match=r"1 of \d+ labelled objects .* PGCS1000 .*no whole JPEG"):
        Pictures(open_protocol("efigi", data=str(folder)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoders", "nothing"], "encoder is 'nothing', expected one of"),
        (["--encoders", ","], "no encoder is named"),
        (
            ["--encoders", "rings?latnt=3"],
            "latnt in encoder rings?latnt=3 is unknown, expected one of ['latent', 'network']",
        ),
        (["--encoders", "rings?latent=many"], "encoder.latent in encoder rings?latent=many is"),
        (["--encoders", "rings?latent=0"], "encoder.latent is 0, expected at least 1"),
        (["--encoders", "vit-tiny?latent=3"], "the embedding of vit-tiny has one length"),
        (["--encoders", "size?latent=3"], "size is not fitted here; settings are for one of"),
        (["--encoders", "pca", "--scores", "best"], "scores are ['best'], expected some of kth"),
        (["--encoders", "pca", "--seeds", "0"], "num_seeds is 0, expected more than 0"),
        (["--encoders", "pca", "--budget", "0"], "budget_min is 0.0, expected more than 0"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_exit_code_2(arguments, message, data, tmp_path):
    result = evaluate(data, tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
