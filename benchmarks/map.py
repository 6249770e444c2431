"""What the report's map keeps of the neighbors in embedding space, and what it costs.

Real galaxies (EFIGI) as `rings` sees them. Beside the map: the principal plane, scikit-learn's
t-SNE and, where they are installed, openTSNE and umap-learn, all begun and seeded so that they
repeat, one thread each, turn by turn. Kept is the share of an object's 10 nearest in the embedding
that are among its 10 nearest on the map; trustworthiness is scikit-learn's (Venna & Kaski 2001), 1
at best.
"""

import importlib.util
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray.errors import ConfigError
from astroray.report.neighbor_map import neighbor_map
from astroray.report.plane import principal_plane
from benchmarks.clock import timed
from benchmarks.rows import (
    BenchRow,
    MeasurementError,
    find_survey_data,
    measured,
    run_benchmark,
)

NUM_NEAREST = 10
MAX_OBJECTS, QUICK_OBJECTS = 5_000, 1_000
NUM_TURNS = 3

Maker = Callable[[np.ndarray], np.ndarray]


def kept(embedding_MD: np.ndarray, xy_M2: np.ndarray) -> float:
    """Mean share of the nearest of each object that are among its nearest on the map."""
    from sklearn.neighbors import NearestNeighbors

    near_MK, found_MK = (
        NearestNeighbors(n_neighbors=NUM_NEAREST).fit(v).kneighbors(return_distance=False)
        for v in (embedding_MD, xy_M2)
    )
    return float((near_MK[:, :, None] == found_MK[:, None]).any(axis=2).mean())


def makers() -> dict[str, Maker]:
    """What makes a map, by name; openTSNE and umap-learn only where they are installed."""
    from sklearn.manifold import TSNE

    found: dict[str, Maker] = {
        "ours": lambda embedding_MD: neighbor_map(embedding_MD, principal_plane(embedding_MD)[0]),
        "plane": lambda embedding_MD: principal_plane(embedding_MD)[0],
        "sklearn": lambda embedding_MD: TSNE(init="pca", random_state=0, n_jobs=1).fit_transform(
            embedding_MD.astype(np.float32)
        ),
    }
    if importlib.util.find_spec("openTSNE"):
        opened = importlib.import_module("openTSNE")
        found["openTSNE"] = lambda embedding_MD: np.asarray(
            opened.TSNE(random_state=0, n_jobs=1, neighbors="exact").fit(embedding_MD)
        )
    if importlib.util.find_spec("umap"):
        umap = importlib.import_module("umap")
        found["umap"] = lambda embedding_MD: umap.UMAP(random_state=0, n_jobs=1).fit_transform(
            embedding_MD.astype(np.float32)
        )
    return found


def compare(embedding_MD: np.ndarray, num_turns: int) -> dict[str, dict[str, float]]:
    """By maker: share kept, trustworthiness, and the median seconds of wall and processor."""
    from sklearn.manifold import trustworthiness
    from threadpoolctl import threadpool_limits

    made = makers()
    seconds: dict[str, list[list[float]]] = {name: [] for name in made}
    places: dict[str, np.ndarray] = {}
    with threadpool_limits(1):
        for make in made.values():
            make(embedding_MD[:200])  # what is compiled or loaded at the first call
        for _ in range(num_turns):
            for name, make in made.items():
                places[name], *took = timed(partial(make, embedding_MD))
                seconds[name].append(took)
        return {
            name: {
                "kept": kept(embedding_MD, xy_M2),
                "trustworthiness": float(
                    trustworthiness(embedding_MD, xy_M2, n_neighbors=NUM_NEAREST)
                ),
                "wall_s": statistics.median(wall_s for wall_s, _ in seconds[name]),
                "cpu_s": statistics.median(cpu_s for _, cpu_s in seconds[name]),
            }
            for name, xy_M2 in places.items()
        }


def read_embeddings(data: str, scratch: Path, num_objects: int) -> np.ndarray:
    """Embeddings of galaxies by `rings`, [M, D]. Raises MeasurementError where they are missing."""
    from astroray.evaluation import models
    from astroray.evaluation.label_tables import open_protocol
    from astroray.evaluation.pictures import Pictures

    try:
        opened = open_protocol("efigi", data=data)
    except ConfigError as error:
        raise MeasurementError(f"{error}") from None
    pictures = Pictures(opened)
    sample = models.take_sample(pictures, opened.fit_rows(0), str(scratch))
    path = models.fit_model("rings", sample, seed=0, budget_s=60)
    embedding_ND = models.embed(path, pictures, str(scratch)).embedding_ND
    order_N = np.random.default_rng(0).permutation(len(embedding_ND))[:num_objects]
    return np.asarray(embedding_ND[np.sort(order_N)], np.float64)


def rows_of(found: Mapping[str, Mapping[str, float]], peer: str, key: str) -> dict[str, Any]:
    """Fields of a row: ours over the peer's. Raises MeasurementError without the peer."""
    if peer not in found:
        package = PACKAGES[peer]
        raise MeasurementError(f"{package} is not installed; pip install {package}")
    ours, theirs = found["ours"], found[peer]
    facts = {f"ours_{name}": value for name, value in ours.items()}
    facts |= {f"theirs_{name}": value for name, value in theirs.items()}
    return {"value": ours[key] / theirs[key], "facts": facts}


PACKAGES = {"openTSNE": "openTSNE", "umap": "umap-learn"}
CLAIMS = (
    ("plane", "kept", "neighbors kept by the map over the principal plane", 2.0, False),
    ("plane", "trustworthiness", "trustworthiness over the principal plane", 1.05, False),
    ("sklearn", "kept", "neighbors kept over scikit-learn's t-SNE", 0.98, False),
    ("sklearn", "cpu_s", "processor seconds over scikit-learn's t-SNE", 0.5, True),
    ("openTSNE", "kept", "neighbors kept over openTSNE", 0.98, False),
    ("openTSNE", "cpu_s", "processor seconds over openTSNE", 0.5, True),
    ("umap", "kept", "neighbors kept over umap-learn", 1.0, False),
    ("umap", "cpu_s", "processor seconds over umap-learn", 1.0, True),
)


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows; quick: a thousand objects, one turn."""
    num_objects = QUICK_OBJECTS if quick else MAX_OBJECTS
    found: dict[str, dict[str, float]] = {}
    reason = ""
    try:
        embedding_MD = read_embeddings(find_survey_data(), scratch, num_objects)
        found = compare(embedding_MD, 1 if quick else NUM_TURNS)
    except (ImportError, MeasurementError) as error:
        reason = str(error)
    for peer, key, what, goal, is_at_most in CLAIMS:
        claim = partial(BenchRow, what=what, goal=goal, is_at_most=is_at_most, peer=peer)
        yield from measured(
            [claim],
            lambda: [{"reason": reason} if reason else rows_of(found, peer, key)],  # noqa: B023
        )


if __name__ == "__main__":
    run_benchmark("map", "What the report's map keeps, and what it costs.", measure)
