"""What each index costs a certified list, and how good its list would be without a certificate.

The same vectors are searched by each index in a fresh process on one thread: it is built, all
objects are searched, and the list is proven. All lists must be those without an index, to the last
bit. Beside the cost stands what the index alone would have given: the share of true neighbors that
it found, and the share of the list that is in the list of its own scores.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray.neighbors.approximate import ApproximateIndex
from astroray.neighbors.candidates import Exact
from astroray.neighbors.certificate import Certified, certify_top, score_of
from astroray.neighbors.distances import Frame
from astroray.search.sharded import ShardedSearch
from benchmarks.cells import WORDS, make_survey
from benchmarks.claims import at_most
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search
from benchmarks.neighbors import BLAS_THRESHOLD, ONE_THREAD, K
from benchmarks.processes import run_fresh, watched
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark

TOP = 500
KINDS = ("sharded", "ivf-flat", "ivf-sq8", "ivf-pq", "hnsw")
SURVEYS = ("made", "digits 0.3")

CLAIMS = {
    (survey, kind): at_most(
        f"{WORDS[survey]}: CPU time of the certified top {TOP} with {kind} over flat",
        None,
        peer="astroray's search without an index, 1 thread",
    )
    for survey in SURVEYS
    for kind in KINDS
}


def by_flat(embedding_ND: np.ndarray) -> dict[str, Any]:
    """Neighbors, scores and the list; CPU seconds and peak private memory."""
    import faiss

    faiss.omp_set_num_threads(1)
    exact = Exact(faiss, Frame.of(embedding_ND), k=K)
    (near_NK, distance_NK), facts = watched(lambda: exact.nearest(np.arange(len(embedding_ND))))
    score_N = score_of(distance_NK, "kth")
    certified = _certify(score_N, np.ones(len(score_N), bool), exact)
    return {"near_NK": near_NK, "top": _top_of(certified), "facts": facts}


def by_index(embedding_ND: np.ndarray, kind: str) -> dict[str, Any]:
    """The same with an index in one process; its size, and CPU seconds of each step."""
    import faiss

    faiss.omp_set_num_threads(1)
    faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD
    exact = Exact(faiss, Frame.of(embedding_ND), k=K)
    index, built = watched(
        lambda: ApproximateIndex(faiss, exact, kind=kind, seed=0, num_probes=None)
    )
    (near_NK, distance_NK), searched = watched(lambda: index.nearest(np.arange(len(embedding_ND))))
    bound_N = score_of(distance_NK, "kth")
    certified, proven = watched(lambda: _certify(bound_N, np.zeros(len(bound_N), bool), exact))
    steps = {"build": built, "search": searched, "certify": proven}
    facts = {f"{step}_cpu_s": took["cpu_s"] for step, took in steps.items()} | {
        "cpu_s": sum(took["cpu_s"] for took in steps.values()),
        "memory_mb": max(took["memory_mb"] for took in steps.values()),
        "index_mb": len(faiss.serialize_index(index.proposer.index)) / 2**20,
        "probes": float(index.num_probes),
        "rescored": float(certified.proof.num_rescored),
    }
    return {"near_NK": near_NK, "bound_N": bound_N, "top": _top_of(certified), "facts": facts}


def by_partitions(embedding_ND: np.ndarray, folder: str) -> dict[str, Any]:
    """The same by the search over partitions, from embeddings on disk; no neighbors."""
    names = [f"{row:09d}" for row in range(len(embedding_ND))]
    run_dir = make_embedded(Path(folder), embedding_ND, names, rows_each=10_000)
    searched = ShardedSearch(plan_search(run_dir, k=K, top=TOP), in_turn, reason="asked for")
    certified, facts = watched(searched.certify)
    sizes = [file.stat().st_size for file in (Path(run_dir) / "index").glob("partition-*")]
    facts |= {
        "index_mb": sum(sizes) / 2**20,
        "probes": float(searched.plan.num_probes),
        "rescored": float(certified.proof.num_rescored),
    }
    bound_N = searched.bounds()[searched.places.vector_N]
    return {"bound_N": bound_N, "top": _top_of(certified), "facts": facts}


def against_flat(scratch: Path, survey: str, num: int) -> dict[str, dict[str, Any]]:
    """The fields of a row of each index."""
    embedding_ND = make_survey(survey, num)
    flat = run_fresh(by_flat, embedding_ND, environment=ONE_THREAD).value()
    fields = {}
    for kind in KINDS:
        function, given = (
            (by_partitions, str(scratch / survey)) if kind == "sharded" else (by_index, kind)
        )
        found = run_fresh(function, embedding_ND, given, environment=ONE_THREAD).value()
        if not all(map(np.array_equal, found["top"], flat["top"])):
            raise MeasurementError(f"the certified list of {kind} differs from that of flat")
        facts = found["facts"] | {
            "objects": float(num),
            "listed_before": _share(flat["top"][0], np.argsort(-found["bound_N"])[:TOP]),
            "flat_cpu_s": flat["facts"]["cpu_s"],
            "flat_memory_mb": flat["facts"]["memory_mb"],
        }
        if "near_NK" in found:
            pairs = zip(flat["near_NK"], found["near_NK"], strict=True)
            facts["recall_before"] = float(np.mean([_share(*pair) for pair in pairs]))
        ratio = facts["cpu_s"] / facts["flat_cpu_s"]
        fields[kind] = {"value": ratio, "runs": 1, "error": 0.0, "facts": facts}
    return fields


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows; what is written goes to `scratch`."""
    num = 8_000 if quick else 65_536
    rows = []
    for survey in SURVEYS:
        claims = [CLAIMS[survey, kind] for kind in KINDS]
        rows += measured(claims, partial(_rows_of, scratch, survey, num))
    return rows


def _rows_of(scratch: Path, survey: str, num: int) -> list[dict[str, Any]]:
    fields = against_flat(scratch, survey, num)
    return [fields[kind] for kind in KINDS]


def _certify(score_N: np.ndarray, is_exact_N: np.ndarray, exact: Exact) -> Certified:
    return certify_top(
        score_N,
        is_exact_N,
        lambda row_B: score_of(exact.nearest(row_B)[1], "kth"),
        top=TOP,
        k=K,
        score="kth",
    )


def _top_of(certified: Certified) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the list in their order, and their scores."""
    best = np.argsort(certified.rank_N)[:TOP]
    return best, certified.score_N[best]


def _share(true: np.ndarray, found: np.ndarray) -> float:
    return len(np.intersect1d(true, found)) / len(true)


def main() -> None:
    """`python -m benchmarks.indexes`."""
    run_benchmark("indexes", "A certified list with each index, beside none.", measure)


if __name__ == "__main__":
    from benchmarks import indexes as module  # so that fresh processes find its functions

    module.main()
