"""A survey of spectra from end to end: scan, report, similar, labelling, simulated."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from astroray import preview, similar, surveys
from astroray.archive import Archive
from astroray.report.plots import BACKGROUND, SIZE_PX, render_spectrum
from astroray.surveys.shards import Reject
from astroray.surveys.simulated_files import write_survey
from astroray.surveys.simulated_spectra import truth_table
from tests.served_run import make_run
from tests.spectra_made import fluxes, spectrum, write_lamost

NUM_STARS = 12


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Twelve quiet stars, one with an emission line, and one whose flux is missing."""
    folder = tmp_path_factory.mktemp("lamost")
    for star in range(NUM_STARS + 2):
        flux = fluxes(star, line=30.0 if star == NUM_STARS else 0.0)
        if star == NUM_STARS + 1:
            flux[:] = np.nan
        cards = {"OBSID": 1000 + star, "RA": 290.0 + star}
        write_lamost(folder / f"spec-{star:03d}.fits.gz", flux, cards=cards)
    return f"{folder}/*.fits.gz"


def test_the_odd_one_ranks_first_and_all_that_follows_can_show_it(survey, tmp_path):
    run_dir = make_run(tmp_path, survey, encoder="lines", k=2)
    archive = Archive(run_dir)
    assert archive.modality == "spectra"
    assert len(archive.table) == NUM_STARS + 1
    odd = f"LAMOST {1000 + NUM_STARS}"
    best = archive.table.sort_by([("outlier_score", "descending")])
    assert best["object_id"][0].as_py() == odd
    between = np.linalg.norm(archive.embedding_ND[:, None] - archive.embedding_ND[None], axis=2)
    kth_N = np.sort(between, axis=1)[:, archive.k]  # itself is the first
    np.testing.assert_allclose(archive.table["outlier_score"].to_numpy(), kth_N, rtol=1e-5)
    png = archive.picture(archive.find(odd), 96, "", 2)
    assert Image.open(io.BytesIO(png)).size == (192, 96)
    again = surveys.list_shards(survey).shards[0].inputs[NUM_STARS].path
    (nearest,) = similar.find_similar(run_dir, again, 1).neighbors
    assert (nearest["object_id"], nearest["distance"]) == (odd, pytest.approx(0, abs=1e-3))


def test_a_picture_shows_flux_against_wavelength_and_nothing_where_no_pixel_counts():
    mask = np.zeros(600)
    mask[200:400] = 1
    flux = np.where(mask > 0, 1e9, fluxes())
    picture = Image.open(io.BytesIO(render_spectrum(spectrum(flux, mask=mask), format="PNG")))
    assert picture.size == (SIZE_PX, SIZE_PX)
    middle = np.asarray(picture)[30:-30]
    is_drawn = (np.abs(middle.astype(int) - BACKGROUND).sum(2) > 60).any(0)
    assert is_drawn[20:50].all()
    assert not is_drawn[75:105].any()
    assert is_drawn[140:180].all()


def test_noise_at_the_end_of_an_arm_does_not_flatten_a_picture_and_a_line_stays_in_it():
    def light_YX(flux):
        ivar = np.where(np.arange(len(flux)) < 60, 1e-4, 25.0)
        png = render_spectrum(spectrum(flux, ivar=ivar), width_px=400, height_px=100, format="PNG")
        return np.asarray(Image.open(io.BytesIO(png)).convert("L"), float)

    quiet, noisy = fluxes(line=30.0), fluxes(line=30.0)
    noisy[:60] += 100.0 * np.random.default_rng(1).standard_normal(60)
    np.testing.assert_array_equal(light_YX(noisy)[:, 100:], light_YX(quiet)[:, 100:])
    assert light_YX(noisy)[:14, 100:].max() > 60, "the line reaches the top"


def test_the_simulated_survey_is_the_same_by_shard_by_row_and_in_its_truth():
    survey = "sim:spectra?count=40&outliers=0.5&shard_rows=25"
    shards = surveys.list_shards(survey).shards
    assert [shard.num_rows for shard in shards] == [25, 15]
    rows = [found for shard in shards for found in surveys.read_shard(shard)]
    assert not any(isinstance(found, Reject) for found in rows)
    truth = truth_table(survey)
    assert [name for found in rows for name in found.object_id_B] == truth["object_id"].to_pylist()
    np.testing.assert_allclose(np.concatenate([r.ra_deg_B for r in rows]), truth["ra"])
    assert set(truth["kind"].to_pylist()) >= {"star", "quasar", "carbon"}
    (one,) = surveys.read_shard(shards[1], rows=[3])
    np.testing.assert_array_equal(one.spectrum_B[0].flux, rows[-1].spectrum_B[3].flux)
    assert "1,900 pixels" in str(preview.look(survey, n=5))


def test_a_simulated_survey_on_disk_holds_the_same_spectra_and_the_truth(tmp_path):
    survey = "sim:spectra?count=9&outliers=0.5&shard_rows=5"
    made = [spectrum for rows in _read(survey) for spectrum in rows.spectrum_B]
    found = [one for rows in _read(write_survey(survey, str(tmp_path))) for one in rows.spectrum_B]
    assert sorted(one.object_id for one in found) == [one.object_id for one in made]
    for one, other in zip(made, sorted(found, key=lambda one: one.object_id), strict=True):
        for name in ("wavelength", "flux", "ivar", "mask"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-6)
        facts = (one.ra_deg, one.dec_deg, one.redshift)
        assert (other.ra_deg, other.dec_deg, other.redshift) == facts
    truth = pq.read_table(tmp_path / "truth.parquet")
    assert truth.equals(truth_table(survey))
    assert truth["is_outlier"].to_pylist() == [kind != "star" for kind in truth["kind"].to_pylist()]


def _read(survey):
    shards = surveys.list_shards(survey).shards
    return [rows for shard in shards for rows in surveys.read_shard(shard)]
