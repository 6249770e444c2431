"""`astroray train flares` and `astroray flares forecast` from light curves to a page."""

import dataclasses
import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from click.testing import CliRunner

from astroray import schema
from astroray.cli import cli
from astroray.errors import ConfigError, DataError
from astroray.fitting.beginning import is_fitted, note_settings
from astroray.flares.windows import WindowRule, join_windows
from astroray.forecast import kept_windows, train
from astroray.forecast.collect import collect_windows
from astroray.forecast.forecast_record import ForecastRecord, tell_held_out
from astroray.forecast.kept_windows import keep_group, read_group, read_windows, write_windows
from astroray.forecast.model_file import load_forecaster
from astroray.forecast.page import course_figure, reliability_figure
from astroray.forecast.predict import ForecastConfig, forecast_curves, forecast_flares
from astroray.forecast.star_groups import group_stars, name_rows
from astroray.forecast.train import TrainConfig, deal_stars, flare_shards, train_flares
from astroray.surveys.light_curves import read_light_curves
from tests import scans
from tests.flares_made import star
from tests.language_made import write_language_model

QUICK = ["--method", "adapter", "--passes", "2", "--pretrain-passes", "1"]


def write_survey(folder, *, num_stars=10, days=16.0):
    """Light curves at 10 min of stars that flare about every day or two; returns the survey."""
    folder.mkdir()
    for number in range(num_stars):
        random = np.random.default_rng(number)
        peaks = np.sort(random.uniform(0.5, days - 0.5, 10))
        flares = [(peak, 60.0, 0.1) for peak in peaks]
        time_d, flux = star(
            days=days, cadence_d=10 / 1440, noise=0.0005, flares=flares, seed=number
        )
        np.savez(folder / f"tic{number + 1}.npz", time=time_d, flux=flux)
    return f"{folder}/*.npz?time=BTJD&mission=tess"


def groups_of(shards, **options):
    return group_stars([name_rows(shard) for shard in shards], **options)


def keep_windows(survey, folder):
    config = train.TrainConfig(survey=survey, out=str(folder / "flares.model"))
    found = (collect_windows(group)[:2] for group in groups_of(flare_shards(survey)))
    train._keep_windows(found, str(folder / "windows.npz"), config)


@pytest.fixture
def fits_here():
    """Workers of every kind are this process."""
    with scans.fits_here():
        yield


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_a_shard_becomes_windows_and_what_does_not_is_a_reject(tmp_path):
    survey = write_survey(tmp_path / "in", num_stars=2)
    time_d, flux = star(days=16, cadence_d=2 / 24)
    np.savez(tmp_path / "in" / "tic8.npz", time=time_d, flux=flux)
    (tmp_path / "in" / "tic9.npz").write_bytes(b"nothing")
    shards = flare_shards(survey)
    windows, rejects, places = collect_windows(*groups_of(shards))
    assert len(windows.star_ids) == 2
    assert windows.label_W.any()
    assert sorted(reject.kind for reject in rejects) == ["corrupt", "unusable"]
    assert any("one cadence takes 7200 s" in reject.reason for reject in rejects)
    assert {place.time_zero for place in places.values()} == {"BTJD"}
    write_windows(str(tmp_path / "windows.npz"), windows)
    again = read_windows(str(tmp_path / "windows.npz"))
    assert np.array_equal(again.flux_WTC, windows.flux_WTC)
    assert (again.star_ids, again.dropped) == (windows.star_ids, windows.dropped)


def test_stars_are_dealt_whole_and_put_flares_into_each_part(tmp_path):
    shards = flare_shards(write_survey(tmp_path / "in", num_stars=7))
    windows, _, _ = collect_windows(*groups_of(shards))
    part_W = deal_stars(windows, 0)
    for star_number in range(7):
        assert len(set(part_W[windows.star_W == star_number])) == 1
    for part in (part_W == 0, part_W == 1, part_W > 1):
        assert windows.label_W[part].any()


def test_stars_that_flare_often_are_as_likely_in_each_part():
    num_flares = 2 ** np.arange(12)[::-1]  # a few stars have nearly all flares, as it is on the sky
    star_W = np.repeat(np.arange(12), num_flares)
    windows = SimpleNamespace(
        star_ids=[str(number) for number in range(12)],
        star_W=star_W,
        label_W=np.ones(len(star_W), bool),
    )
    part_RW = np.array([deal_stars(windows, seed) for seed in range(400)])
    assert np.array_equal(part_RW[7], deal_stars(windows, 7))
    for part in (0, 1):
        assert (part_RW == part).mean() == pytest.approx(0.2, abs=0.04)


