"""Figures of the report: what stands where, and that counts and places are right."""

import re

import numpy as np
import pytest

from astroray.report import figures
from astroray.report.figures import Dot
from astroray.report.plane import drawn_nearer, principal_plane


def test_east_is_left_and_north_is_up_even_across_right_ascension_zero():
    ra_deg_N = np.array([359.9, 0.1, 0.0])
    dec_deg_N = np.array([0.0, 0.0, 0.1])
    dots = [Dot(index=i, label=str(i), href="", picture="", is_outlier=False) for i in range(3)]
    svg = str(figures.sky_map(ra_deg_N, dec_deg_N, dots))
    x, y = ([float(v) for v in re.findall(rf'c{axis}="(.*?)"', svg)] for axis in "xy")
    assert x[1] < x[2] < x[0]
    assert y[2] < y[0]
    assert x[0] - x[1] > 200  # 0.2 deg apart fill the map rather than one edge of it


@pytest.mark.parametrize("dec_deg", [-80.0, 0.0, 80.0])
def test_the_lines_of_a_field_are_named_once_and_meet_at_its_pole(dec_deg):
    ra_deg_N, dec_deg_N = np.array([0.0, 90.0, 180.0, 270.0]), np.full(4, dec_deg)
    if dec_deg == 0:
        ra_deg_N, dec_deg_N = np.array([10.0, 12.0, 11.0]), np.array([-1.0, 1.0, 0.0])
    svg = str(figures.sky_map(ra_deg_N, dec_deg_N, []))
    names = re.findall(r">([+-]?[\d.]+)°<", svg)
    assert len(names) == len(set(names)) > 4
    lines = re.findall(r'class="grid" d="M(.*?)"', svg)
    ends = [line.split("L")[-1 if dec_deg > 0 else 0] for line in lines]
    most = max(ends.count(end) for end in ends)
    assert most == (12 if dec_deg else 1)


def histogram(score_N, threshold):
    count_B, edge_B = np.histogram(score_N[np.isfinite(score_N)], bins=19)
    return str(figures.score_histogram(count_B, edge_B, threshold=threshold))


def test_the_histogram_counts_every_object_and_marks_the_proven_ones():
    score_N = np.concatenate([np.arange(90) / 100, [5.0, 6.0, 7.0], [np.nan, np.inf]])
    svg = histogram(score_N, 5.0)
    counts = [int(n) for n in re.findall(r": (\d+) objects", svg)]
    assert sum(counts) == 93
    top = re.findall(r'class="bar top".*?: (\d+) objects', svg)
    assert sum(int(n) for n in top) == 3


def test_an_all_sky_map_keeps_poles_and_center_in_their_places():
    ra_deg_N = np.array([0.0, 0.0, 0.0, 90.0, 180.0, 270.0])
    dec_deg_N = np.array([90.0, -90.0, 0.0, 0.0, 0.0, 0.0])
    dots = [Dot(index=i, label="", href="", picture="", is_outlier=False) for i in range(6)]
    svg = str(figures.sky_map(ra_deg_N, dec_deg_N, dots))
    assert "Mollweide" in svg
    x, y = ([float(v) for v in re.findall(rf'c{axis}="(.*?)"', svg)][-6:] for axis in "xy")
    assert x[0] == x[1] == pytest.approx(320, abs=0.2)
    assert y[1] - y[0] == pytest.approx(300, abs=1)  # an ellipse twice as wide as high
    assert y[2] == y[3] == y[5] == pytest.approx((y[0] + y[1]) / 2, abs=0.1)


def test_the_principal_plane_keeps_distances_that_lie_in_a_plane():
    rng = np.random.default_rng(2)
    plane_M2 = rng.normal(size=(30, 2)) * [3, 1]
    turn_DD, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    xy_M2, share = principal_plane(plane_M2 @ turn_DD[:2] + 11.0)
    before, after = (np.linalg.norm(v[:, None] - v, axis=2) for v in (plane_M2, xy_M2))
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert xy_M2[:, 0].std() > xy_M2[:, 1].std()
    assert share == pytest.approx(1, abs=1e-4)  # what is reined in may leave the plane a little


def test_one_extreme_object_does_not_squeeze_the_others_into_a_spot():
    embedding_MD = np.random.default_rng(4).normal(size=(200, 6)) * [3, 2, 1, 1, 1, 1]
    embedding_MD[0] = [0, 0, 0, 0, 0, 5000]
    dots = [Dot(index=i, label="", href="", picture="", is_outlier=False) for i in range(200)]
    plane_M2, _ = principal_plane(embedding_MD)
    svg = str(figures.embedding_map(drawn_nearer(plane_M2), dots))
    x, y = (np.array(re.findall(rf'c{axis}="(.*?)"', svg), float)[1:] for axis in "xy")
    assert max(np.ptp(x), np.ptp(y)) > 150


def test_a_map_names_its_dots_and_draws_all_others_as_one_path():
    xy_M2 = np.random.default_rng(1).normal(size=(50, 2))
    dots = [
        Dot(index=3, label="a <b>", href="#rank-1", picture="p0", is_outlier=True),
        Dot(index=7, label="c", href="", picture="p1", is_outlier=False),
    ]
    svg = str(figures.embedding_map(xy_M2, dots))
    assert svg.count("<circle") == 2
    assert re.search(r'class="bulk" d="(.*?)"', svg)[1].count("M") == 48
    assert "a &lt;b&gt;" in svg
    assert svg.index('class="pictured"') < svg.index('class="outlier"')  # outliers lie on top


@pytest.mark.parametrize("scores", [[], [1.0], [np.nan] * 5])
def test_a_histogram_of_hardly_any_scores_is_left_out(scores):
    assert histogram(np.array(scores), None) == ""


def test_equal_scores_make_one_bar():
    svg = histogram(np.full(9, 2.5), 2.5)
    assert re.findall(r": (\d+) objects", svg) == ["9"]


def test_a_loss_curve_falls_where_the_loss_falls_and_needs_two_passes():
    svg = str(figures.loss_curve([1.0, 0.1, 0.01]))
    path = re.search(r'class="curve" d="M(.*?)"', svg)[1]
    y = [float(point.split()[1]) for point in path.split("L")]
    assert y[2] - y[1] == pytest.approx(y[1] - y[0], abs=0.2)  # equal factors, equal steps
    assert y[1] > y[0]
    assert str(figures.loss_curve([float("nan"), 0.0, 0.1])) == ""


def test_the_loss_of_a_validation_part_has_a_curve_of_its_own_and_its_best_pass_a_mark():
    alone = str(figures.loss_curve([1.0, 0.1, 0.01]))
    svg = str(figures.loss_curve([1.0, 0.1, 0.01], [1.0, 0.01, 0.1]))
    curve = re.search(r'class="curve" d="([^"]+)"', svg)[1]
    held = re.search(r'class="curve held" d="([^"]+)"', svg)[1]
    assert held != curve
    assert curve in alone
    second = held[1:].split("L")[1].split()
    assert f'<circle class="pictured" cx="{second[0]}" cy="{second[1]}"' in svg
    assert "circle" not in alone
    assert "held" not in alone
