"""The report looks at the top, the pictured and a sample, however many objects there are."""

import numpy as np
import pytest

from astroray import catalog
from astroray.catalog import pixels, versions
from astroray.report import rows as report_rows
from tests.catalogs_made import by_rank, make_catalog


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "ROW_GROUP_SIZE", 50)
    monkeypatch.setattr(report_rows, "MAX_MAP_OBJECTS", 100)
    monkeypatch.setattr(report_rows, "DRAWN", 400)
    catalog.write_catalog(
        make_catalog(3000, num_unplaced=900), str(tmp_path), name="n", created="c",
        rows_per_pixel=300,
    )  # fmt: skip
    return str(tmp_path)


def test_a_map_is_drawn_from_a_bounded_sample_with_the_top_and_the_named(run_dir):
    whole = by_rank(catalog.read_catalog(run_dir))
    top = report_rows.read_top(run_dir, 10)
    assert (top.num_objects, top.num_positions) == (3000, 2100)
    assert top.rows.equals(whole.slice(0, 10))
    named = whole["object_id"].slice(2000, 5).to_pylist()
    rows = report_rows.read_rows(run_dir, top, named)
    assert rows.others["object_id"].to_pylist() == named
    assert len(rows.placed) == 100
    kept = {row["object_id"] for row in [*top.rows.to_pylist(), *rows.others.to_pylist()]
            if row["ra"] is not None}  # fmt: skip
    assert kept <= set(rows.placed["object_id"].to_pylist())
    assert rows.placed["ra"].null_count == 0
    rank_M = rows.placed["rank"].to_numpy()
    assert (np.diff(rank_M) > 0).all()
    assert np.median(rank_M) == pytest.approx(1500, abs=400)  # a sample of all ranks


def test_the_counts_of_scores_are_those_of_all_objects(run_dir):
    score_N = catalog.read_catalog(run_dir)["outlier_score"].to_numpy(zero_copy_only=False)
    score_N = score_N[np.isfinite(score_N)]
    rows = report_rows.read_rows(run_dir, report_rows.read_top(run_dir, 3), [])
    expected_B, edge_B = np.histogram(score_N, bins=60)
    np.testing.assert_array_equal(rows.count_B, expected_B)
    np.testing.assert_allclose(rows.edge_B, edge_B)


def test_no_more_than_a_row_group_is_read_at_once(run_dir):
    sizes = [len(piece.read(["rank"])) for piece in versions.read_pieces(run_dir)]
    assert sum(sizes) == 3000
    assert max(sizes) == 50
