from benchmarks import listing


def test_both_ways_list_the_same_objects_before_a_ratio_is_given(tmp_path):
    for survey in (
        listing.write_stack(tmp_path / "stack", 2_000),
        listing.write_files(tmp_path / "files", 20),
    ):
        run = str(tmp_path / "run")
        ours, peer = (listing.list_once(survey, f"{run}-{way}", way) for way in (False, True))
        assert ours["told_mb"] < peer["told_mb"]
        assert ours["ledger_mb"] > 0
