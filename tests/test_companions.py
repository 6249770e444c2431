"""Weights and masks beside images are noticed by their names, and nothing else is."""

import re

import pytest

from astroray.surveys.companions import warn_of_companions

LEGACY = [
    f"/tiles/legacysurvey-0001m002-{kind}-{band}.fits.fz"
    for kind in ("image", "invvar", "nexp")
    for band in "grz"
]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (LEGACY, "6 of 9 files look like weights or masks .*-invvar-g.* such as '\\*image\\*'"),
        (["a/1497p015-w1-img-m.fits", "a/1497p015-w1-std-m.fits"], "1 of 2 .* '\\*img\\*'"),
        (["k_r_sci.fits", "k_r_wei.fits", "k_r_msk.fits"], "2 of 3 .* '\\*sci\\*'"),
        (["sky.fits", "sky.weight.fits"], "1 of 2 .*sky.weight.fits"),
        (["T_BGSUB-VIS_1.fits", "T_VIS-RMS_1.fits"], "1 of 2 .* '\\*BGSUB\\*'"),
        (["a.fits", "B_MASK.FITS"], "1 of 2 .*B_MASK.FITS"),
    ],
)
def test_companions_are_named_with_a_glob_that_leaves_them_out(caplog, paths, said):
    warn_of_companions(paths)
    [message] = caplog.messages
    assert re.search(said, message), message


@pytest.mark.parametrize(
    "paths",
    [
        [],
        LEGACY[:3],
        LEGACY[3:],
        ["masked_1.fits", "masked_2.fits"],
        ["a/weight/1.fits", "a/2.fits"],
        ["star_mask.jpg", "star.jpg"],
    ],
)
def test_images_alone_or_weights_alone_are_not_remarked_on(caplog, paths):
    warn_of_companions(paths)
    assert not caplog.messages
