"""The score is what scikit-learn's exact neighbors give, on real tables, searched either way."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.neighbors import NearestNeighbors

from astroray.actors.search import rank_survey
from astroray.catalog import read_catalog
from astroray.search import indexing
from astroray.search.sharded import rank_sharded
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search

K = 10


def hot_subdwarfs(folder) -> np.ndarray:
    table = pd.read_csv(folder / "spectra/gaia_xp_hot_subdwarfs/chebyshev_50_raw.csv.gz")
    values_ND = table.filter(regex=r"^c\d+$").to_numpy(np.float64)
    return values_ND / np.abs(values_ND[:, :1])


def wise_colors(folder) -> np.ndarray:
    table = pd.read_csv(folder / "wise/photometry/wise_star_galaxy_qso.csv")
    w1_N, w2_N = table["w1_vega"].to_numpy(), table["w2_vega"].to_numpy()
    values_ND = np.stack([w1_N, w2_N, w1_N - w2_N], axis=1)
    return values_ND[np.isfinite(values_ND).all(axis=1)]


TABLES = {
    "breast_cancer": lambda _: load_breast_cancer().data,
    "digits": lambda _: load_digits().data,
    "gaia_xp_hot_subdwarfs": hot_subdwarfs,
    "wise_photometry": wise_colors,
}
REAL = ("gaia_xp_hot_subdwarfs", "wise_photometry")


@pytest.mark.parametrize("way", ["one process", "sharded"])
@pytest.mark.parametrize("name", TABLES)
def test_the_score_equals_exact_neighbors_of_scikit_learn(
    name, way, tmp_path, request, monkeypatch
):
    values_ND = TABLES[name](request.getfixturevalue("real_data") if name in REAL else None)
    spread_D = values_ND.std(axis=0)
    values_ND = (values_ND - values_ND.mean(axis=0)) / np.where(spread_D > 0, spread_D, 1.0)
    embedding_ND = values_ND[:4000].astype(np.float32)
    ids = [f"{row:05d}" for row in range(len(embedding_ND))]
    run_dir = make_embedded(tmp_path, embedding_ND, ids, rows_each=200)
    if way == "sharded":
        monkeypatch.setattr(indexing, "LEAST_ROWS", 200)
        plan = plan_search(run_dir, k=K, top=len(ids))
        rank_sharded(plan, in_turn, reason="asked for")
    else:
        rank_survey(plan_search(run_dir, k=K, index="flat"))
    catalog = read_catalog(run_dir).sort_by("object_id")
    peer = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(embedding_ND.astype(np.float64))
    distance_NK, _ = peer.kneighbors()
    np.testing.assert_allclose(
        catalog["outlier_score"].to_numpy(), distance_NK[:, -1], rtol=1e-6, atol=1e-6
    )
    assert set(catalog["score_kind"].to_pylist()) == {"exact"}
