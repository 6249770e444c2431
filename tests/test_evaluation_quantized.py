"""Encoders on fewer bits in an evaluation: made from the encoder that they are compared with."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from astroray.cli import cli
from astroray.encoders import read_model_file
from astroray.errors import ConfigError
from astroray.evaluation import compared, models, results, scoring
from astroray.evaluation.quantized import NUMBERS, split_numbers
from astroray.evaluation.runs import EvaluationConfig, evaluate_outliers
from tests import labelled_made
from tests.browser import open_page


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(labelled_made.make_efigi(tmp_path_factory.mktemp("data")))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(models, "NUM_THREADS", 1)
    monkeypatch.setattr(scoring, "NUM_RESAMPLES", 40)


def config(data, out, *encoders):
    return EvaluationConfig(
        protocol="efigi", encoders=encoders, out=str(out), num_seeds=1, data=data
    )


@pytest.fixture(scope="module")
def evaluated(data, tmp_path_factory):
    """What the command wrote for one encoder on 4 bits and in bfloat16, and its output."""
    out = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "NUM_THREADS", 1)
        patch.setattr(scoring, "NUM_RESAMPLES", 40)
        command = ["evaluate", "outliers", "--protocol", "efigi", "--data", data, "--seeds", "1"]
        encoders = "vit-tiny:osc-w4a4,vit-tiny:bf16"
        ended = CliRunner().invoke(cli, [*command, "--encoders", encoders, "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    return out, json.loads((out / "rows.json").read_text())["rows"], ended.output


def quantized_file(out):
    (path,) = (out / "fits").glob("vit-tiny-osc-w4a4-*.safetensors")
    return str(path)


def embeddings(out):
    """By model_id."""
    found = {}
    for path in (out / "embeddings").iterdir():
        with np.load(path) as arrays:
            found[path.name.rpartition("-")[0]] = arrays["embedding"]
    return found


def test_the_reference_comes_by_itself_and_each_is_compared_with_it(evaluated):
    rows = evaluated[1]
    assert {row["encoder"] for row in rows} >= {"vit-tiny", "vit-tiny:osc-w4a4", "vit-tiny:bf16"}
    against = {row["encoder"] for row in rows if row["peer"] == "vit-tiny"}
    assert against == {"vit-tiny:osc-w4a4", "vit-tiny:bf16"}
    assert "AUC - vit-tiny" in evaluated[2]
    assert "AUC − vit-tiny" in (evaluated[0] / "index.html").read_text()


def test_the_difference_is_that_of_the_two_and_its_bar_is_on_the_auc(evaluated):
    rows = {row["what"]: row for row in evaluated[1]}
    for subset in ("S1", "S5", "R1"):
        where = f"efigi {subset} vit-tiny:osc-w4a4 kth: "
        row = rows[f"{where}auc minus vit-tiny"]
        plain = rows[f"efigi {subset} vit-tiny kth: auc"]["value"]
        assert row["value"] == pytest.approx(rows[f"{where}auc"]["value"] - plain, abs=2e-5)
        assert (row["goal"], row["goal_is"]) == (0.01, "within, or 0 in the interval")
        assert row["ok"] == (row["low"] <= 0 <= row["high"] or abs(row["value"]) <= 0.01)
        assert rows[f"{where}recall minus vit-tiny"]["goal"] is None


def test_it_is_made_from_the_very_model_that_it_is_compared_with(evaluated):
    file = read_model_file(quantized_file(evaluated[0]))
    assert set(file.quantized["schemes"]) == {"osc-w4a4"}
    found = embeddings(evaluated[0])
    reference_id = file.quantized["reference_id"]
    assert {reference_id, file.model_id, f"{reference_id}-bf16"} <= set(found)
    exact = found[reference_id]
    spread = np.linalg.norm(exact - exact.mean(axis=0))
    errors = {
        name: np.linalg.norm(found[name] - exact) / spread
        for name in (file.model_id, f"{reference_id}-bf16")
    }
    assert 0.01 < errors[file.model_id] < 1.0
    assert 0.0 < errors[f"{reference_id}-bf16"] < 0.1


def test_a_second_call_takes_the_quantized_model_and_its_embeddings_from_the_first(
    evaluated, data, monkeypatch
):
    def refuse(*arguments, **options):
        raise AssertionError("done again")

    monkeypatch.setattr("astroray.evaluation.quantized.quantize_prepared", refuse)
    monkeypatch.setattr(models, "_encode", refuse)
    monkeypatch.setattr(scoring, "_score", refuse)
    again = evaluate_outliers(config(data, evaluated[0], "vit-tiny:osc-w4a4", "vit-tiny:bf16"))
    ours, first = (
        [{**row, "facts": {}} for row in rows] for rows in (again.document["rows"], evaluated[1])
    )
    assert ours == first


def test_a_quantized_file_brings_its_own_reference(evaluated, data, tmp_path):
    path = quantized_file(evaluated[0])
    file = read_model_file(path)
    rows = evaluate_outliers(config(data, tmp_path, path)).document["rows"]
    own, reference = (
        f"vit-tiny:{one[:8]}" for one in (file.model_id, file.quantized["reference_id"])
    )
    assert {row["encoder"] for row in rows if row["peer"] == reference} == {own}
    found, before = embeddings(tmp_path), embeddings(evaluated[0])
    for one in (file.model_id, file.quantized["reference_id"]):
        assert np.array_equal(found[one], before[one])


def test_a_quantized_encoder_is_as_long_a_fit_as_its_reference():
    named = compared.compared_encoders(["attcae:w8a8o", "vit-tiny:w8a8"], "images")
    found = {encoder.label: encoder.is_fitted_long for encoder in named}
    assert found["attcae"]
    assert found["attcae:w8a8o"]
    assert not found["vit-tiny:w8a8"]


def test_a_network_without_linear_layers_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="the model has no linear layers"):
        evaluate_outliers(config(data, tmp_path, "pca:w8a8"))


def test_names_and_paths_are_told_from_what_stands_behind_the_colon():
    for numbers in NUMBERS:
        assert split_numbers(f"vit-tiny:{numbers}") == ("vit-tiny", numbers)
    assert split_numbers("s3://sky/m.safetensors:w8a8o") == ("s3://sky/m.safetensors", "w8a8o")
    for plain in ("vit-tiny", "s3://sky/m.safetensors", "pixels"):
        assert split_numbers(plain) == (plain, "auto")
    with pytest.raises(ConfigError, match=r"'vit-tiny:w4a4', expected vit-tiny, or vit-tiny: with"):
        split_numbers("vit-tiny:w4a4")


@pytest.mark.browser
def test_nothing_of_a_page_with_three_peers_lies_beyond_its_edge(
    evaluated, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(results, "PEERS", ("pixels", "size"))
    asked = config(data, evaluated[0], "vit-tiny:osc-w4a4", "vit-tiny:bf16")
    page_path = Path(evaluate_outliers(asked).page)
    beyond = """[...document.querySelectorAll("table.cards td")].map((cell) =>
        cell.getBoundingClientRect().right - document.documentElement.clientWidth)"""

    async def look():
        found = []
        async with open_page(tmp_path, page_path.as_uri()) as page:
            await page.until(
                "document.readyState === 'complete' && document.querySelector('footer')"
            )
            for width in (390, 900, 1440):
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                await page.call("Emulation.setDeviceMetricsOverride", **size)
                found.append(max(await page.value(beyond)))
                assert await page.value("document.documentElement.scrollWidth") <= width
        return found

    text = page_path.read_text("utf-8")
    assert "<th>Recall<br>− vit-tiny</th>" in text
    assert "<th>Recall<br>− size</th>" in text
    assert max(asyncio.run(look())) <= 0
