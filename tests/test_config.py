"""Settings: flags before the file, the file before the defaults; every key and type checked."""

import json

import pytest

from astroray.config import DEFAULT_BUDGET_S, ScanConfig, load_config
from astroray.errors import ConfigError
from astroray.ledger import fingerprint
from astroray.settings import from_dict, to_dict
from astroray.surveys.shards import SurveyUri


def test_flags_come_before_the_file_and_the_file_before_the_defaults(tmp_path):
    file = tmp_path / "scan.yaml"
    file.write_text("search: {k: 20, top: 50}\nbatch_size: 16\n")
    config = load_config("hdf", "out", str(file), {"search.k": 5, "workers": None})
    assert (config.search.k, config.search.top) == (5, 50)
    assert (config.batch_size, config.workers, config.encoder.name) == (16, "auto", "auto")


def test_keys_of_a_file_may_be_dotted_as_those_of_flags_are(tmp_path):
    file = tmp_path / "scan.yaml"
    file.write_text("search: {top: 50}\nsearch.k: 20\nfit.num_passes: 3\n")
    config = load_config("hdf", "out", str(file), {})
    assert (config.search.k, config.search.top, config.fit.num_passes) == (20, 50, 3)


def test_a_flag_that_is_wrong_is_not_laid_to_the_file_alone(tmp_path):
    (tmp_path / "scan.yaml").write_text("search: {top: 50}")
    with pytest.raises(ConfigError, match=r"setting serch in .*scan\.yaml or the flags is unknown"):
        load_config("hdf", "out", str(tmp_path / "scan.yaml"), {"serch.k": 3})