def check_that_they_are_exported(folder, forecasts):
    """With what is unknown, which is no answer: whether a flare came that nobody could see."""
    for format in ("votable", "fits", "csv"):
        path = folder / f"forecasts.{format}"
        done = run("export", folder, "--format", format, "--out", path)
        assert done.output == f"{len(forecasts)} rows  {path}\n"
        got = Table.read(path, format={"csv": "ascii.csv"}.get(format, format))
        flared = [None if one is np.ma.masked else one in (True, "true") for one in got["flared"]]
        assert flared == forecasts["flared"].to_pylist()
        assert got["probability"].tolist() == forecasts["probability"].to_pylist()


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_light_curves_become_a_model_and_the_model_forecasts(ray_cluster, tmp_path, monkeypatch):
    survey, model = write_survey(tmp_path / "in"), tmp_path / "flares.model"
    done = run("train", "flares", survey, "--out", model, *QUICK)
    assert done.exit_code == 0, done.output
    trained = load_forecaster(str(model))
    assert f"model_id {trained.model_id}" in done.output
    assert (tmp_path / "flares.model.fit" / "adapter.safetensors").stat().st_size < 600_000
    assert len(trained.facts["validation_auprc"]) == 2
    assert trained.facts["missions"] == {"tess": 10}

    monkeypatch.setattr(train, "_fit_by_ray", None)  # not fitted again
    again = run("train", "flares", survey, "--out", model, *QUICK)
    assert again.exit_code == 0, again.output
    other = run("train", "flares", survey, "--out", model, *QUICK, "--seed", "3")
    assert other.exit_code == 2
    assert "seed was 0 and is 3" in other.output

    out = tmp_path / "out"
    (tmp_path / "in" / "tic99.npz").write_bytes(b"nothing")
    done = run("flares", "forecast", survey, "--model", model, "--out", out)
    assert done.exit_code == 0, done.output
    assert "1 light curve rejected" in done.output
    held_out = f"{tell_held_out(trained.facts)}; those it was trained on flatter it"
    assert f"%\n  {held_out}\n" in done.output
    assert "  corrupt: 1 rows, 0 shards; e.g. " in done.output
    table = pq.read_table(out / "forecasts.parquet")
    assert table.schema.equals(schema.FORECASTS, check_metadata=True)
    record = json.loads((out / "forecast.json").read_text())
    assert record["windows"] == len(table)
    assert record["model_id"] == trained.model_id
    assert record["missions"] == {"tess": 10}
    newest = table.filter(table["newest"])
    assert len(newest) == 10
    last_d = 1500 + 16 - 10 / 1440
    assert newest["end"].to_numpy() == pytest.approx(last_d + 5 / 1440, abs=1e-6)
    assert newest["flared"].null_count == 10
    assert 0 < table["probability"].to_numpy().min() <= table["probability"].to_numpy().max() < 1
    check_that_they_are_exported(out, table)
    page = (out / "index.html").read_text()
    assert "The 24 hours after these were not observed." in page
    assert ">came<" not in page  # as no answer of these is known
    assert "<td>corrupt</td><td>1</td>" in page
    assert "TIC 10" in page or "tic10" in page


def test_a_language_model_is_tuned_and_forecasts_from_the_folder_that_it_names(
    fits_here, tmp_path, monkeypatch
):
    survey, model = write_survey(tmp_path / "in", num_stars=6), tmp_path / "flares.model"
    monkeypatch.chdir(tmp_path)
    write_language_model(tmp_path / "tiny")
    command = ["train", "flares", survey, "--out", model, "--passes", "1", "--backbone", "tiny"]
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "flares.model.fit" / "base.safetensors").exists()
    assert model.stat().st_size < (tmp_path / "tiny" / "model.safetensors").stat().st_size
    trained = load_forecaster(str(model))
    assert trained.facts["backbone"] == str(tmp_path / "tiny")

    done = run("flares", "forecast", survey, "--model", model, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "on the language model" in (tmp_path / "out" / "index.html").read_text()
    served = forecast_curves(read_light_curves(flare_shards(survey)[0]), trained, "uploaded")
    table = pq.read_table(tmp_path / "out" / "forecasts.parquet")
    assert not served.rejects
    assert served.table["probability"].to_numpy() == pytest.approx(table["probability"].to_numpy())

    write_language_model(tmp_path / "tiny", seed=1)
    again = run(*command)
    assert again.exit_code == 2
    assert "backbone_fingerprint was" in again.output
    done = run("flares", "forecast", survey, "--model", model, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "is not the language model that" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "flares", "IN", "--out", "m", "--method", "magic"], "method is 'magic'"),
        (["train", "flares", "IN", "--out", "m", "--passes", "0"], "num_passes is 0"),
        (["train", "flares", "IN", "--out", "m", "--tuning-rate", "0"], "tuning_rate is 0"),
        (["train", "flares", "IN", "--out", "m", "--backbone", "no"], "no, which is no folder"),
        (
            ["train", "flares", "IN", "--out", "m", "--backbone", "no", "--method", "full"],
            "a language model is tuned by full after 0 passes of pre-training, expected lora",
        ),
        (["train", "flares", "sim:galaxies?count=3", "--out", "m"], "holds no light curves"),
        (
            ["flares", "forecast", "IN", "--model", "IN/tic1.npz", "--out", "o"],
            "no flare forecaster",
        ),
    ],
)
def test_what_cannot_work_is_said_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_survey(tmp_path / "IN", num_stars=1)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_too_few_flares_to_learn_from_are_refused_with_their_number(tmp_path):
    survey = str(write_survey(tmp_path / "in", num_stars=5, days=8.0))
    message = rf"part of {re.escape(survey)} has \d+ windows with a flare of \d+, of 5 stars"
    with pytest.raises(DataError, match=message):
        keep_windows(survey, tmp_path)


