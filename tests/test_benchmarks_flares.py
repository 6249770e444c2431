"""The benchmark of light curves: its peer makes the same arrays, and its flares are found."""

import pytest

from benchmarks import flares
from benchmarks.rows import MeasurementError


@pytest.fixture
def stars(tmp_path, monkeypatch):
    monkeypatch.setattr(flares, "NUM_CADENCES", 3000)
    monkeypatch.setattr(flares, "FLARES_A_STAR", 3)
    return flares.write_stars(tmp_path, 2)


def test_the_loop_prepares_what_astroray_prepares_and_every_claim_has_a_row(stars):
    row = flares.CLAIMS[0](**flares.measure_reading(stars, 1))
    assert row.error <= flares.LARGEST_ERROR
    assert (row.runs, row.value > 0, row.limit > 0) == (1, True, True)
    found = flares.CLAIMS[1](**flares.measure_finding(stars, 1))
    assert found.facts["made"] == 6 <= 2 * found.facts["found"]


def test_arrays_that_differ_are_no_measurement(stars, monkeypatch):
    plainly = flares.prepare_plainly
    monkeypatch.setattr(flares, "prepare_plainly", lambda *given: plainly(*given) + 1)
    with pytest.raises(MeasurementError, match="differ by 1"):
        flares.measure_reading(stars, 1)