def test_a_setting_of_tests_alone_is_named_in_no_message():
    for given in ("serch", "fault_plans"):
        with pytest.raises(ConfigError, match="unknown, expected one of") as refused:
            load_config("hdf", "out", None, {given: 3})
        assert "fault_plan" not in str(refused.value).replace("fault_plans", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("serch: {k: 3}", "setting serch in .* is unknown, expected one of"),
        ("search: {kk: 3}", "setting search.kk in .* is unknown"),
        ("search: {k: ten}", "setting search.k in .* is 'ten', expected int"),
        ("search: {k: true}", "setting search.k in .* is True"),
        ("search: 3", "expected a section of keys"),
        ("search: {score: median}", "search.score in .* is 'median'"),
        ("search: {k: 0}", "k is 0"),
        ("[1, 2]", "holds list, expected keys and values"),
        ("a: [", "is not a YAML file"),
        ("max_rejected: 2", "max_rejected is 2.0, expected a share"),
        ("batch_size: 0", "batch_size is 0, expected at least 1"),
        ("batch_size: 1.5", "setting batch_size in .* is 1.5, expected int or none"),
        (
            "encoder: {bands: [g, [r]]}",
            r"setting encoder.bands in .* is \['g', \['r'\]\], expected",
        ),
        ("encoder: {bands: 3}", "setting encoder.bands in .* is 3, expected list or none"),
        ("search.k: 3\nsearch: {k: 4}", "setting search.k stands twice in .*scan.yaml, expected"),
        ("search.kk: 3", "setting search.kk in .* is unknown, .* did you mean search.k?"),
        ("seed: -1", "seed is -1, expected at least 0"),
        ("num_random: -1", "num_random is -1, expected at least 0"),
        ("num_gpus: -0.5", "num_gpus is -0.5, expected at least 0"),
        ("fit: {seed: -1, budget_s: 3}", "seed of a fit is -1, expected at least 0"),
        ("fit: {budget_s: .inf}", "budget_s of a fit is inf, expected more than 0, finite"),
        ("encoder: {latent: 0}", "encoder.latent is 0, expected at least 1"),
        ("encoder: {size_px: 0}", r"encoder.size_px is 0, expected 8\.\.512, or none"),
        ("encoder: {bands: []}", r"encoder.bands is \(\), expected names such as g,r,i"),
        ("encoder: {max_missing: 1}", "encoder.max_missing is 1.0, expected a share of 0"),
        ("workers: 2..1", r"workers is '2\.\.1', expected auto, N, or MIN\.\.MAX"),
        ("search: {index: lsh}", "expected one of auto, flat, ivf-flat, ivf-sq8, ivf-pq, hnsw"),
        ("survey: s3://sky", "setting survey in .* is 's3://sky', expected it to be named by"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "scan.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config("hdf", "out", str(file), {})


def test_a_setting_that_a_record_lacks_is_named():
    with pytest.raises(ConfigError, match=r"setting out is missing in run\.json"):
        from_dict(ScanConfig, {"survey": "hdf"}, where="run.json")


def test_a_fit_of_which_something_else_is_set_keeps_its_end(tmp_path):
    fit = load_config("hdf", "out", None, {"fit.batch_size": 64}).fit
    assert (fit.batch_size, fit.num_passes, fit.budget_s) == (64, None, DEFAULT_BUDGET_S)
    assert load_config("hdf", "out", None, {"fit.num_passes": 3}).fit.budget_s is None


def test_bands_that_are_called_by_numbers_are_names_too(tmp_path):
    file = tmp_path / "scan.yaml"
    file.write_text("encoder: {bands: [606, 814]}")
    assert load_config("hdf", "out", str(file), {}).encoder.bands == ("606", "814")


def test_a_configuration_survives_json():
    config = load_config("hdf", "out", None, {"encoder.bands": ["R", "G"], "fit.num_passes": 3})
    again = from_dict(ScanConfig, json.loads(json.dumps(to_dict(config))), where="run.json")
    assert again == config


def test_a_local_survey_is_known_by_its_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "sky").mkdir()
    (tmp_path / "hdf").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config("./hdf", "out", None, {}).survey == f"{tmp_path}/hdf"
    assert load_config("sky?table=t.csv", "out", None, {}).survey == f"{tmp_path}/sky?table=t.csv"
    for survey in ("hdf", "sim:galaxies?count=3", "s3://bucket/sky"):
        assert load_config(survey, "out", None, {}).survey == survey


@pytest.mark.parametrize(
    ("flag", "value", "same"),
    [
        ("workers", "1", True),
        ("search.num_threads", 2, True),
        ("max_rejected", 0.5, True),
        ("search.k", 5, False),
        ("batch_size", 32, True),  # what a CPU gets
        ("batch_size", 16, False),
        ("fit.num_passes", 2, False),
        ("seed", 1, False),
    ],
)
def test_the_fingerprint_holds_the_science_and_nothing_else(flag, value, same):
    prints = [
        fingerprint(load_config("hdf", "a", None, flags).science(model_id="", device="cpu"))
        for flags in ({}, {flag: value})
    ]
    assert (prints[0] == prints[1]) == same


def test_a_model_file_is_known_by_its_content_and_the_fit_s_settings_do_not_matter():
    prints = [
        fingerprint(load_config("hdf", "a", None, flags).science(model_id="m1", device="cpu"))
        for flags in ({"encoder.name": "x/model"}, {"encoder.name": "y/model", "max_fit_rows": 9})
    ]
    assert prints[0] == prints[1]


@pytest.mark.parametrize("text", ["encoder: rings", "encoder:"])
def test_a_flag_of_a_section_that_the_file_has_no_keys_for_is_refused_by_name(tmp_path, text):
    file = tmp_path / "scan.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"setting encoder in .* expected a section of keys"):
        load_config("hdf", "out", str(file), {"encoder.name": "pca"})


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path):
    file = tmp_path / "scan.yaml"
    file.write_text("max_rejected: 1e-3")
    assert load_config("hdf", "out", str(file), {}).max_rejected == 1e-3


def test_a_run_directory_is_the_same_from_every_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_config("hdf", "runs/a", None, {}).out == f"{tmp_path}/runs/a"
    assert load_config("hdf", "~/a", None, {}).out == f"{tmp_path}/home/a"
    assert load_config("hdf", "s3://bucket/a", None, {}).out == "s3://bucket/a"


@pytest.mark.parametrize(
    "option", ["table=J1224+15.csv", "id=a%26b", "table=100%25.csv", "table=a b.csv", "id=what%3F"]
)
def test_options_of_a_survey_come_through_an_absolute_path_as_they_were(tmp_path, option):
    survey = load_config(f"{tmp_path}?{option}", "out", None, {}).survey
    assert SurveyUri.parse(survey) == SurveyUri.parse(f"{tmp_path}?{option}")
    assert survey == f"{tmp_path}?{option}"
    assert SurveyUri.parse("sky?table=J1224+15.csv").options == {"table": "J1224+15.csv"}
