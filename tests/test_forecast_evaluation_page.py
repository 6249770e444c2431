"""The page of an evaluation: each forecaster with its interval on one axis, gaps as dashes."""

import dataclasses
import re

import numpy as np
import pytest

from astroray.evaluation.metrics import Estimate
from astroray.forecast.comparison import calibrate, compare
from astroray.forecast.evaluation_page import interval_figure, write_evaluation_page
from astroray.forecast.finders import FinderSkill
from astroray.forecast.rows import undecided

DOCUMENT = {
    "name": "evaluate flares light-curves",
    "when": "2020-01-02T03:04:05Z",
    "seed": 3,
    "device": "a CPU",
    "windows": 1200,
    "stars": 6,
    "base_rate": 0.25,
    "seconds": 12.3,
    "remarks": ["tess: few <stars>"],
    "dropped": {"a pause": 1234},
    "versions": {"astroray": "1"},
    "commit": "abc",
}


@pytest.fixture(scope="module")
def comparison():
    random = np.random.default_rng(0)
    star_W = np.repeat(np.arange(6), 200)
    label_W = random.random(1200) < 0.25
    good_W = label_W + random.normal(0, 1, 1200)
    forecasts = {
        name: calibrate(score_W[:600], label_W[:600], score_W[600:])
        for name, score_W in (("ours", good_W), ("<peer>", random.random(1200)))
    }
    return compare(
        forecasts,
        label_W[600:],
        star_W[600:],
        track="light-curves",
        split="tess",
        candidates=["ours"],
        num_resamples=50,
    )


def test_every_forecaster_has_a_line_a_curve_and_a_lead_of_the_model(comparison, tmp_path):
    write_evaluation_page(str(tmp_path), DOCUMENT, [comparison], [], models=("ours", "absent"))
    html = (tmp_path / "index.html").read_text()
    assert html.count('<tr class="ours"><td>ours</td>') == 1
    assert html.count("<td>&lt;peer&gt;</td>") == 2  # a forecaster, and what the model leads over
    assert "<peer>" not in html
    assert "What ours has more" in html
    assert "What absent has more" not in html
    assert html.count('class="interval"') == 4
    assert html.count('aria-label="Reliability of') == 2
    assert f"{comparison.skills['ours'].auc:.3f}" in html
    assert "forward AUC" not in html
    assert "few &lt;stars&gt;" in html
    assert "1,234" in html


@pytest.mark.parametrize(
    ("low", "high", "is_told"),
    [(-0.2, 0.3, True), (-0.01, 0.02, False), (0.01, 0.4, False), (-0.4, -0.01, False)],
)
def test_a_lead_of_which_nothing_follows_is_told(comparison, low, high, is_told):
    lead = Estimate(value=0.05, low=low, high=high)
    found = dataclasses.replace(comparison, differences={("ours", "<peer>", "auc"): lead})
    told = undecided([found], ["ours", "absent"])
    assert bool(told) == is_told
    if is_told:
        flared = f"{found.num_flared} of 600 windows have a flare"
        assert f"whether ours is better than <peer>: {flared}" in told[0]


def test_finders_stand_by_list_of_labels_and_what_is_not_known_is_a_dash(tmp_path):
    nothing = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    skills = [
        FinderSkill(
            survey="tess",
            labels=labels,
            finder=finder,
            recall=Estimate(value=0.8, low=0.6, high=0.9),
            precision=nothing,
            num_labels=5,
            num_found=0,
            num_stars=2,
        )
        for labels in ("one's", "other's")
        for finder in ("a", "b")
    ]
    write_evaluation_page(str(tmp_path), DOCUMENT, [], skills, models=("ours",))
    html = (tmp_path / "index.html").read_text()
    assert html.count("Flares found, tess") == 2
    assert html.count("0.600 to 0.900") == 8  # a number, and the name of its figure, in four lines
    assert "nan" not in html
    assert "No forecaster could be judged" in html


def test_a_number_stands_on_its_interval_within_the_axis():
    drawn = interval_figure(Estimate(value=0.5, low=0.4, high=2.0), 0.0, 1.0, 0.5)
    ends = [float(x) for x in re.search(r'span" d="M([\d.]+) \S+H([\d.]+)"', drawn).groups()]
    middle = float(re.search(r'cx="([\d.]+)"', drawn).group(1))
    assert ends[0] < middle < ends[1] <= 170
    assert f"M{middle} 0V" in drawn
    assert interval_figure(None, 0.0, 1.0, 0.5) == ""
