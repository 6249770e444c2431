"""A finished run measured by a table of labels of the user's own."""

import json
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
from astropy.table import Table
from click.testing import CliRunner

from astroray.catalog import versions
from astroray.cli import cli
from astroray.errors import ConfigError
from astroray.evaluation.own_labels import evaluate_labels
from astroray.notebook import open_run
from tests.runs_made import make_run

NUM_OBJECTS = 60
INTERESTING = (1, 2, 4, 7, 9, 15, 40)
"""Their ranks; the object of rank 3 has no label."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    further = {"mean_shift": 1.0, "mahalanobis_distance": None}
    return make_run(folder, NUM_OBJECTS, sky="wide", further=further, state="done")


@pytest.fixture
def labels(run):
    """A row an object, and two of objects that the run lacks."""
    ranks = range(1, NUM_OBJECTS + 1)
    kinds = ["merger" if rank in INTERESTING else "plain, round" for rank in ranks]
    kinds[2] = ""
    return pandas.DataFrame({"name": [*run.ids, "x", "y"], "kind": [*kinds, "merger", "merger"]})


def evaluate(run, labels, interesting, **options):
    return open_run(run.path).evaluate(labels, interesting, id="name", **options)


def numbers(evaluation):
    return {
        (row["order"], row["peer"], row["metric"]): (row["value"], row["low"], row["high"])
        for row in evaluation["rows"]
    }


def test_the_command_says_how_early_the_list_has_the_interesting_ones(run, labels, tmp_path):
    path = tmp_path / "labels.csv"
    labels.to_csv(path, index=False)
    command = ["evaluate", "run", run.path, "--labels", str(path), "--interesting", "kind=merger"]
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, [*command, "--id", "name", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    *text, line = result.output.strip().splitlines()
    document = json.loads(line)
    assert json.loads((out / "rows.json").read_text()) == document
    assert text[-1] == f"page  {out}/index.html"
    counts = ("num_objects", "num_labelled", "num_interesting", "table_rows_unmatched")
    assert [document[name] for name in counts] == [60, 59, 7, 2]
    assert document["within_rank"] == {"7": 8, "10": 11, "30": 31}
    others = sorted({*range(1, NUM_OBJECTS + 1)} - {*INTERESTING, 3})
    auc = np.mean([rank < other for rank in INTERESTING for other in others])
    found = numbers(document)
    value, low, high = found["the list", "", "auc"]
    assert value == pytest.approx(auc, rel=1e-4)
    assert low < value < high
    assert found["the list", "", "first_7"][0] == 4
    assert found["the list", "", "first_10"][0] == 5
    assert found["random order", "", "first_10"] == (pytest.approx(70 / 59, rel=1e-4), None, None)
    assert "59 of 60 objects, 7 interesting: kind=merger" in text[1]
    assert any(line.split()[:3] == ["down", "to", "rank"] for line in text)


def test_the_page_shows_the_curve_and_what_comes_first_and_last(run, labels, tmp_path):
    page = Path(evaluate(run, labels, "kind=merger").write(str(tmp_path / "out"))).read_text()
    assert "http" not in page, "it needs no network"
    rule = r"\.when \{[^}]*overflow-wrap: anywhere"
    assert re.search(rule, page), "a long address would widen every page of results on a phone"
    curves = re.findall('<path class="score s0" d="M46.0 260.0L(.*?)">', page)
    assert [curve.split("L")[-1].split()[0] for curve in curves] == ["448.0", "448.0"]
    interesting, others = re.findall('<div class="cases">(.*?)</div>', page, re.DOTALL)
    ranks = [int(number) for number in re.findall("<figcaption>(.*?)<", interesting)]
    assert ranks == sorted(INTERESTING), "so few are shown once"
    assert others.count("<use ") == 24
    assert 'title="object-5, rank 6, kind plain, round"' in others


def test_ties_are_found_as_a_straight_line(run, labels):
    compared = evaluate(run, labels, "kind=merger").compared
    looked = np.array([0, 10, 59])
    assert compared.found_after("mean_shift", looked) == pytest.approx(looked * 7 / 59)
    assert list(compared.found_after("the list", np.array([0, 1, 3, 59]))) == [0, 1, 3, 7]


def test_scores_that_say_nothing_are_as_good_as_chance_and_those_that_lack_objects_left_out(
    run, labels
):
    document = evaluate(run, labels, "kind=merger").document
    found = numbers(document)
    assert found["mean_shift", "", "auc"] == (0.5, 0.5, 0.5)
    assert found["mean_shift", "", "first_10"][0] == pytest.approx(70 / 59, rel=1e-4)
    gain = found["the list", "mean_shift", "auc"]
    assert gain[0] == pytest.approx(found["the list", "", "auc"][0] - 0.5, rel=1e-3)
    assert gain[1] > 0, "the interval is of the difference, object by object"
    assert ("mahalanobis_distance", "", "auc") not in found
    assert document["notes"] == ["mahalanobis_distance is left out: 59 of these objects lack it"]


def test_no_interval_is_empty_where_all_of_the_first_are_interesting(run):
    labels = pandas.DataFrame({"name": run.ids, "odd": [i < 12 for i in range(NUM_OBJECTS)]})
    value, low, high = numbers(evaluate(run, labels, "odd=true").document)[
        "the list", "", "first_10"
    ]
    assert (value, high) == (10, 10)
    assert low == pytest.approx(10 / (1 + 1.959964**2 / 10), rel=1e-4)  # Wilson's, of all


def test_an_interval_holds_no_more_than_there_are_and_no_fewer_than_the_others_leave(run, labels):
    compared = evaluate(run, labels, "kind=merger").compared
    for length in (1, 6, 7, 8, 30, 55, 58):
        found = compared.among_first("the list", length)
        assert max(0, length - 52) <= found.low <= found.value <= found.high <= min(length, 7)
    all_found = compared.among_first("the list", 41)
    assert (all_found.value, all_found.high) == (7, 7)
    assert all_found.low == pytest.approx(7 / (1 + 1.959964**2 / 7), rel=1e-4)
    (low,), (high,) = compared.interval_of(np.array([0.0]), np.array([0]))
    assert (low, high) == (0, 0)


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".parquet"])
def test_labels_are_matched_by_position_and_numbers_are_compared_as_numbers(run, tmp_path, suffix):
    found = versions.read_version(run.path)
    share = np.float32([0.1 if i % 5 == 0 else 0.3 for i in range(NUM_OBJECTS)])
    table = Table({"RA_own": found["ra"], "DE_own": found["dec"], "share": share})
    path = tmp_path / f"own{suffix}"
    table.write(path, format={".vot": "votable"}.get(suffix))
    evaluation = open_run(run.path).evaluate(
        path, "share=0.10,9", ra="RA_own", dec="DE_own", radius_arcsec=1.0
    )
    assert evaluation.document["num_interesting"] == NUM_OBJECTS // 5
    assert evaluation.document["notes"][0] == "no labelled object has share=9"
    assert "\nno labelled object has share=9\n" in evaluation.table


def test_a_value_with_a_comma_is_quoted_and_a_column_of_the_catalog_may_be_one_of_the_table(
    run, labels
):
    labels = labels.rename(columns={"kind": "rank"})
    document = evaluate(run, labels, 'rank="plain, round"').document
    assert document["num_interesting"] == 52


@pytest.mark.parametrize(
    ("interesting", "options", "message"),
    [
        ("kind", {}, "is 'kind', expected COLUMN=VALUE"),
        ("kind=", {}, "expected COLUMN=VALUE"),
        ("class=merger", {}, r"no column 'class'.*one of \['name', 'kind'\]"),
        ("kind=ring", {}, r"0 of 59 .* the values are plain, round \(52\), merger \(7\): name"),
        ('kind=merger,"plain, round"', {}, "59 of 59 .* and 0 are not, expected at least 5"),
        ("kind=merger", {"ra": "kind"}, "'kind' holds positions, which nothing is matched by"),
    ],
)
def test_what_says_nothing_is_refused_in_words(run, labels, interesting, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(run, labels, interesting, **options)


def test_too_few_interesting_ones_and_a_table_of_other_objects_are_refused(run, labels):
    few = labels[labels["kind"] != "merger"].head(40)
    few = pandas.concat([few, labels[labels["kind"] == "merger"].head(4)])
    with pytest.raises(ConfigError, match="4 of 43 labelled objects are interesting"):
        evaluate(run, few, "kind=merger")
    with pytest.raises(ConfigError, match="bears the identifier or the file name of an object"):
        evaluate(run, labels.tail(2), "kind=merger")


def test_a_run_that_is_not_done_is_refused(tmp_path, labels):
    made = make_run(tmp_path, 6, num_pictures=0)
    with pytest.raises(ConfigError, match="a run that is running"):
        evaluate_labels(made.path, labels, "kind=merger")
