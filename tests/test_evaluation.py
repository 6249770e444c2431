"""Protocols of the evaluation: pools without leaks, metrics and distances that are right."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from astroray.errors import ConfigError
from astroray.evaluation import label_tables
from astroray.evaluation.baselines import measure_baseline
from astroray.evaluation.label_tables import open_protocol
from astroray.evaluation.metrics import Estimate, rates
from astroray.evaluation.neighborhoods import Neighborhoods
from astroray.evaluation.protocols import PROTOCOLS, Draw, Subset
from astroray.neighbors.search import SearchConfig, search
from tests import labelled_made


@pytest.fixture
def data(tmp_path):
    labelled_made.make_efigi(tmp_path)
    labelled_made.make_gz2(tmp_path)
    labelled_made.make_tess(tmp_path)
    labelled_made.make_crts(tmp_path)
    labelled_made.make_lamost(tmp_path)
    labelled_made.make_types(tmp_path)
    return labelled_made.make_mirabest(tmp_path)


@pytest.fixture
def protocols(data, monkeypatch):
    monkeypatch.setattr(label_tables, "SIM_OBJECTS", 120)
    return {name: open_protocol(name, data=str(data)) for name in PROTOCOLS}


def test_no_object_is_in_two_pools_of_a_subset(protocols):
    for protocol in protocols.values():
        for subset in protocol.subsets:
            pooled = np.concatenate([subset.inlier_I, *subset.outliers])
            assert len(np.unique(pooled)) == len(pooled), (protocol.name, subset.name)


def test_no_kind_of_outlier_shares_an_object_with_another(protocols):
    for protocol in protocols.values():
        for mixed in (subset for subset in protocol.subsets if subset.is_mixed):
            assert len(mixed.candidate_O) == len(np.unique(mixed.candidate_O))


def test_an_object_drawn_as_an_outlier_is_never_an_inlier(protocols):
    for protocol in protocols.values():
        for subset in protocol.subsets:
            for number in range(20):
                draw = subset.draw(1, number)
                assert not np.isin(draw.row_M[draw.is_outlier_M], subset.inlier_I).any()
                assert np.array_equal(draw.row_M[~draw.is_outlier_M], subset.inlier_I)
                assert draw.is_outlier_M.sum() == subset.num_outliers
                assert (np.diff(draw.row_M) > 0).all()


def test_an_efigi_object_of_two_kinds_belongs_to_the_first_of_s4_s3_s2_s1(tmp_path):
    labelled_made.make_efigi(tmp_path)
    table = tmp_path / "galaxies/efigi/efigi_attributes.csv"
    lines = table.read_text().splitlines()
    kinds = {  # T, Inclination, Perturbation, Multiplicity and the pool that keeps the object
        "PGCS1000": ("4,0.5,0.75,0.5", "S4"),
        "PGCS1001": ("9,1.0,0.5,0.5", "S3"),
        "PGCS1002": ("2,0.75,0.25,0.75", "S2"),
        "PGCS1003": ("-4,0.75,0.25,0.5", "S1"),
    }
    for number, line in enumerate(lines):
        name = line.partition(",")[0]
        if name in kinds:
            lines[number] = f"{name},{kinds[name][0]}"
    table.write_text("\n".join(lines))
    protocol = open_protocol("efigi", data=str(tmp_path))
    for object_id, (_, kind) in kinds.items():
        row = protocol.object_ids.index(object_id)
        found = [s.name for s in protocol.subsets[:4] if row in s.candidate_O]
        assert found == [kind], object_id


def test_the_mixed_subset_takes_an_equal_share_of_each_kind(protocols):
    (mixed,) = (subset for subset in protocols["efigi"].subsets if subset.name == "S5")
    mixed = dataclasses.replace(mixed, contamination=0.4)  # 12 of 18 + 12
    draw = mixed.draw(0, 3)
    drawn = draw.row_M[draw.is_outlier_M]
    assert sorted(np.isin(drawn, group).sum() for group in mixed.outliers) == [2, 2, 2, 3, 3]


def test_draws_differ_by_number_and_seed_and_repeat():
    subset = Subset(
        name="x",
        title="",
        inlier_I=np.arange(30),
        outliers=(np.arange(30, 90),),
        contamination=0.25,
    )
    first = subset.draw(0, 0).row_M
    assert np.array_equal(first, subset.draw(0, 0).row_M)
    assert not np.array_equal(first, subset.draw(0, 1).row_M)
    assert not np.array_equal(first, subset.draw(1, 0).row_M)


def test_pools_that_are_too_small_give_all_they_have(protocols):
    (tails,) = (s for s in protocols["mirabest"].subsets if s.name == "S3")
    assert tails.num_outliers == 1  # 6 % of 21
    few = dataclasses.replace(tails, contamination=0.4)
    assert few.num_outliers == 2


def test_a_share_of_outliers_that_is_asked_for_goes_before_every_subset_s_own(data):
    protocol = open_protocol("mirabest", data=str(data), contamination=0.1)
    assert {subset.contamination for subset in protocol.subsets} == {0.1}


def test_the_simulated_protocol_has_a_subset_a_kind_at_both_rates(protocols):
    names = [subset.name for subset in protocols["sim"].subsets]
    assert len(names) == 14
    assert {"mixed@0.1", "ring@0.01"} <= set(names)
    one = label_tables.open_protocol("sim", data=None, contamination=0.2)
    assert {subset.contamination for subset in one.subsets} == {0.2}


def test_pictures_of_another_compression_are_left_out(data, caplog):
    folder = data / "galaxies/gz2_kaggle_spirals/images"
    labelled_made.save_picture(folder / "0.jpg", np.random.default_rng(0), quality=50)
    Image.open(folder / "2.jpg").resize((20, 20)).save(folder / "2.jpg", quality=90)
    protocol = open_protocol("gz2", data=str(data))
    assert not {"0", "2"} & set(protocol.object_ids)
    assert len(protocol.object_ids) == 22
    assert "2 of 24 files" in caplog.text


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nothing", {}, "expected one of efigi, gz2, mirabest, sim"),
        ("efigi", {"data": None}, "give --data DIR with DIR/galaxies/efigi"),
        ("gz2", {"full": True}, "--full is for the protocol sim"),
        ("gz2", {"contamination": 0.7}, "contamination is 0.7, expected more than 0 and less"),
        ("gz2", {"contamination": 0.0}, "contamination is 0.0, expected more than 0 and less"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(name, options, message, data):
    with pytest.raises(ConfigError, match=message):
        open_protocol(name, **({"data": str(data)} | options))


@pytest.mark.parametrize("name", ["efigi", "gz2", "mirabest"])
def test_missing_data_is_named_by_its_path(name, tmp_path):
    with pytest.raises(ConfigError, match=r"galaxies/\w+/.* is not there; --data DIR must hold"):
        open_protocol(name, data=str(tmp_path))


def brute_auc(score, is_outlier):
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in score[is_outlier]
        for b in score[~is_outlier]
    ]
    return np.mean(wins)


@pytest.mark.parametrize("levels", [3, 1000], ids=["ties", "hardly any ties"])
def test_auc_is_the_chance_that_an_outlier_beats_an_inlier(levels):
    random = np.random.default_rng(0)
    score, is_outlier = random.integers(0, levels, 50).astype(float), random.random(50) < 0.2
    got = rates(score, is_outlier, np.ones((50, 1)))
    assert got.auc_R[0] == pytest.approx(brute_auc(score, is_outlier))


def test_recall_flags_as_many_as_there_are_outliers():
    score = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    is_outlier = np.isin(np.arange(10), [0, 2, 9])
    got = rates(score, is_outlier, np.ones((10, 1)))
    assert got.recall_R[0] == pytest.approx(2 / 3)
    assert got.recall_at_FR[:, 0] == pytest.approx([0.5 / 3, 1 / 3, 1.5 * 1 / 3 - 0.5 / 3])


def test_equal_scores_find_what_chance_finds():
    is_outlier = np.arange(20) < 2
    got = rates(np.zeros(20), is_outlier, np.ones((20, 1)))
    assert (got.auc_R[0], got.recall_R[0]) == (0.5, pytest.approx(0.1))


@pytest.mark.parametrize("lacking", [True, False], ids=["no outlier", "no inlier"])
def test_a_resample_that_lacks_a_kind_says_nothing_and_the_others_stay(lacking):
    score, is_outlier = np.arange(10.0), np.arange(10) > 7
    weight = np.stack([np.ones(10), np.where(is_outlier == lacking, 0, 1)], axis=1)
    got = rates(score, is_outlier, weight)
    assert got.auc_R.tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    if lacking:
        assert np.isnan([got.recall_R[1], *got.recall_at_FR[:, 1]]).all()


def test_weights_count_as_repeated_objects():
    random = np.random.default_rng(1)
    score, is_outlier = random.normal(size=40), np.arange(40) % 4 == 0
    weight = random.integers(0, 3, 40)
    got = rates(score, is_outlier, weight[:, None].astype(np.float32))
    repeat = np.repeat(np.arange(40), weight)
    expected = rates(score[repeat], is_outlier[repeat], np.ones((len(repeat), 1)))
    assert got.auc_R == pytest.approx(expected.auc_R)
    assert got.recall_R == pytest.approx(expected.recall_R)
    assert got.recall_at_FR == pytest.approx(expected.recall_at_FR)


def test_an_interval_holds_the_central_95_percent():
    assert Estimate.of(7.0, np.arange(1001.0)) == Estimate(value=7.0, low=25.0, high=975.0)
    found = Estimate.of(1.0, np.array([np.nan, 1.0, 1.0]))
    assert (found.low, found.high) == (1.0, 1.0)


@pytest.mark.parametrize("dim", [5, 1200], ids=["float64", "float32"])
@pytest.mark.parametrize("name", ["kth", "mean"])
def test_scores_of_a_draw_are_those_of_a_search_among_its_objects(dim, name):
    random = np.random.default_rng(2)
    embedding = random.normal(size=(90, dim)).astype(np.float32)
    embedding[7] = embedding[8]  # twins have each other as nearest neighbor
    near = Neighborhoods(embedding, k=4)
    subset = Subset(
        name="s",
        title="",
        inlier_I=np.arange(0, 60),
        outliers=(np.arange(60, 90),),
        contamination=0.2,
    )
    for number in range(3):
        draw = subset.draw(0, number)
        names = [str(row) for row in draw.row_M]
        found = search(embedding[draw.row_M], names, SearchConfig(k=4, score=name))
        np.testing.assert_allclose(near.score(draw, name), found.score_N, rtol=2e-6, atol=1e-3)


def test_a_draw_smaller_than_k_uses_all_others():
    near = Neighborhoods(np.arange(4, dtype=np.float32)[:, None], k=10)
    draw = Draw(row_M=np.array([0, 1, 3]), is_outlier_M=np.array([False, False, True]))
    assert near.score(draw, "kth") == pytest.approx([3, 2, 3])


def test_size_grows_with_the_galaxy_and_not_with_its_brightness():
    x = np.arange(32) - 15.5
    radius = np.array([2.0, 2.0, 4.0])[:, None, None]
    light = np.exp(-(x[None, None] ** 2 + x[None, :, None] ** 2) / (2 * radius**2))
    image = 0.1 + np.array([0.3, 0.6, 0.6])[:, None, None, None] * light[:, None]
    size = measure_baseline("size", image, np.arange(3))[:, 0]
    assert size[0] == pytest.approx(size[1], abs=1e-5)
    assert size[2] > size[0] + 1


def test_brightness_has_three_numbers_whatever_the_bands():
    random = np.random.default_rng(3)
    for bands in (1, 3):
        value = measure_baseline("brightness", random.random((6, bands, 8, 8)), np.arange(6))
        assert value.shape == (6, 3)
        assert value.mean(axis=0) == pytest.approx(0, abs=1e-5)
        assert value.std(axis=0) == pytest.approx(1, abs=1e-5)


def test_windows_with_a_high_flare_are_rare_and_those_with_a_low_one_unused(protocols):
    (subset,) = protocols["tess"].subsets
    names = np.array(protocols["tess"].object_ids)
    assert [name.split()[-1] for name in names[subset.candidate_O]] == ["W1", "W4"] * 3
    assert {name.split()[-1] for name in names[subset.inlier_I]} == {"W0", "W2", "W3", "W5", "W7"}


def test_spectra_are_usual_or_rare_by_their_type(protocols):
    cool, hot, other = protocols["lamost"].subsets
    names = np.array(protocols["lamost"].object_ids)
    assert names[cool.candidate_O].tolist() == [f"LAMOST {20 + i}" for i in range(4)]
    assert names[hot.candidate_O].tolist() == [f"LAMOST {30 + i}" for i in range(4)]
    assert [len(cool.inlier_I), len(other.candidate_O)] == [8, 4]
    names = np.array(protocols["types"].object_ids)
    assert [names[s.candidate_O][0] for s in protocols["types"].subsets] == ["L0", "B0"]


def test_a_transient_that_was_seen_too_seldom_is_unused(protocols):
    assert "TranID999" not in protocols["crts"].object_ids
    assert [len(subset.inlier_I) for subset in protocols["crts"].subsets] == [12, 12]