def test_too_few_stars_are_refused_before_any_flare_is_looked_for(fits_here, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "keep_group", None)
    survey = write_survey(tmp_path / "in", num_stars=4, days=1.0)
    (tmp_path / "in" / "tic9.npz").write_bytes(b"nothing")
    done = run("train", "flares", survey, "--out", tmp_path / "flares.model")
    assert done.exit_code == 1
    assert "has light curves of 4 stars that can be read, expected at least 5" in done.output


def test_where_no_light_curve_can_be_used_training_says_why(tmp_path):
    survey = write_survey(tmp_path / "in", num_stars=0)
    time_d, flux = star(days=16, cadence_d=2 / 24)
    np.savez(tmp_path / "in" / "tic8.npz", time=time_d, flux=flux)
    message = r"no star of .*/in/.* gives a window: 1 light curves .* first: .*takes 7200 s"
    with pytest.raises(DataError, match=message):
        keep_windows(str(survey), tmp_path)


def test_windows_do_not_depend_on_how_many_files_a_survey_has(tmp_path):
    """Three sectors of two stars, by sector as a mission names them: two files make a shard."""
    for sector, name in [(s, name) for s in range(3) for name in ("tic1", "tic2")]:
        folder = tmp_path / f"s{sector}"
        folder.mkdir(exist_ok=True)
        time_d, flux = star(
            days=6, cadence_d=10 / 1440, flares=[(3.0, 60.0, 0.1)], seed=sector, noise=0.0005
        )
        np.savez(folder / f"{name}_s{sector}.npz", time=time_d + 6 * sector, flux=flux)
    (tmp_path / "s1" / "tic9.npz").write_bytes(b"nothing")
    survey = f"{tmp_path}/*/*.npz?time=BTJD&mission=tess"
    whole = collect_windows(*groups_of(flare_shards(survey)))
    parts = flare_shards(f"{survey}&shard_files=2")
    groups = groups_of(parts, size=3)
    assert [len(group.parts) for group in groups] == [3, 3, 1]
    apart = [collect_windows(group) for group in groups]
    windows = join_windows([found for found, _, _ in apart if found is not None])
    assert list(windows.star_ids) == list(whole[0].star_ids)
    for column in ("star_W", "end_W", "label_W", "flux_WTC", "history_WMC", "statistics_WN"):
        np.testing.assert_array_equal(getattr(windows, column), getattr(whole[0], column))
    (reject,) = [reject for _, rejects, _ in apart for reject in rejects]
    assert (reject.shard, reject.kind) == (parts[2].name, "corrupt")


def test_a_killed_gathering_goes_on_with_the_groups_that_are_left(tmp_path, monkeypatch):
    survey = write_survey(tmp_path / "in", num_stars=2)
    (tmp_path / "in" / "tic9.npz").write_bytes(b"nothing")
    groups = groups_of(flare_shards(survey), size=1)
    assert len({group.name for group in groups}) == len(groups) == 3
    paths = [keep_group(group, str(tmp_path / "fit")) for group in groups]
    found = [read_group(path) for path in paths]
    assert [windows and len(windows) for windows, _ in found][2] is None
    assert [reject.kind for _, rejects in found for reject in rejects] == ["corrupt"]
    expected, _, _ = collect_windows(groups[0])
    np.testing.assert_array_equal(found[0][0].flux_WTC, expected.flux_WTC)
    assert (found[0][0].star_ids, found[0][0].dropped) == (expected.star_ids, expected.dropped)
    assert found[0][0].missions == {"tess": 1}

    monkeypatch.setattr(kept_windows, "collect_windows", None)  # none is gathered again
    assert [keep_group(group, str(tmp_path / "fit")) for group in groups] == paths
    os.utime(tmp_path / "in" / "tic1.npz", (1, 1))
    changed = groups_of(flare_shards(survey), size=1)
    assert {group.name for group in changed}.isdisjoint(group.name for group in groups)

    (tmp_path / "fit" / "settings.json").write_text("{}")
    kept_windows.forget_groups(str(tmp_path / "fit"))
    assert [path.name for path in (tmp_path / "fit").iterdir()] == ["settings.json"]


