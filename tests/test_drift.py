import math

import numpy as np
import pyarrow as pa
import pytest

from astroray.scores.drift import describe_drift, find_suspects, stability, suspect_night
from tests.memory_used import peak_bytes


def test_one_population_is_stable_and_a_moved_one_is_not():
    draw = np.random.default_rng(0)
    reference_M, same_N = draw.normal(size=4000), draw.normal(size=2000)
    assert stability(reference_M, same_N) < 0.02
    assert stability(reference_M, same_N + 1) > 0.5


def test_the_index_is_that_of_its_formula():
    reference_M, night_N = np.arange(100.0), np.full(9, 95.0)
    share_before = (np.full(10, 10) + 0.5) / 105
    share_now = (np.array([0] * 9 + [9]) + 0.5) / 14
    expected = ((share_now - share_before) * np.log(share_now / share_before)).sum()
    assert stability(reference_M, night_N) == pytest.approx(expected, rel=1e-12)


def test_a_number_that_is_always_the_same_is_stable_and_nothing_has_no_index():
    assert stability(np.ones(50), np.ones(50)) == pytest.approx(0, abs=1e-12)
    assert np.isnan(stability(np.ones(0), np.ones(3)))


def test_equal_numbers_of_the_reference_share_a_bin():
    reference_M, night_N = np.repeat([0.0, 1.0, 2.0], [60, 10, 30]), np.repeat([0.0, 2.0], [5, 5])
    share_before = (np.array([60, 10, 30, 0]) + 0.5) / 102
    share_now = (np.array([5, 0, 5, 0]) + 0.5) / 12
    expected = ((share_now - share_before) * np.log(share_now / share_before)).sum()
    assert stability(reference_M, night_N) == pytest.approx(expected, rel=1e-12)
    several_MD = np.stack([reference_M, np.arange(100.0)], axis=1)
    found = describe_drift(several_MD, [several_MD[:50], several_MD[50:]], reference_M, night_N)
    assert found.stability == (0, 0)


def test_the_dimension_that_drifts_is_named_and_chance_is_not_drift():
    draw = np.random.default_rng(1)
    reference_MD, night_ND = draw.normal(size=(3000, 5)), draw.normal(size=(60, 5))
    scores = draw.random(3000), draw.random(60)
    assert describe_drift(reference_MD, [night_ND], *scores).dimensions_adrift == ()
    night_ND[:, 3] += 3
    drift = describe_drift(reference_MD, [night_ND], *scores)
    assert drift.dimensions_adrift == (3,)
    assert len(drift.stability) == 5
    assert describe_drift(reference_MD, [night_ND[:7], night_ND[7:]], *scores) == drift
    assert describe_drift(reference_MD, [], *scores) is None


def test_the_record_says_what_chance_makes_and_how_the_scores_lie():
    draw = np.random.default_rng(2)
    score_M, score_N = np.arange(101.0), np.append(np.arange(100.0, 201.0), np.nan)
    drift = describe_drift(
        draw.normal(size=(3000, 2)), [draw.normal(size=(60, 2))], score_M, score_N
    )
    assert drift.stability_by_chance == 0.153  # 9 (1 / 3000 + 1 / 60)
    assert drift.stability_limit == 0.459
    assert drift.score_stability == round(stability(score_M, score_N[:-1]), 4)
    assert drift.score_quantiles["0.25"] == (25, 125)
    assert list(drift.score_quantiles) == ["0.05", "0.25", "0.5", "0.75", "0.95", "0.99"]
    many_MD, many_ND = draw.normal(size=(20_000, 1)), draw.normal(size=(9000, 1))
    large = describe_drift(many_MD, [many_ND], score_M, score_N)
    assert large.stability_by_chance == 0.0028  # of a sample of 5,000
    assert large.stability_limit == 0.25


