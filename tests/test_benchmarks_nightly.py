from benchmarks import sharded_night
from benchmarks.nightly import CLAIMS, night_against_rescan


def test_the_lists_are_equal_before_a_ratio_is_given(tmp_path):
    turns = night_against_rescan(str(tmp_path), 2_000, 1)
    row = CLAIMS[0](**turns.fields())
    assert row.error == 0
    assert row.facts["objects"] == 2_100
    assert 100 <= row.facts["rescored"] < 2_100


def test_a_night_in_parts_writes_the_same_files_before_a_ratio_is_given(tmp_path):
    found = sharded_night.parts_against_others(str(tmp_path), 2_000, 1)
    one, rescan, written = (
        claim(**fields) for claim, fields in zip(sharded_night.CLAIMS, found, strict=False)
    )
    assert one.error == rescan.error == written.error == 0
    assert one.facts["objects"] == 2_000
    assert 0 < written.facts["bytes"] < 0.2 * written.facts["bytes_of_reference"]
    assert sharded_night.digest_of(str(tmp_path / "one")) == sharded_night.digest_of(
        str(tmp_path / "parts")
    )
