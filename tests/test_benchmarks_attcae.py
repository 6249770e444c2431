"""The benchmark of the paper's timing: what it times is what a scan does, and is checked."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from astroray.fitting.fit_state import FitConfig, FitState
from benchmarks import attcae, fit
from benchmarks.models import make_model
from benchmarks.rows import MeasurementError

NUM = 40


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Threads that wait for each other crawl where other work has the cores."""
    monkeypatch.setattr(attcae, "CORES", 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A few prepared galaxies of 16 px, so that the network is small too."""
    from astroray.actors.sample import Sample

    folder = tmp_path_factory.mktemp("images")
    large = attcae.prepare_images(NUM, str(folder))
    images_NCYX = np.load(large.sample.path)[:, :, 24:40, 24:40]
    np.save(folder / "small.npy", images_NCYX)
    preparation = dataclasses.replace(large.sample.preparation, size_px=16)
    sample = Sample(path=str(folder / "small.npy"), preparation=preparation, num_rows=NUM)
    return attcae.Images(sample=sample, planted_path=large.planted_path)


def test_images_are_in_the_order_of_the_survey_and_know_which_are_planted(images):
    from astroray import surveys
    from astroray.surveys.simulated import truth_table

    is_planted_N = np.load(images.planted_path)
    truth = truth_table(surveys.list_shards(attcae.SURVEY.format(NUM)).shards[0])
    assert is_planted_N.tolist() == truth["is_outlier"].to_pylist()
    assert 0 < is_planted_N.sum() < NUM / 2
    assert images.sample.num_rows == NUM == len(np.load(images.sample.path))


def test_shares_encode_as_the_whole_does_in_the_same_order(images, tmp_path):
    import torch

    from astroray.encoders.store import load_model

    path = make_model(images.sample, "attcae", str(tmp_path))
    for name, rows in (("a", slice(0, 23)), ("b", slice(23, NUM))):
        attcae.encode_images(path, images.sample.path, rows, str(tmp_path / f"{name}.npy"))
    done_ND = np.concatenate([np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")])
    image_BCYX = torch.from_numpy(np.load(images.sample.path).astype(np.float32))
    with torch.inference_mode():
        expected_ND = load_model(path).embed(image_BCYX).numpy()
    assert len(done_ND) == NUM
    np.testing.assert_allclose(done_ND, expected_ND, rtol=1e-3, atol=1e-4)


def test_the_search_is_timed_only_where_its_distances_are_right(tmp_path, monkeypatch):
    embedding_ND = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
    paths = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    np.save(paths[0], embedding_ND[:120])
    np.save(paths[1], embedding_ND[120:])
    facts = attcae.search_all(paths)
    assert facts["error"] < 1e-9
    assert facts["search_s"] > 0
    true = attcae.nearest_distances
    monkeypatch.setattr(attcae, "nearest_distances", lambda x, rows: true(x, rows) * (1 + 1e-6))
    with pytest.raises(MeasurementError, match="distances differ by 1e-06"):
        attcae.search_all(paths)


def test_passes_one_by_one_are_the_fit_in_one_go(images, tmp_path, monkeypatch):
    from astroray.fitting.passes import run_passes

    held_out = []
    true = attcae.auc_of
    monkeypatch.setattr(
        attcae, "auc_of", lambda x, planted: held_out.append(len(x)) or true(x, planted)
    )
    monkeypatch.setattr(attcae, "K", 3)
    (tmp_path / "one").mkdir()
    (seconds_1, auc_1), (seconds_2, auc_2) = attcae.fit_by_passes(images, 2, str(tmp_path / "one"))
    assert 0 < seconds_1 < seconds_2
    assert 0 <= auc_1 <= 1
    assert 0 <= auc_2 <= 1
    num_fitted = round(attcae.FIT_SHARE * NUM)
    assert held_out == [NUM - num_fitted] * 2
    fitted = str(tmp_path / "one" / "fitted.npy")
    np.testing.assert_array_equal(np.load(fitted), np.load(images.sample.path)[:num_fitted])
    network = {"num_bands": 3, "size_px": 16, "latent": attcae.LATENT}
    config = FitConfig(num_passes=2, learning_rate=attcae.fit.LEARNING_RATE)
    whole = run_passes(
        fitted, "attcae", network, config, str(tmp_path / "two"), threads=attcae.CORES
    )
    state = FitState.load(str(tmp_path / "one"))
    assert tuple(state.losses) == whole.loss_per_pass
    for name, weights in whole.state_dict.items():
        assert (state.network[name] == weights).all(), name


def test_needed_passes_are_those_until_95_percent_of_the_last_auc(images, tmp_path, monkeypatch):
    course = [(10.0, 0.5), (20.0, 0.75), (30.0, 0.7), (40.0, 0.78)]
    monkeypatch.setattr(attcae, "run_fresh", lambda *_, **__: SimpleNamespace(value=lambda: course))
    fields = attcae.measure_passes(images, attcae.QUICK, tmp_path)
    assert fields["value"] == 2
    assert fields["facts"]["seconds_until"] == 20
    assert fields["facts"]["seconds_total"] == 40
    assert fields["facts"]["auc_4"] == 0.78


def test_a_block_of_the_fit_equals_the_bare_loop(images, tmp_path, monkeypatch):
    monkeypatch.setattr("os.setpriority", lambda *_: None)
    monkeypatch.setattr(attcae.fit, "NETWORK", {"num_bands": 3, "size_px": 16})
    fields = attcae.fit_in_turns(images.sample.path, 1, str(tmp_path))
    assert fields["error"] <= attcae.fit.LARGEST_ERROR
    assert fields["runs"] == 1
    with pytest.raises(MeasurementError, match="by the fit and"):
        fit.loss_difference((0.5,), (0.5001,))
