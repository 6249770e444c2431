from benchmarks.nightly import CLAIMS, night_against_rescan


def test_the_lists_are_equal_before_a_ratio_is_given(tmp_path):
    turns = night_against_rescan(str(tmp_path), 2_000, "flat", 1)
    row = CLAIMS[0](**turns.fields())
    assert row.error == 0
    assert row.facts["objects"] == 2_100
    assert 100 <= row.facts["rescored"] < 2_100
