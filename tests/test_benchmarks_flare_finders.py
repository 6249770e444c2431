"""Finders side by side, and hard cases: what is put in, how it is matched, who is asked what."""

import argparse
import json
import subprocess
import sys
import types

import numpy as np
import pytest

from astroray.flares.detrend import DetrendConfig
from astroray.flares.inject import Injection
from astroray.forecast.finders import FINDER, FLOOR
from astroray.forecast.labeled_curves import FoundCurve
from benchmarks import altaipony_finder, flare_finders, flare_hard_cases
from tests.flares_made import MINUTE_D, light_curve, star, write_labeled

PEER = """#!{python}
import json, sys
import numpy as np
curves, found, method = sys.argv[-3:]
given = np.load(curves)
rows = []
for at in range(len(given.files) // 2):
    first = given["time_%d" % at][0]
    flare = [first, first + 1, float(given["flux_%d" % at].max())]
    rows.append(dict(flares=[flare], wall_s=1.0, cpu_s=2.0, error=""))
with open(found, "w") as file:
    json.dump(rows, file)
"""


def curve_of(name="TIC 7", days=6.0, **facts):
    return FoundCurve(curve=light_curve(*star(days=days, **facts), object_id=name), events=())


def made_at(*peaks_d):
    peak_d_J = np.array(peaks_d)
    one_J = np.ones(len(peaks_d))
    return Injection(
        flux_T=np.zeros(0),
        peak_d_J=peak_d_J,
        fwhm_d_J=one_J,
        amplitude_J=one_J,
        equivalent_duration_s_J=20 * one_J,
    )


