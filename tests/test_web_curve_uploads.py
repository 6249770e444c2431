"""Light curves that are uploaded: read as a scan reads them, or refused before they cost."""

import contextlib
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from astroray.errors import DataError
from astroray.flares import found_flares
from astroray.flares.detrend import detrend
from astroray.forecast.collect import star_windows
from astroray.surveys.light_curve_rows import LightCurve
from astroray.surveys.shards import Reject
from astroray.web.curve_uploads import (
    CurveLimits,
    Stated,
    UnknownFormatError,
    read_curves,
    read_rows,
)
from astroray.web.flares import LOOK_CELLS, MAX_CELLS, count_cells, read_bounded
from astroray.web.parquet_limits import check_parquet
from benchmarks.bad_uploads import curve_bombs, curve_bytes, parquet_bytes, spoiled
from tests.flares_made import MINUTE_D, light_curve, star
from tests.light_curves_made import read as read_files
from tests.light_curves_made import write_mission

LIMITS = CurveLimits()
TIME_D = 1400 + np.arange(700) * 2 / 1440
FLUX = np.random.default_rng(3).normal(1000, 2, 700)
GOOD = [curve_bytes(TIME_D, FLUX), parquet_bytes(TIME_D, FLUX, names=["a", "b"])]
GOOD.append(parquet_bytes(TIME_D, FLUX, compression="zstd", data_page_version="2.0"))


def read(data, limits=LIMITS, **stated):
    return read_curves(data, Stated(**stated), limits=limits)


@pytest.mark.parametrize("mission", ["kepler", "k2", "tess"])
def test_a_file_as_a_mission_publishes_it_is_the_light_curve_that_a_scan_reads(tmp_path, mission):
    path = write_mission(tmp_path / "x.fits", mission)
    (wanted,) = read_files(path.as_posix() + "?format=light_curves")
    (curve,) = read(path.read_bytes())
    assert (curve.object_id, curve.mission, curve.meta) == (
        wanted.object_id, wanted.mission, wanted.meta,
    )  # fmt: skip
    np.testing.assert_array_equal(curve.flux, wanted.flux)
    np.testing.assert_array_equal(curve.time_d, wanted.time_d)


def test_rows_of_a_parquet_file_are_light_curves_and_what_it_does_not_say_is_stated():
    first, second = read(GOOD[1], mission="tess")
    assert (first.object_id, second.object_id) == ("a", "b")
    assert (first.mission, first.time_zero) == ("tess", "BTJD")
    np.testing.assert_allclose(second.flux, FLUX)
    assert read(GOOD[2])[0].mission == "other"
    with pytest.raises(DataError, match="mission is 'mars', expected one of kepler, k2"):
        Stated(mission="mars")


def test_a_survey_that_cuts_windows_cuts_those_of_an_upload_too():
    rows = read_rows(GOOD[0], Stated(), limits=LIMITS, params={"window": 200})
    assert rows.object_id_B == [f"TIC 77 S3 W{number}" for number in range(4)]
    assert [len(curve.flux) for curve in rows.curve_B] == [200, 200, 200, 100]


@pytest.mark.parametrize("name", curve_bombs())
def test_a_bomb_is_refused_before_it_takes_memory(name):
    data = curve_bombs()[name]
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with contextlib.suppress(DataError):
        assert all(isinstance(item, Reject) for item in read(data))
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20 + 4 * len(data)
    assert pa.total_allocated_bytes() - before < 2**20
    tracemalloc.stop()


def test_spoiled_files_are_read_or_refused_with_a_reason_and_never_anything_else():
    reasons = []
    for data in spoiled(GOOD, 600, seed=1):
        try:
            items = read(data)
        except DataError as error:
            reasons.append(str(error))
        else:
            reasons += [item.reason for item in items if isinstance(item, Reject)]
            assert all(isinstance(item, LightCurve | Reject) for item in items)
    assert len(reasons) > 250
    assert all(10 < len(reason) < 1000 for reason in reasons)


