"""Positions: HEALPix indices as HATS has them, separations."""

import numpy as np
import pytest
from hats.pixel_math.spatial_index import compute_spatial_index

from astroray import sky


def test_the_index_is_the_one_that_hats_computes():
    random = np.random.default_rng(1)
    ra = random.uniform(0, 360, 1000)
    dec = np.degrees(np.arcsin(random.uniform(-1, 1, 1000)))
    np.testing.assert_array_equal(sky.healpix_29(ra, dec), compute_spatial_index(ra, dec))


def test_a_parent_pixel_is_four_times_coarser_an_order():
    index = sky.healpix_29(np.array([123.4]), np.array([-45.6]))
    assert sky.parent_pixel(index, 28)[0] == index[0] // 4
    assert 0 <= sky.parent_pixel(index, 0)[0] < 12


def test_nothing_has_no_index():
    assert sky.healpix_29(np.zeros(0), np.zeros(0)).shape == (0,)


def test_separation_of_a_degree_in_declination_is_3600_arcsec():
    assert sky.separation_arcsec(10.0, 0.0, 10.0, 1.0) == pytest.approx(3600.0)


def test_separation_in_right_ascension_shrinks_with_the_cosine_of_declination():
    got = sky.separation_arcsec(10.0, 60.0, 10.001, 60.0)
    assert got == pytest.approx(3.6 * 0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "words"),
    [
        (10.5, 3.25, "ra 10.500000, dec +3.250000 deg"),
        (0.0, 0.0, "ra 0.000000, dec +0.000000 deg"),
        (None, 3.25, "no position"),
        (10.5, None, "no position"),
    ],
)
def test_a_position_is_said_in_degrees_with_the_sign_of_its_declination(ra_deg, dec_deg, words):
    assert sky.describe_position(ra_deg, dec_deg) == words