def made_night(num_bad: int, *, seed: int = 3) -> tuple[dict[str, pa.ChunkedArray], np.ndarray]:
    """1,000 objects of ten detectors; of 30 outliers `num_bad` lie on detector d4."""
    draw = np.random.default_rng(seed)
    detector = np.array([f"d{i % 10}" for i in range(1000)])
    good = np.flatnonzero(detector != "d4")
    bad = np.flatnonzero(detector == "d4")[:num_bad]
    is_outlier_N = np.zeros(1000, bool)
    is_outlier_N[bad] = is_outlier_N[draw.choice(good, 30 - num_bad, replace=False)] = True
    columns = {
        "detector": pa.chunked_array([detector]),
        "field": pa.chunked_array([pa.array([None] * 1000, pa.string())]),
        "night": pa.chunked_array([pa.array(["2026-11-28"] * 1000)]),
    }
    return columns, is_outlier_N


def test_a_bad_detector_is_suspected_and_its_outliers_say_so():
    columns, is_outlier_N = made_night(15)
    suspects, suspect_N = find_suspects(columns, is_outlier_N)
    assert [(s.kind, s.value, s.num_outliers, s.num_objects) for s in suspects] == [
        ("detector", "d4", 15, 100)
    ]
    assert (suspect_N == 0).sum() == 15
    assert is_outlier_N[suspect_N == 0].all()
    assert suspects[0].sentence == (
        "detector d4 has 50% of the outliers and 10% of the objects: likely artefacts"
    )


def test_the_chance_of_a_group_is_that_of_any_of_all_groups_to_have_so_many():
    (suspect,), _ = find_suspects(*made_night(15))
    ways = sum(math.comb(100, hits) * math.comb(900, 30 - hits) for hits in range(15, 31))
    assert suspect.chance == pytest.approx(11 * ways / math.comb(1000, 30), rel=1e-9)
    assert (suspect.share_of_outliers, suspect.share_of_objects) == (0.5, 0.1)


def test_an_outlier_of_two_suspects_is_of_the_less_likely_one():
    columns, is_outlier_N = made_night(20)
    bad = np.flatnonzero(is_outlier_N & (columns["detector"].to_numpy() == "d4"))
    field = np.full(1000, "wide", object)
    field[bad[:15]] = "narrow"
    columns["field"] = pa.chunked_array([pa.array(field, pa.string())])
    suspects, suspect_N = find_suspects(columns, is_outlier_N)
    assert [suspect.value for suspect in suspects] == ["narrow", "d4"]
    assert suspects[0].chance < suspects[1].chance
    assert np.flatnonzero(suspect_N == 0).tolist() == bad[:15].tolist()
    assert np.flatnonzero(suspect_N == 1).tolist() == bad[15:].tolist()


def test_two_outliers_are_no_suspects_however_unlikely():
    columns = {"field": pa.chunked_array([["a"] * 2 + ["b"] * 9998])}
    few = find_suspects(columns, np.arange(10_000) < 2)
    assert few[0] == []
    columns = {"field": pa.chunked_array([["a"] * 3 + ["b"] * 9997])}
    assert [suspect.value for suspect in find_suspects(columns, np.arange(10_000) < 3)[0]] == ["a"]
    assert suspect_night(2, 10_000, 2, 2) == []
    assert len(suspect_night(3, 10_000, 3, 3)) == 1


def test_a_good_night_has_no_suspect():
    for seed in range(20):
        suspects, suspect_N = find_suspects(*made_night(3, seed=seed))
        assert suspects == []
        assert (suspect_N == -1).all()


def test_a_night_that_takes_over_the_list_is_suspected_itself():
    assert suspect_night(500, 10_000, 6, 100) == []
    (suspect,) = suspect_night(500, 10_000, 60, 100)
    assert suspect.sentence.startswith("night (this one) has 60% of the outliers and 5%")


def test_a_night_of_many_images_takes_no_more_memory_for_each_of_them():
    num_images, num_objects = 4_000, 20_000
    image = pa.chunked_array([[f"image {i % num_images}" for i in range(num_objects)], [None]])
    is_outlier_N = np.arange(num_objects + 1) % num_images == 7
    found = []
    peak = peak_bytes(lambda: found.extend(find_suspects({"field": image}, is_outlier_N)))
    assert [suspect.value for suspect in found[0]] == ["image 7"]
    assert np.flatnonzero(found[1] == 0).tolist() == np.flatnonzero(is_outlier_N).tolist()
    assert peak < 10 * 2**20
