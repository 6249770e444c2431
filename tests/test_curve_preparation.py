"""How light curves become arrays of one size: the grid, gaps, scale and what is rejected."""

import dataclasses

import numpy as np
import pytest

from astroray import surveys
from astroray.encoders import AUTO, choose_encoder
from astroray.errors import ConfigError
from astroray.preparation import Wishes
from astroray.preparation.light_curves import (
    WINDOW,
    CurvePreparation,
    measure_curves,
    prepare_curves,
)
from astroray.schema import Flag
from astroray.surveys.light_curve_rows import LightCurve, LightCurves
from tests.light_curves_made import fluxes, times, write_mission

PREPARATION = CurvePreparation(cadence_s=120.0, num_windows=2, is_relative=True, scale=0.01)
NUM = PREPARATION.num_windows * WINDOW


def curve(flux, *, time_d=None, row=0, cadence_s=120.0):
    flux = np.asarray(flux, np.float64)
    time_d = np.arange(len(flux)) * cadence_s / 86400 if time_d is None else np.asarray(time_d)
    return LightCurve(
        object_id=f"star {row}", row=row, ra_deg=10.0, dec_deg=-5.0, time_d=time_d,
        time_zero="BTJD", flux=flux, flux_err=np.full(len(flux), np.nan),
        quality=np.zeros(len(flux), np.int32), flux_kind="flux", mission="other",
        cadence_s=float(np.median(np.diff(time_d))) * 86400, meta={},
    )  # fmt: skip


def slice_of(*curves):
    curves = [dataclasses.replace(c, row=row) for row, c in enumerate(curves)]
    return LightCurves(
        row_B=np.arange(len(curves)),
        object_id_B=[f"star {row}" for row in range(len(curves))],
        ra_deg_B=np.full(len(curves), 10.0),
        dec_deg_B=np.full(len(curves), -5.0),
        flags_B=np.zeros(len(curves), np.int32),
        curve_B=curves,
    )


def noise(num=300, *, seed=0, level=1000.0, scatter=10.0):
    return level + scatter * np.random.default_rng(seed).normal(size=num)


def test_each_cadence_of_an_even_curve_is_a_bin_and_the_rest_is_unobserved():
    flux = noise(300)
    (input_2WX,) = prepare_curves(slice_of(curve(flux)), PREPARATION).input_BCYX
    value_T, seen_T = input_2WX.reshape(2, -1)
    expected_T = np.arcsinh((flux / np.median(flux) - 1) / PREPARATION.scale)
    np.testing.assert_allclose(value_T[:300], expected_T, rtol=1e-5, atol=1e-6)
    assert seen_T.tolist() == [1.0] * 300 + [0.0] * (NUM - 300)
    assert not value_T[300:].any()


def test_a_gap_leaves_its_bins_unobserved_and_a_missing_flux_too():
    flux = noise(300)
    flux[100:140] = np.nan
    kept = np.r_[0:200, 250:300]
    gappy = curve(flux[kept], time_d=(np.arange(300) * 120 / 86400)[kept])
    (input_2WX,) = prepare_curves(slice_of(gappy), PREPARATION).input_BCYX
    seen_T = input_2WX[1].reshape(-1)
    expected_T = np.zeros(NUM)
    expected_T[:100] = expected_T[140:200] = expected_T[250:300] = 1
    np.testing.assert_array_equal(seen_T, expected_T)
    assert np.isfinite(input_2WX).all()


def test_cadences_of_one_bin_are_averaged():
    flux = noise(400)
    wide = dataclasses.replace(PREPARATION, cadence_s=240.0)
    fast = curve(flux, time_d=(np.arange(400) - 0.5 * (np.arange(400) % 2)) * 120 / 86400)
    (input_2WX,) = prepare_curves(slice_of(fast), wide).input_BCYX
    expected_T = np.arcsinh(
        (flux.reshape(200, 2).mean(1) / np.median(flux) - 1) / PREPARATION.scale
    )
    np.testing.assert_allclose(input_2WX[0].reshape(-1)[:200], expected_T, rtol=1e-4, atol=1e-5)


def test_a_unit_of_flux_does_not_matter_where_flux_is_relative():
    flux = noise(300)
    done = prepare_curves(slice_of(curve(flux), curve(flux * 1e6)), PREPARATION)
    np.testing.assert_allclose(done.input_BCYX[0], done.input_BCYX[1], rtol=1e-5, atol=1e-6)


