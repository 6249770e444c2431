"""A scan of light curves from end to end: catalog, rejects, pictures, report."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from astroray import inspection
from astroray.catalog import read_catalog
from astroray.errors import ConfigError
from astroray.report.plots import SIZE_PX, render_curve
from tests import scans
from tests.light_curves_made import fluxes, times, write_mission
from tests.onnx_made import write_program
from tests.test_curve_preparation import curve, noise

NUM_STARS, NUM_CADENCES = 12, 600


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Twelve quiet stars, one with dips of 20 %, and one whose flux is missing."""
    folder = tmp_path_factory.mktemp("kepler")
    time_d = times(num=NUM_CADENCES)
    for star in range(NUM_STARS + 2):
        flux = fluxes(NUM_CADENCES, seed=star)
        if star == NUM_STARS:
            flux[::40] *= 0.8
        if star == NUM_STARS + 1:
            flux[:] = np.nan
        primary = {"OBJECT": f"KIC {star}", "KEPLERID": star, "RA_OBJ": 290 + star}
        write_mission(folder / f"kplr{star:09d}_llc.fits", time=time_d, flux=flux, primary=primary)
    return f"{folder}/*_llc.fits"


def test_a_scan_of_light_curves_ranks_the_odd_one_first_and_shows_it(survey, tmp_path):
    record = scans.scan_here(survey, tmp_path, encoder__name="auto", encoder__size_px=None)
    assert record.model.encoder == "waves"
    assert record.counts.rows_read == NUM_STARS + 2
    assert record.counts.rows_embedded == record.counts.catalog == NUM_STARS + 1
    assert [row.kind for row in record.rejects] == ["empty"]
    catalog = read_catalog(str(tmp_path))
    assert catalog["object_id"][0].as_py() == f"KIC {NUM_STARS} Q2"
    shown = pq.read_table(tmp_path / "thumbnails" / "thumbnails.parquet")
    assert f"KIC {NUM_STARS} Q2" in shown["object_id"].to_pylist()
    page = (tmp_path / "report" / "index.html").read_text()
    assert "relative flux, 2 × 512 bins of 29.4 min" in page
    assert inspection.verify_run(str(tmp_path)) == []


def test_a_network_of_one_s_own_ranks_light_curves(survey, tmp_path):
    above_and_below = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    program = write_program(tmp_path / "mine.onnx", above_and_below, size_px=2, width_px=512)
    record = scans.scan_here(survey, tmp_path / "run", encoder__name=program, encoder__size_px=None)
    assert record.model.encoder == "onnx-light-curves"
    assert read_catalog(str(tmp_path / "run"))["object_id"][0].as_py() == f"KIC {NUM_STARS} Q2"


def test_an_encoder_of_images_is_refused_before_a_light_curve_is_read(survey, tmp_path):
    with pytest.raises(ConfigError, match="pca takes images, the survey has light curves"):
        scans.scan_here(survey, tmp_path, encoder__name="pca", encoder__size_px=None)
    assert not (tmp_path / "embeddings").exists()


def test_a_picture_shows_a_flare_above_the_rest():
    flux = noise(2000, scatter=1.0)
    flux[1000:1020] += 300
    picture = Image.open(io.BytesIO(render_curve(curve(flux))))
    assert picture.size == (SIZE_PX, SIZE_PX)
    light_YX = np.asarray(picture.convert("L"), float)[30:160]
    assert light_YX[:40, 90:102].max() > 100 > light_YX[:40, 40:80].max()


@pytest.mark.parametrize(
    "flux", [noise(5), noise(5000, level=0.0), np.r_[np.full(9, np.nan), noise(30)], [1.0, 2.0]]
)
def test_short_gappy_and_centered_light_curves_have_pictures_too(flux):
    assert Image.open(io.BytesIO(render_curve(curve(flux)))).size == (SIZE_PX, SIZE_PX)
