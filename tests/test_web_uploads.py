"""Bad uploads: each is refused with a reason, at once, and nothing else happens."""

import gzip
import io
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits

from astroray.errors import DataError
from astroray.preparation import Preparation
from astroray.web.uploads import Beside, UnknownFormatError, read_upload
from benchmarks.bad_uploads import bombs, fits_bytes, picture_bytes, spoiled

MAX_PIXELS = 100_000
FLUX = Preparation(
    size_px=16, bands=("g", "r", "i"), pixels="flux", stretch="asinh", sky_C=(0.0,) * 3,
    noise_C=(1.0,) * 3, peak_C=(100.0,) * 3,
)  # fmt: skip
DISPLAY = Preparation(
    size_px=16, bands=("R", "G", "B"), pixels="display", stretch="none", sky_C=(0.0,) * 3,
    noise_C=(1.0,) * 3, peak_C=(1.0,) * 3,
)  # fmt: skip
IMAGE = np.random.default_rng(2).normal(10, 3, (3, 20, 24)).astype(np.float32)
GOOD = [
    fits_bytes(IMAGE, FLUX.bands), picture_bytes("PNG"), picture_bytes("JPEG"),
    gzip.compress(fits_bytes(IMAGE, FLUX.bands), mtime=0),
]  # fmt: skip


def read(data, preparation=FLUX, **options):
    return read_upload(data, preparation, max_pixels=MAX_PIXELS, **options)


def test_good_uploads_are_read_packed_or_not():
    image = read(GOOD[0]).input_BCYX
    assert image.shape == (1, 3, 16, 16)
    np.testing.assert_array_equal(read(GOOD[3]).input_BCYX, image)
    assert read(GOOD[1], DISPLAY).input_BCYX.shape == (1, 3, 16, 16)
    assert read(GOOD[2], DISPLAY).input_BCYX.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_is_refused_before_it_takes_memory(name):
    data = bombs()[name]
    tracemalloc.start()
    for preparation in (FLUX, DISPLAY):
        with pytest.raises(DataError):
            read(data, preparation)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8 * 2**20


@pytest.mark.parametrize("data", [b"\x80\x04.", b"\x93NUMPY", b"PK\x03\x04", b"II*\0", b"GIF89a"])
def test_other_formats_are_not_even_tried(data):
    with pytest.raises(UnknownFormatError, match="expected a FITS file"):
        read(data)


def test_a_form_is_told_how_a_file_is_sent():
    with pytest.raises(UnknownFormatError, match="a form: send the file itself"):
        read(b'--------b7e1\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + GOOD[0])


def test_a_picture_for_a_model_of_flux_is_refused_by_what_it_needs():
    with pytest.raises(DataError, match=r"got display pixels.*expected flux pixels in bands g, r"):
        read(GOOD[1])
    with pytest.raises(DataError, match="expected display pixels"):
        read(GOOD[0], DISPLAY)


def test_more_pixels_than_allowed_are_refused_though_they_are_there():
    big = np.ones((3, 200, 200), np.float32)
    with pytest.raises(DataError, match="120000 pixels, expected at most 100000"):
        read(fits_bytes(big, FLUX.bands))
    with pytest.raises(DataError, match="expected at most"):
        read(picture_bytes("PNG", size_px=200), DISPLAY)


def test_spoiled_files_are_read_or_refused_with_a_reason_and_never_anything_else():
    reasons = []
    for data in spoiled(GOOD, 600, seed=1):
        preparation = DISPLAY if data[:1] in (b"\x89", b"\xff") else FLUX
        try:
            image = read(data, preparation).input_BCYX
        except DataError as error:
            reasons.append(str(error))
        else:
            assert image.shape == (1, 3, 16, 16)
            assert np.isfinite(image).all()
    assert len(reasons) > 250
    assert all(10 < len(reason) < 1000 for reason in reasons)


def two_images():
    """A FITS file of a cutout in g, r and i and one of its residuals."""
    sink = io.BytesIO()
    images = (fits.ImageHDU(image, name=name) for image, name in ((IMAGE, "SKY"), (-IMAGE, "REST")))
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(sink)
    return sink.getvalue()


@pytest.mark.parametrize(("hdu", "sign"), [("SKY", 1), ("REST", -1), ("2", -1)])
def test_an_upload_is_read_from_the_image_that_the_survey_is_read_from(hdu, sign):
    params = {"layout": "stamp", "hdu": hdu, "bands": "g,r,i"}
    expected = read(fits_bytes(sign * IMAGE, FLUX.bands)).input_BCYX
    np.testing.assert_array_equal(read(two_images(), params=params).input_BCYX, expected)
    alone = fits_bytes(sign * IMAGE, FLUX.bands)  # which has no such HDU, and one image
    np.testing.assert_array_equal(read(alone, params=params).input_BCYX, expected)
    with pytest.raises(DataError, match="has no image HDU 'BAND9', expected one of"):
        read(two_images(), params=params | {"hdu": "BAND9"})


def test_planes_have_the_names_of_the_request_else_their_own_else_those_of_the_survey():
    params = {"layout": "stamp", "hdu": "", "bands": "i,r,g"}
    straight, turned = (
        read(fits_bytes(image, FLUX.bands)).input_BCYX for image in (IMAGE, IMAGE[::-1])
    )
    for bands, asked, expected in (
        ((), "", turned),
        (("g", "r", "i"), "", straight),
        ((), "g,r,i", straight),
    ):
        found = read(fits_bytes(IMAGE, bands), params=params, beside=Beside(bands=asked))
        np.testing.assert_array_equal(found.input_BCYX, expected)