def test_a_model_that_no_fit_made_is_not_overwritten(tmp_path):
    model = tmp_path / "flares.model"
    model.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists and was made by no fit"):
        train_flares(TrainConfig(survey=str(tmp_path), out=str(model)))
    assert model.read_bytes() == b"mine"


def test_a_forecast_is_not_written_over_a_run(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run, whose rejects and page would be lost"):
        forecast_flares(ForecastConfig(survey="s", model="m", out=str(tmp_path)))


def test_a_fit_whose_survey_was_mistyped_leaves_nothing(tmp_path):
    model = str(tmp_path / "flares.model")
    with pytest.raises(ConfigError, match="no survey files in /nope"):
        train_flares(TrainConfig(survey="/nope", out=model))
    assert list(tmp_path.iterdir()) == []


def test_a_fit_that_read_nothing_yet_leaves_its_folder_to_one_of_other_settings(tmp_path):
    folder, model = str(tmp_path / "flares.model.fit"), str(tmp_path / "flares.model")
    note_settings(folder, {"survey": "/few"})
    assert not is_fitted(folder, model, {"survey": "/more"})
    (tmp_path / "flares.model.fit" / "windows.npz").write_bytes(b"")
    with pytest.raises(ConfigError, match="survey was '/few' and is '/more'; repeat"):
        is_fitted(folder, model, {"survey": "/more"})


def test_a_reliability_curve_has_a_dot_for_each_bin_inside_its_frame():
    drawn = reliability_figure([(0.01, 0.0, 50), (0.2, 0.3, 50), (0.9, 1.0, 50)], "made")
    assert drawn.count("<circle") == 3
    assert "nan" not in drawn
    assert reliability_figure([], "nothing") == ""


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (0.81, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (0.035, ["0", "0.01", "0.02", "0.03", "0.04"]),
    ],
)
def test_the_axes_of_a_reliability_curve_have_round_numbers(most, ticks):
    drawn = str(reliability_figure([(0.01, 0.0, 50), (most, 0.01, 50)], "made"))
    assert re.findall(r">([\d.]+)</text>", drawn) == [tick for tick in ticks for _ in "xy"]


def test_a_forecast_that_one_probability_for_all_would_beat_is_told_so():
    told = {}
    for brier in (0.15, 0.17):
        fields = dict.fromkeys(field.name for field in dataclasses.fields(ForecastRecord))
        record = ForecastRecord(**(fields | {"skill": {"base_rate": 0.2, "brier": brier}}))
        told[brier] = record.is_worse_than_base_rate
    assert told == {0.15: False, 0.17: True}
    assert not dataclasses.replace(record, skill={}).is_worse_than_base_rate


@pytest.mark.parametrize(
    ("trained", "told"),
    [
        ({"missions": {"tess": 9}}, "trained on tess alone and says little of the stars of k2 (3)"),
        ({"missions": {"k2": 1, "tess": 9}}, ""),
        ({}, ""),  # a model file that does not say
    ],
)
def test_stars_of_a_mission_that_a_model_was_not_trained_on_are_told_of(trained, told):
    fields = dict.fromkeys(field.name for field in dataclasses.fields(ForecastRecord))
    missions = {"tess": 2, "k2": 3}
    record = ForecastRecord(**(fields | {"trained": trained, "missions": missions}))
    assert record.strangers == told


def test_the_forecasts_of_a_star_are_drawn_by_what_came():
    rows = [
        {"object_id": "<a>", "end": float(day), "time_zero": "<b>", "probability": p, "flared": f}
        for day, p, f in ((1, 0.1, False), (2, 0.4, True), (3, 0.2, False), (9, 0.3, None))
    ]
    drawn = str(course_figure(pa.Table.from_pylist(rows), 0.25))
    heights = {
        kind: [float(part) for part in re.findall(r"v-([\d.]+)", path)]
        for kind, path in re.findall(r'class="(came|quiet|open)"[^>]* d="([^"]*)"', drawn)
    }
    assert {kind: len(each) for kind, each in heights.items()} == {"came": 1, "quiet": 2, "open": 1}
    assert heights["came"][0] == pytest.approx(4 * heights["quiet"][0], rel=0.01)
    assert "&lt;a&gt;" in drawn
    assert "&lt;b&gt; 1.0</text>" in drawn
    assert not {"<a>", "<b>"} & set(re.findall("<.>", drawn))


def test_the_horizon_of_tess_is_a_whole_day():
    assert WindowRule(cadence_d=10 / 1440).num_ahead == 144