def test_a_page_of_every_encoding_is_walked_to_its_end():
    for options in ({}, {"compression": "gzip"}, {"use_dictionary": False}, {"data_page_size": 512},
                    {"write_statistics": False}, {"data_page_version": "2.0"}):  # fmt: skip
        data = parquet_bytes(TIME_D, FLUX, names=["a"] * 3, **options)
        check_parquet(data, max_rows=3, max_values=2100, max_bytes=10**6)
        with pytest.raises(DataError, match="claims more than 1000 values"):
            check_parquet(data, max_rows=3, max_values=1000, max_bytes=10**6)
        with pytest.raises(DataError, match="unpack to more than 9000 bytes"):
            check_parquet(data, max_rows=3, max_values=5000, max_bytes=9000)
        with pytest.raises(DataError, match="claims 3 rows, expected at most 2"):
            check_parquet(data, max_rows=2, max_values=5000, max_bytes=10**6)


def test_more_cadences_than_allowed_are_refused_though_they_are_there():
    with pytest.raises(DataError, match="more than 600 cadences"):
        read(GOOD[0], CurveLimits(cadences=600))
    with pytest.raises(DataError, match=r"column 'time_btjd\.list\.element' claims more than"):
        read(GOOD[1], CurveLimits(cadences=600))


@pytest.mark.parametrize(
    "data", [b"\x80\x04.", b"\x89PNG", b"PK\x03\x04", b"", b"time,flux\n1,2\n"]
)
def test_other_formats_are_not_even_tried(data):
    with pytest.raises(UnknownFormatError, match="expected a FITS file"):
        read(data)


@pytest.mark.parametrize(
    ("time_d", "reason"),
    [
        (1400 + np.arange(100) * 70.0, "spans 6930 d, expected at most 6000"),
        (1400 + np.r_[np.arange(99) * 1e-5, 1.0], None),
        (
            1400 + np.r_[np.arange(99) * 1e-6, 1.0, 2.0],
            r"costs 7.2e+06 cells of its cadence, 0.0864 s",
        ),
    ],
)
def test_a_light_curve_that_would_cost_too_much_to_forecast_from_is_a_reject(time_d, reason):
    data = parquet_bytes(time_d, np.ones(len(time_d)))
    (item,) = read_bounded(data, Stated(), LIMITS)
    if reason is None:
        assert isinstance(item, LightCurve)
    else:
        assert reason in item.reason


def test_light_curves_of_one_upload_share_what_it_may_cost():
    time_d = 1400 + np.arange(24_000) * 0.0204  # 489.6 d of 49 cells and a look, which counts 130
    data = parquet_bytes(time_d, np.ones(24_000), names=[f"star {number}" for number in range(8)])
    items = read_bounded(data, Stated(mission="tess"), LIMITS)
    assert count_cells(items[0]) == pytest.approx(
        (24_000 - 1 + 2.4 / 0.0204 + 13) * (1 + 130 * 0.0204)
    )
    assert [isinstance(item, LightCurve) for item in items] == [True] * 6 + [False] * 2
    assert "bin it to longer cadences, or send it alone" in items[-1].reason


def test_what_all_sectors_of_a_star_or_all_quarters_cost_is_within_the_limit():
    kepler = light_curve(1400 + np.arange(0, 1470, 0.0204), np.ones(72_059), cadence_s=1762.56)
    assert count_cells(kepler) < MAX_CELLS / 2
    years = np.concatenate([1400 + 2500 * year + np.arange(0, 350, 1 / 720) for year in (0, 1)])
    tess = light_curve(years, np.ones(len(years)), cadence_s=120.0)
    assert count_cells(tess) < MAX_CELLS


@pytest.mark.parametrize("cadence_min", [2, 10, 29.4])
def test_looks_take_no_more_than_what_is_counted(cadence_min, monkeypatch):
    looked = []

    def spy(time_d, flux, *more, **facts):
        looked.append(len(time_d))
        return detrend(time_d, flux, *more, **facts)

    monkeypatch.setattr(found_flares, "detrend", spy)
    time_d, flux = star(days=20, cadence_d=cadence_min * MINUTE_D)
    mission = "kepler" if cadence_min > 10 else "tess"
    curve = light_curve(time_d, flux, cadence_s=60.0 * cadence_min, mission=mission)
    windows, _, _ = star_windows([("upload", curve)], unanswered=True)
    assert len(windows)
    cells = count_cells(curve)
    assert sum(looked) + LOOK_CELLS * len(looked) < 4 * cells  # 4 d at each look
    assert len(looked) > 15