def test_a_curve_longer_than_the_windows_gets_wider_bins_and_a_flag():
    long = curve(noise(3 * NUM - 2))
    done = (
        prepare_curves(slice_of(curve(noise())), PREPARATION),
        prepare_curves(slice_of(long), PREPARATION),
    )
    assert done[0].flags_B.tolist() == [0]
    assert done[1].flags_B.tolist() == [Flag.COARSER]
    assert done[1].input_BCYX[0, 1].sum() == NUM
    slightly = prepare_curves(slice_of(curve(noise(NUM + 9))), PREPARATION).input_BCYX[0, 1]
    assert (NUM, slightly[0].sum()) == (slightly.sum(), WINDOW)  # not bins of twice the width


@pytest.mark.parametrize(
    ("flux", "kind", "reason"),
    [
        (np.full(300, 7.0), "constant", "every flux is 7"),
        (-noise(300), "level", "expected above 0"),
        (np.arange(301.0) - 150, "level", "median flux is 0, expected above 0"),
        (np.where(np.arange(300) < 3, noise(300), np.nan), "sparse", "3 bins of 0.00139 d"),
    ],
)
def test_what_cannot_be_prepared_is_a_reject_that_says_why(flux, kind, reason):
    done = prepare_curves(slice_of(curve(noise()), curve(flux), curve(noise(seed=1))), PREPARATION)
    assert [(reject.row, reject.stage, reject.kind) for reject in done.rejects] == [
        (1, "prepare", kind)
    ]
    assert reason in done.rejects[0].reason
    assert done.index_B.tolist() == [0, 2]
    assert len(done.input_BCYX) == 2


def test_four_bins_with_a_measurement_are_enough():
    few = np.where(np.arange(300) < 4, noise(300), np.nan)
    assert not prepare_curves(slice_of(curve(few)), PREPARATION).rejects


def test_a_slice_without_a_usable_row_has_no_input():
    done = prepare_curves(slice_of(curve(np.full(300, 7.0))), PREPARATION)
    assert done.input_BCYX.shape == (0, 2, 2, WINDOW)
    assert (len(done.index_B), len(done.flags_B), len(done.rejects)) == (0, 0, 1)


def test_the_grid_is_the_survey_s_own_cadence_where_the_windows_suffice():
    curves = [curve(noise(900, seed=seed)) for seed in range(20)]
    found = measure_curves(iter([slice_of(*curves)]), Wishes())
    assert (found.num_windows, found.is_relative) == (2, True)
    assert found.cadence_s == pytest.approx(120, rel=1e-6)
    assert found.scale == pytest.approx(0.01, rel=0.05)


def test_a_dense_survey_is_binned_to_sixteen_windows_and_a_sparse_one_to_few():
    dense = [curve(noise(60_000, seed=seed)) for seed in range(3)]
    found = measure_curves(iter([slice_of(*dense)]), Wishes())
    assert (found.num_windows, round(found.cadence_s)) == (16, 923)
    sparse = [curve(noise(40, seed=s), time_d=np.arange(40) * 70.0) for s in range(3)]
    far = [dataclasses.replace(c, cadence_s=900.0) for c in sparse]
    assert measure_curves(iter([slice_of(*far)]), Wishes()).num_windows == 1


def test_windows_that_a_network_asks_for_are_filled_with_bins_as_wide_as_they_must_be():
    curves = [curve(noise(900, seed=seed)) for seed in range(20)]  # of 120 s
    longer, shorter = (
        measure_curves(iter([slice_of(*curves)]), Wishes(num_windows=number)) for number in (4, 1)
    )
    assert (longer.num_windows, round(longer.cadence_s)) == (4, 120)
    assert (shorter.num_windows, round(shorter.cadence_s)) == (1, 222)


def test_fluxes_of_differences_are_not_divided_by_their_median():
    curves = [curve(noise(300, seed=seed, level=0.0)) for seed in range(20)]
    found = measure_curves(iter([slice_of(*curves)]), Wishes())
    assert not found.is_relative
    assert found.scale == pytest.approx(10, rel=0.1)
    assert not prepare_curves(slice_of(*curves), found).rejects


