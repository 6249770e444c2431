"""Cutouts become what an encoder eats, or a counted reject."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from astroray.errors import ConfigError
from astroray.preparation import (
    Preparation,
    Wishes,
    measure,
    measure_cutouts,
    not_prepared,
    prepare,
    resample,
    stretch,
)
from astroray.schema import Flag
from tests.surveys_made import cutouts


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(5.0, 2.0, shape).astype(np.float32)


@pytest.fixture
def sample():
    image_BCYX = noise((40, 3, 32, 32))
    image_BCYX[:, :, 14:18, 14:18] += 300.0
    return cutouts(image_BCYX)


@pytest.fixture
def preparation(sample):
    return measure(iter([sample]), size_px=16)


def test_measured_levels_are_those_of_the_sky(preparation):
    np.testing.assert_allclose(preparation.sky_C, 5.0, atol=0.1)
    np.testing.assert_allclose(preparation.noise_C, 2.0, atol=0.1)
    assert all(290 < peak < 330 for peak in preparation.peak_C)
    assert preparation.stretch == "asinh"


def test_prepared_pixels_lie_in_0_to_1_and_use_that_range(sample, preparation):
    image_BCYX = prepare(sample, preparation).input_BCYX
    assert image_BCYX.shape == (40, 3, 16, 16)
    assert image_BCYX.dtype == np.float32
    assert 0 <= image_BCYX.min() < 0.3
    assert 0.8 < image_BCYX.max() <= 1


def test_three_noise_levels_below_the_sky_is_black_and_the_peak_is_white():
    levels = {"sky_C": (10.0,), "noise_C": (2.0,), "peak_C": (1010.0,)}
    one = Preparation(size_px=8, bands=("g",), pixels="flux", stretch="asinh", **levels)
    flux = np.array([-50.0, 4.0, 10.0, 12.0, 1010.0, 5000.0], np.float32).reshape(1, 1, 1, 6)
    floor, top = np.arcsinh(-3), np.arcsinh(500)
    expected = [0, 0, -floor / (top - floor), (np.arcsinh(1) - floor) / (top - floor), 1, 1]
    np.testing.assert_allclose(stretch(flux, one).ravel(), expected, atol=1e-6)


def test_the_sky_is_that_of_the_border_and_what_lies_inside_has_no_say():
    image_BCYX = np.full((20, 1, 32, 32), 300.0, np.float32)
    ring = np.ones((32, 32), bool)
    ring[1:-1, 1:-1] = False
    image_BCYX[:, 0, ring] = noise((20, ring.sum()))
    found = measure(iter([cutouts(image_BCYX)]), size_px=16)
    assert (found.sky_C[0], found.noise_C[0]) == pytest.approx((5, 2), abs=0.1)
    assert found.peak_C == (300.0,)


def test_a_sky_without_noise_gets_a_thousandth_of_the_peak_and_an_empty_one_something():
    image_BCYX = np.zeros((5, 2, 16, 16), np.float32)
    image_BCYX[:, 0, 8, 8] = 500.0
    found = measure(iter([cutouts(image_BCYX)]), size_px=16)
    assert found.noise_C == (0.5, 1.0)
    assert found.peak_C == (500.0, 10.0)  # at least ten noise levels, or noise would be white


def test_a_noiseless_sky_gets_a_thousandth_of_what_the_peak_is_above_it():
    image_BCYX = np.full((5, 1, 16, 16), 100.0, np.float32)
    image_BCYX[:, 0, 8, 8] = 600.0
    assert measure(iter([cutouts(image_BCYX)]), size_px=16).noise_C == (0.5,)


def test_each_band_has_its_own_levels_of_the_finite_pixels():
    image_BCYX = np.zeros((101, 3, 8, 8), np.float32)
    image_BCYX[:, 1] += 50.0
    image_BCYX[:, 2] = np.nan
    image_BCYX[:, :2, 4, 4] += 100 + np.arange(101)[:, None]  # peaks of each band: 100, 101 .. 200
    image_BCYX[:, :2, 3, 3] = np.nan
    image_BCYX[0, :2, 3, 4] = np.inf
    found = measure(iter([cutouts(image_BCYX)]), size_px=16)
    assert found.sky_C == (0.0, 50.0, 0.0)
    assert found.peak_C == pytest.approx((199.0, 249.0, 10.0))
    assert found.noise_C == pytest.approx((0.199, 0.199, 1.0))


def test_the_sky_is_that_of_all_four_edges_alike():
    image_BCYX = np.full((1, 4, 8, 8), np.nan, np.float32)
    inside = np.s_[1:-1]
    for number, edge in enumerate(((0, inside), (-1, inside), (inside, 0), (inside, -1))):
        for band in range(4):
            image_BCYX[0, band][edge] = 1 + (number + band) % 4
    assert measure(iter([cutouts(image_BCYX)]), size_px=16).sky_C == (2.5,) * 4


def test_wished_bands_are_measured_in_the_order_of_the_wish(sample):
    image_BCYX = sample.image_BCYX + np.array([0, 10, 20], np.float32)[:, None, None]
    found = measure_cutouts(iter([cutouts(image_BCYX)]), Wishes(bands=("i", "g")))
    assert found.bands == ("i", "g")
    np.testing.assert_allclose(found.sky_C, (25, 5), atol=0.1)


def test_a_preparation_survives_json(preparation):
    stored = json.loads(json.dumps(dataclasses.asdict(preparation)))
    assert Preparation.from_json(stored) == preparation


def test_display_pictures_stay_as_they_are():
    image_BCYX = np.random.default_rng(0).uniform(0, 1, (2, 3, 32, 32)).astype(np.float32)
    pictures = cutouts(image_BCYX, pixels="display", bands=("R", "G", "B"))
    measured = measure(iter([pictures]), size_px=32)
    np.testing.assert_array_equal(prepare(pictures, measured).input_BCYX, image_BCYX)
    beyond = np.array([-0.5, 0.5, 1.5], np.float32)
    assert stretch(beyond, measured).tolist() == [0.0, 0.5, 1.0]


def test_a_row_is_prepared_the_same_alone_and_in_company(sample, preparation):
    together = prepare(sample, preparation).input_BCYX
    for i in (0, 7, 39):
        alone = prepare(cutouts(sample.image_BCYX[i : i + 1]), preparation).input_BCYX
        np.testing.assert_array_equal(alone[0], together[i])


def test_missing_pixels_are_filled_with_the_median_and_flagged(sample, preparation):
    image_BCYX = sample.image_BCYX.copy()
    image_BCYX[3, 1, :4] = np.nan
    prepared = prepare(cutouts(image_BCYX), preparation)
    assert not prepared.rejects
    assert prepared.flags_B.tolist() == [Flag.FILLED if i == 3 else 0 for i in range(40)]
    expected = image_BCYX.copy()
    expected[3, 1, :4] = np.nanmedian(image_BCYX[3, 1])
    np.testing.assert_array_equal(prepared.input_BCYX, stretch(resample(expected, 16), preparation))


@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (lambda image: image.fill(np.nan), "missing", "100% of the pixels are missing, expected"),
        (lambda image: image[:, :17].fill(np.nan), "missing", "53% of the pixels are missing"),
        (lambda image: image[2].fill(np.nan), "missing", "all pixels of band i are missing"),
        (lambda image: image.fill(0.0), "constant", "all pixels are 0"),
        (lambda image: image.fill(np.inf), "missing", "100% of the pixels"),
    ],
    ids=["all NaN", "53 % NaN", "a band NaN", "all zero", "infinite"],
)
def test_a_row_without_enough_to_look_at_is_a_reject_and_no_other_is_lost(
    sample, preparation, spoil, kind, reason
):
    image_BCYX = sample.image_BCYX.copy()
    spoil(image_BCYX[5])
    prepared = prepare(cutouts(image_BCYX), preparation)
    assert [(reject.row, reject.kind) for reject in prepared.rejects] == [(5, kind)]
    assert reason in prepared.rejects[0].reason
    assert prepared.index_B.tolist() == [i for i in range(40) if i != 5]
    assert len(prepared.input_BCYX) == 39
    assert np.isfinite(prepared.input_BCYX).all()


def test_gaps_in_one_band_are_not_said_of_another_that_is_empty(sample, preparation):
    image_BCYX = sample.image_BCYX.copy()
    image_BCYX[5, 0, :4], image_BCYX[5, 2] = np.nan, np.nan
    (reject,) = prepare(cutouts(image_BCYX), preparation).rejects
    assert reject.stage == "prepare"
    assert reject.reason == "all pixels of band i are missing, expected some"


def test_where_no_row_can_be_used_nothing_is_left_to_encode_and_each_has_a_reason(preparation):
    for rejected in (np.zeros((3, 3, 32, 32)), np.zeros((3, 2, 32, 32)), np.zeros((0, 3, 32, 32))):
        prepared = prepare(cutouts(rejected), preparation)
        assert prepared.input_BCYX.shape == (0, 3, 16, 16)
        assert prepared.input_BCYX.dtype == np.float32
        assert (prepared.index_B.tolist(), prepared.flags_B.tolist()) == ([], [])
        assert [reject.row for reject in prepared.rejects] == list(range(len(rejected)))


def test_so_many_pixels_as_are_allowed_may_be_missing(sample, preparation):
    image_BCYX = sample.image_BCYX.copy()
    image_BCYX[5, :, :16] = np.nan
    assert not prepare(cutouts(image_BCYX), preparation).rejects
    strict = measure_cutouts(iter([sample]), Wishes(max_missing=0.49))
    (reject,) = prepare(cutouts(image_BCYX), strict).rejects
    assert reject.reason == "50% of the pixels are missing, expected at most 49%"
    assert not_prepared(cutouts(image_BCYX), strict) == (reject,)


def test_a_picture_without_pixels_is_a_reject(preparation):
    (reject,) = prepare(cutouts(np.zeros((1, 3, 0, 8))), preparation).rejects
    assert (reject.kind, reject.reason) == ("shape", "image is (0, 8) px: no pixels")


def test_a_survey_without_a_band_of_the_model_is_rejected_row_by_row(sample, preparation):
    prepared = prepare(cutouts(sample.image_BCYX[:, :2]), preparation)
    assert len(prepared.rejects) == 40
    assert "expected flux pixels in bands g, r, i" in prepared.rejects[0].reason


def test_pixels_of_another_kind_than_the_model_s_are_rejected_row_by_row(sample, preparation):
    display = cutouts(sample.image_BCYX, pixels="display")
    prepared = prepare(display, preparation)
    assert len(prepared.rejects) == 40
    assert prepared.rejects[0].kind == "bands"
    assert "got display pixels in bands g, r, i, expected flux" in prepared.rejects[0].reason


def test_bands_are_taken_by_name(sample, preparation):
    turned = dataclasses.replace(
        sample, image_BCYX=sample.image_BCYX[:, ::-1], bands=("i", "r", "g")
    )
    np.testing.assert_array_equal(
        prepare(turned, preparation).input_BCYX, prepare(sample, preparation).input_BCYX
    )


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
def test_resampling_keeps_the_mean_of_the_central_square(shape):
    image_BCYX = noise((2, 1, *shape)) + 100
    square_BCYX = image_BCYX[..., 12:52] if shape[1] > 40 else image_BCYX[:, :, 12:52]
    np.testing.assert_array_equal(resample(image_BCYX, 40), square_BCYX)
    small = resample(image_BCYX, 10)
    assert small.shape == (2, 1, 10, 10)
    np.testing.assert_allclose(small.mean(axis=(2, 3)), square_BCYX.mean(axis=(2, 3)), rtol=2e-3)


@pytest.mark.parametrize("size_px", [8, 20, 33, 64])
def test_resampling_is_that_of_pillow_smaller_or_larger(size_px):
    picture_YX = noise((40, 40))
    peer_YX = Image.fromarray(picture_YX).resize((size_px, size_px), Image.Resampling.BILINEAR)
    got_BCYX = resample(picture_YX[None, None], size_px)
    np.testing.assert_allclose(got_BCYX[0, 0], np.asarray(peer_YX), rtol=1e-5)


def test_resampling_takes_pixels_as_files_give_them_mirrored_and_not_to_be_written():
    whole_BCYX = noise((2, 1, 24, 24))
    whole_BCYX.flags.writeable = False
    np.testing.assert_array_equal(
        resample(whole_BCYX[:, :, ::-1], 12), resample(whole_BCYX[:, :, ::-1].copy(), 12)
    )


@pytest.mark.parametrize(
    ("edge", "wished", "size_px"), [(100, None, 64), (47, None, 32), (10, None, 16), (100, 40, 40)]
)
def test_the_size_is_that_of_the_cutouts_as_networks_take_it_or_as_wished(edge, wished, size_px):
    slices = [cutouts(noise((n, 1, px, 200))) for n, px in ((3, edge), (1, 16), (1, 150))]
    assert measure_cutouts(iter(slices), Wishes(size_px=wished)).size_px == size_px


def test_a_mixed_survey_is_refused(sample):
    other = cutouts(sample.image_BCYX, pixels="display")
    with pytest.raises(
        ConfigError, match=r"flux cutouts in bands g, r, i with display .* such as o0 and o0"
    ):
        measure(iter([sample, other]), size_px=16)


@pytest.mark.parametrize(
    ("first", "other", "is_advised"),
    [(("g",), ("r",), True), (("g",), ("g", "r"), False), (("g", "r"), ("r", "i"), False)],
)
def test_files_of_a_band_each_are_refused_with_advice_to_name_the_bands(first, other, is_advised):
    mixed = [cutouts(noise((2, len(bands), 16, 16)), bands=bands) for bands in (first, other)]
    with pytest.raises(ConfigError, match="scan them one by one, each by a glob") as refused:
        measure(iter(mixed), size_px=16)
    assert ("name the bands as the files do: bands=g,r" in str(refused.value)) == is_advised


def test_the_advice_on_bands_is_not_for_two_kinds_of_pixels_in_one_band():
    mixed = [cutouts(noise((2, 1, 16, 16)), bands=("g",), pixels=p) for p in ("flux", "display")]
    with pytest.raises(ConfigError, match=r"each by a glob$"):
        measure(iter(mixed), size_px=16)


def test_pictures_without_pixels_say_nothing_of_a_survey(sample, preparation):
    nothing = cutouts(np.zeros((50, 3, 0, 0)))
    measured = measure_cutouts(iter([nothing, sample]), Wishes())
    assert (measured.size_px, measured.sky_C) == (32, preparation.sky_C)
    with pytest.raises(ConfigError, match="no readable cutout"):
        measure_cutouts(iter([nothing]), Wishes())


def test_an_empty_sample_is_refused():
    with pytest.raises(ConfigError, match="no readable cutout"):
        measure(iter([]), size_px=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 4}, "size is 4 px, expected 8"),
        ({"size_px": 513}, "size is 513 px"),
        ({"max_missing": 1.0}, "max_missing is 1.0, expected 0 up to below 1"),
        ({"max_missing": -0.1}, "max_missing is -0.1"),
    ],
)
def test_a_preparation_that_makes_no_sense_is_refused(preparation, change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(preparation, **change)


@pytest.mark.parametrize("change", [{"size_px": 8}, {"size_px": 512}, {"max_missing": 0.0}])
def test_a_preparation_at_its_limits_is_taken(preparation, change):
    dataclasses.replace(preparation, **change)


@pytest.mark.parametrize("name", ["size_px", "bands", None])
def test_wishes_for_images_are_refused_where_there_are_none(name):
    if name is None:
        Wishes(max_missing=0.1, num_windows=3).refuse_those_of_images("spectra")
        return
    wishes = Wishes(**{name: {"size_px": 64, "bands": ("g",)}[name]})
    with pytest.raises(ConfigError, match=rf"encoder\.{name} is for images, .* has spectra"):
        wishes.refuse_those_of_images("spectra")