@pytest.fixture
def peer(tmp_path):
    """An environment that says of each light curve one flare as long as its highest flux."""
    path = tmp_path / "python"
    path.write_text(PEER.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


def test_every_second_star_is_held_out_and_light_curves_are_taken_evenly():
    found = [curve_of(name, days=0.1, seed=at) for name in "cab" for at in range(5)]
    assert [one.curve.object_id for one in flare_finders.chosen(found, "dev", 1)] == ["a", "c"]
    held_out = [id(one) for one in flare_finders.chosen(found, "held-out", 3)]
    assert held_out == [id(found[at]) for at in (10, 12, 14)]
    assert len(flare_finders.chosen(found, "all", 0)) == 15


def test_a_made_flare_has_the_duration_of_the_flare_found_over_its_peak():
    found_F3 = np.array([[1.9, 2.1, 30.0], [4.01, 4.2, np.nan]])
    matched_J = flare_finders._matched(made_at(2.0, 3.0, 4.0), found_F3, cadence_d=0.02)
    assert matched_J == pytest.approx([30.0, -np.inf, np.nan], nan_ok=True)
    table = flare_finders.recovery_table(
        "tess",
        [(curve_of(days=0.1), made_at(2.0, 3.0))],
        {"one": flare_finders.Search(flares=[found_F3], wall_s_N=np.ones(1), cpu_s_N=np.ones(1))},
    )
    assert "0 2 0 0 in the bins" in table
    assert "0.50, 1.50" in table


def test_flares_are_made_clear_of_labels_and_of_what_the_plainest_finder_finds(tmp_path):
    data = write_labeled(tmp_path)
    curves = flare_finders.chosen(flare_finders.find_in_curves(data, "tess"), "all", 0)
    ((changed, made),) = flare_finders.with_made_flares(data, "tess", curves)
    assert len(made.peak_d_J) == flare_finders.NUM_MADE
    for marked_d in (1333.0, 1335.0, 1338.0):
        apart_d = np.abs(made.peak_d_J - marked_d).min()
        assert apart_d > flare_finders.CLEARANCE_D - 2 * MINUTE_D
    assert (changed.curve.flux - curves[0].curve.flux).max() > 0


def test_the_peer_is_asked_once_for_the_same_light_curves_and_answers_in_their_order(
    peer, tmp_path
):
    curves = [curve_of(days=days, level=5.0) for days in (0.3, 0.2, 0.25)]
    asked = flare_finders.search_theirs(curves, peer, "savgol", tmp_path)
    for one, flare_F3 in zip(curves, asked.flares, strict=True):
        time_d, flux = one.curve.time_d, one.curve.flux
        (expected,) = [[time_d[0], time_d[0] + 1, flux.max() / np.median(flux)]]
        assert flare_F3 == pytest.approx(np.array([expected]))
    assert asked.cpu_s_N.tolist() == [2.0] * 3
    again = flare_finders.search_theirs(curves, "nowhere", "savgol", tmp_path)
    assert np.array_equal(again.flares[2], asked.flares[2])
    with pytest.raises(FileNotFoundError):
        flare_finders.search_theirs(curves[:1], "nowhere", "savgol", tmp_path)


def test_all_finders_stand_in_all_tables(peer, tmp_path):
    asked = argparse.Namespace(
        stars="all", curves=0, altaipony=peer, methods=["savgol"], limits=True
    )
    text = flare_finders.compare(write_labeled(tmp_path), "kepler", asked, tmp_path)
    for finder in (FINDER, FLOOR, "AltaiPony, savgol"):
        assert text.count(finder) == 4 + 2 * (finder != "AltaiPony, savgol")
    assert text.count("confidence 0.8") == text.count("plainest, 8 sigma") == 3
    assert "found upside down" in text
    assert "12 in the bins" not in text
    assert "not searched" in text


def test_what_the_peer_cannot_search_is_told_in_its_words(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no flux at all")

    monkeypatch.setattr(altaipony_finder, "find", fail)
    np.savez(tmp_path / "curves.npz", time_0=np.arange(3.0), flux_0=np.ones(3))
    altaipony_finder.main(str(tmp_path / "curves.npz"), str(tmp_path / "found.json"), "savgol")
    (row,) = json.loads((tmp_path / "found.json").read_text())
    assert (row["flares"], row["error"]) == ([], "ValueError: no flux at all")


def test_without_the_peer_the_benchmark_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(flare_finders, "compare", lambda *_: "")
    arguments = ["flare_finders", str(tmp_path), "--sets", "kepler", "--curves", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    flare_finders.main()
    text = capsys.readouterr().out
    assert text.startswith("AltaiPony skipped: no --altaipony PYTHON")
    monkeypatch.setattr(sys, "argv", [*arguments, "--altaipony", "/bin/false"])
    done = types.SimpleNamespace(returncode=1, stderr="\nNo module named altaipony\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    flare_finders.main()
    assert "AltaiPony skipped: No module named altaipony" in capsys.readouterr().out


def test_long_flares_are_found_and_a_finder_that_sees_none_scores_none(monkeypatch):
    curve = curve_of(days=20.0, spots=0.0).curve
    free_T = np.abs(curve.time_d - 1510) < 6
    made = flare_hard_cases.long_flares(curve, free_T, 0.001, 0, DetrendConfig())
    assert len(made) == 2
    for width_d, share in made:
        assert flare_hard_cases.WIDTHS_D[0] <= width_d <= flare_hard_cases.WIDTHS_D[-1]
        assert 0.3 < share < 1.1
    monkeypatch.setattr(flare_hard_cases, "flares_of", lambda *_: [])
    blind = flare_hard_cases.long_flares(curve, free_T, 0.001, 0, DetrendConfig())
    assert blind == [(width_d, 0) for width_d, _ in made]


def test_a_shoulder_is_a_flare_beside_the_dip_that_was_not_there_before(monkeypatch):
    curve = curve_of(days=20.0, spots=0.0).curve
    free_T = np.abs(curve.time_d - 1510) < 1
    at = types.SimpleNamespace(peak_d=1510.0, start_d=1509.9, stop_d=1510.1)
    far = types.SimpleNamespace(peak_d=1519.0, start_d=1518.9, stop_d=1519.1)
    for before, expected in (([], 1), ([at], 0)):
        answers = iter([before, [at, far]])
        monkeypatch.setattr(flare_hard_cases, "flares_of", lambda *_, of=answers: next(of))
        found = flare_hard_cases.shoulders(curve, free_T, 1.0, 0, DetrendConfig())
        assert found == expected


def test_hard_cases_keep_clear_of_flares_and_ends_and_say_what_was_found(tmp_path):
    data = write_labeled(tmp_path)
    name = "kepler"
    (one,) = flare_hard_cases.find_in_curves(data, name)
    free_T = flare_hard_cases.free_cadences(one.curve, list(one.events))
    time_d = one.curve.time_d[free_T]
    assert time_d.min() >= one.curve.time_d[0] + 1.5
    for event in one.events:
        assert np.abs(time_d - event.peak_d).min() > flare_hard_cases.CLEARANCE_D
    lines = flare_hard_cases.judge(data, name, "dev", DetrendConfig())
    assert lines[0].endswith("of 1 dips")
    assert sum(int(line.split(" of ")[1].split()[0]) for line in lines[1:]) == 2
    assert "0 of 0 found" in flare_hard_cases.judge(data, name, "held-out", DetrendConfig())[1]