@pytest.mark.parametrize(("num_negative", "is_relative"), [(2, True), (3, False)])
def test_flux_is_relative_where_nine_of_ten_medians_are_above_zero(num_negative, is_relative):
    levels = [-1000.0] * num_negative + [1000.0] * (20 - num_negative)
    curves = [curve(noise(seed=seed, level=level)) for seed, level in enumerate(levels)]
    found = measure_curves(iter([slice_of(*curves)]), Wishes())
    assert found.is_relative == is_relative
    assert found.scale == pytest.approx(0.01 if is_relative else 10, rel=0.1)
    assert len(prepare_curves(slice_of(*curves), found).rejects) == num_negative * is_relative


def test_wishes_for_images_are_refused():
    with pytest.raises(ConfigError, match=r"encoder\.size_px is for images"):
        measure_curves(iter([slice_of(curve(noise()))]), Wishes(size_px=32))


def test_a_preparation_goes_through_json():
    assert CurvePreparation.from_json(dataclasses.asdict(PREPARATION)) == PREPARATION


@pytest.mark.parametrize(
    "change", [{"num_windows": 0}, {"num_windows": 17}, {"cadence_s": 0.0}, {"scale": 0.0}], ids=str
)
def test_a_preparation_that_makes_no_sense_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(PREPARATION, **change)


def test_a_preparation_says_what_an_encoder_gets():
    fast = dataclasses.replace(PREPARATION, cadence_s=0.6, num_windows=16)
    slow = dataclasses.replace(PREPARATION, cadence_s=86400.0, is_relative=False)
    assert [one.describe()["input"] for one in (PREPARATION, fast, slow)] == [
        "relative flux, 2 × 512 bins of 2 min",
        "relative flux, 16 × 512 bins of 0.01 min",
        "flux, 2 × 512 bins of 1 d",
    ]
    assert PREPARATION.describe()["scale"] == 0.01


def test_files_of_a_mission_are_light_curves_and_each_visit_has_a_name(tmp_path):
    write_mission(tmp_path / "kplr1_llc.fits", primary={"QUARTER": 3})
    write_mission(tmp_path / "kplr2_llc.fits", primary={"QUARTER": 4})
    write_mission(tmp_path / "kplr3_llc.fits", flux=np.full(200, np.nan))
    (shard,) = surveys.list_shards(f"{tmp_path}/*.fits").shards
    assert surveys.modality_of(shard) == "light_curves"
    read, reject = surveys.read_shard(shard)
    assert read.object_id_B == ["KIC 9726699 Q3", "KIC 9726699 Q4"]
    assert (reject.row, reject.kind) == (2, "empty")
    (only,) = surveys.read_shard(shard, rows=[1])
    assert only.object_id_B == ["KIC 9726699 Q4"]
    np.testing.assert_array_equal(only.curve_B[0].flux, read.curve_B[1].flux)


def test_a_visit_without_a_number_is_named_after_its_first_day(tmp_path):
    for name, first_d in (("a", 2000.25), ("b", 2700.5)):
        time_d = first_d + np.arange(200) / 720
        np.savez(tmp_path / f"{name}.npz", time=time_d, flux=fluxes(), tic=7)
    survey = f"{tmp_path}/*.npz?format=light_curves&time=BTJD&mission=tess"
    (read,) = surveys.read_shard(surveys.list_shards(survey).shards[0])
    assert [name.split()[-2:] for name in read.object_id_B] == [["BTJD", "2000"], ["BTJD", "2700"]]


def test_the_encoder_follows_from_what_the_survey_holds_and_another_kind_is_refused():
    assert choose_encoder(AUTO, "images") == "rings"
    assert choose_encoder(AUTO, "light_curves") == "waves"
    assert choose_encoder("lc-tiny", "light_curves") == "lc-tiny"
    with pytest.raises(ConfigError, match=r"rings takes images, the survey has light curves"):
        choose_encoder("rings", "light_curves")


def test_times_of_the_missions_are_even_enough_for_their_own_bins(tmp_path):
    """An even cadence never puts two cadences into one bin."""
    write_mission(tmp_path / "kplr1_llc.fits", time=times(num=2000), flux=fluxes(2000))
    (read,) = surveys.read_shard(surveys.list_shards(f"{tmp_path}/*.fits").shards[0])
    found = measure_curves(iter([read]), Wishes())
    assert prepare_curves(read, found).input_BCYX[0, 1].sum() == 2000
