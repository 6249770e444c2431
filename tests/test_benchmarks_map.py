"""The benchmark of the map: what is counted as kept, and what is said without a peer."""

import numpy as np
import pytest

from benchmarks.map import kept, rows_of
from benchmarks.rows import MeasurementError


def test_a_map_that_is_the_embedding_keeps_all_and_a_shuffled_one_what_chance_gives():
    pytest.importorskip("sklearn")
    random = np.random.default_rng(0)
    embedding_MD = random.normal(size=(300, 2))
    assert kept(embedding_MD, embedding_MD * 3) == 1.0
    assert kept(embedding_MD, random.permutation(embedding_MD)) < 0.1


def test_a_row_is_ours_over_the_peers_and_needs_the_peer():
    found = {"ours": {"kept": 0.4, "wall_s": 2.0}, "plane": {"kept": 0.1, "wall_s": 0.1}}
    fields = rows_of(found, "plane", "kept")
    assert fields["value"] == pytest.approx(4.0)
    assert fields["facts"]["theirs_kept"] == 0.1
    with pytest.raises(MeasurementError, match="umap-learn is not installed"):
        rows_of(found, "umap", "kept")
