"""A scan beside Hyrax: the same images and network, from FITS files to the nearest of all objects.

    astroray bench hyrax --hyrax-python PYTHON [--json] [--quick]

PYTHON is that of an environment where Hyrax is installed: `python -m venv DIR; DIR/bin/pip install
hyrax==0.13 torch==TORCH`, TORCH the version that is here. Simulated galaxies of 64 x 64 px in three
bands are written as FITS, a file a band, which both read as they come (Hyrax by its
FitsImageDataset). Both run `hyrax_net.Net` in batches of the same size on all cores: here a worker
of one thread for each, there PyTorch's threads. Each job is a process of its own, whose family is
watched; the two take turns. The embeddings must agree before anything is compared.

A job there is infer, save_to_database and one search for all objects; here a scan, which also
proves its list, writes the catalog and draws the report. Objects/s are those between N and 4 N
objects, so that what each needs to start is left out.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import at_least, at_most
from benchmarks.hyrax_jobs import NUM_NEAREST, Found, Images, Ours, Theirs, Took
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

CLASS = "benchmarks.hyrax_net:Net"
LARGEST_ERROR = 1e-4
PEER = "Hyrax, its FitsImageDataset, Lance and ChromaDB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    few: int
    """N objects."""
    rounds: int
    """Turns of both sides at N and 4 N; at least two."""


FULL, QUICK = Sizes(few=500, rounds=2), Sizes(few=200, rounds=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A job of one side at N objects and the next at 4 N."""

    few: Took
    many: Took
    num_more: int
    """Objects that the second has more."""

    @property
    def per_s(self) -> float:
        """Objects embedded a second, the start of both left out."""
        return self.num_more / (self.many.embed_s - self.few.embed_s)


Compared = tuple[Callable[..., BenchRow], str, Callable[[Pair], float]]
COMPARED: Sequence[Compared] = (
    (at_least("objects/s from files to embeddings, over Hyrax's", 1.0, peer=PEER), "per_s",
     lambda pair: pair.per_s),
    (at_most("seconds to the embeddings of N objects, over Hyrax's", 1.0, peer=PEER), "s",
     lambda pair: pair.few.embed_s),
    (at_most("CPU seconds to the embeddings of 4 N objects, over Hyrax's", 1.0, peer=PEER), "cpu_s",
     lambda pair: pair.many.embed_cpu_s),
    (at_most("seconds of the whole job at N objects, over Hyrax's", 1.0, peer=PEER), "s",
     lambda pair: pair.few.total_s),
    (at_most("seconds of the whole job at 4 N objects, over Hyrax's", 1.0, peer=PEER), "s",
     lambda pair: pair.many.total_s),
    (at_most("seconds from the embeddings of 4 N objects to the end, over Hyrax's", 1.0, peer=PEER),
     "s", lambda pair: pair.many.total_s - pair.many.embed_s),
    (at_most("peak memory of the whole job at 4 N objects, over Hyrax's", 1.0, peer=PEER), "mb",
     lambda pair: pair.many.peak_mb),
    (at_most("peak memory at 4 N objects over that at N, over Hyrax's", 1.0, peer=PEER), "x",
     lambda pair: pair.many.peak_mb / pair.few.peak_mb),
    (at_most("bytes on disk after the job at 4 N objects, over Hyrax's", 1.0, peer=PEER), "mb",
     lambda pair: pair.many.disk_mb),
)  # fmt: skip
"""What both sides are measured by, and in which unit."""
CLAIMS = (
    *(claim for claim, _, _ in COMPARED),
    at_least("share of the true 10 nearest of each object that are given", 1.0, unit=""),
    at_least(
        "share of objects whose embedding is the same to the last bit in two runs", 1.0, unit=""
    ),
    at_least("share of files of results that have equal bytes in two runs", 1.0, unit=""),
    at_least("share of whole objects embedded beside one damaged file", 1.0, unit=""),
    at_most("seconds to all embeddings after a kill at half, over an undisturbed run", 0.8),
)
"""All rows, in the order of `measure_all`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Images, and both sides with one network: here in a run, there as weights and levels."""

    few: Images
    many: Images
    rounds: int
    run: Path
    python: str
    network: Mapping[str, Any]
    scratch: Path

    @classmethod
    def prepare(cls, sizes: Sizes, python: str, scratch: Path) -> "Scene":
        """Raises MeasurementError where Hyrax cannot be asked, or a scan fails."""
        if not python:
            raise MeasurementError("no --hyrax-python PYTHON of an environment that has Hyrax")
        many = Images.simulate(4 * sizes.few, scratch / "many")
        few = many.first(sizes.few, scratch / "few")
        first = Ours(images=few, encoder=CLASS, out=scratch / "first")
        first.run()
        network = run_fresh(give_network, str(first.out), str(scratch / "network")).value()
        return cls(
            few=few, many=many, rounds=sizes.rounds, run=first.out, python=python, network=network,
            scratch=scratch,
        )  # fmt: skip

    def ours(self, images: Images, name: str) -> Ours:
        return Ours(images=images, encoder=str(self.run), out=self.scratch / f"{name}-ours")

    def theirs(self, images: Images, name: str, *, is_searched: bool = True) -> Theirs:
        return Theirs(
            images=images, python=self.python, network=self.network,
            out=self.scratch / f"{name}-theirs", is_searched=is_searched,
        )  # fmt: skip


def give_network(run: str, folder: str) -> dict[str, Any]:
    """What Hyrax needs of a run's model: weights in a file, levels of the stretch, size."""
    import torch

    from astroray.encoders.store import load_model
    from benchmarks.hyrax_net import Net

    preparation: Any = load_model(run).preparation
    net = Net(num_bands=len(preparation.bands), size_px=preparation.size_px)
    Path(folder).mkdir()
    path = f"{folder}/weights.pth"
    torch.save({f"net.{name}": weight for name, weight in net.state_dict().items()}, path)
    levels = {
        "sky": list(preparation.sky_C),
        "noise": list(preparation.noise_C),
        "peak": list(preparation.peak_C),
    }
    return {"weights": path, "levels": levels, "size_px": preparation.size_px}


def measure_all(scene: Scene) -> list[dict[str, Any]]:
    """Fields of all rows, in order. Raises MeasurementError where embeddings differ."""
    jobs = [
        [
            side(images, f"{turn}-{len(images.names)}")
            for images in (scene.few, scene.many)
            for side in (scene.ours, scene.theirs)
        ]
        for turn in range(scene.rounds)
    ]
    took = [[job.run() for job in turn] for turn in jobs]
    found = [[job.found() for job in turn] for turn in jobs[:2]]
    error = max(difference(turn[at], turn[at + 1]) for turn in found for at in (0, 2))
    more = len(scene.many.names) - len(scene.few.names)
    pairs = [[Pair(few=one[at], many=one[at + 2], num_more=more) for one in took] for at in (0, 1)]
    whole_s = [float(np.median([pair.many.embed_s for pair in side])) for side in pairs]
    return [
        *({**compare(pairs, unit, value), "error": error} for _, unit, value in COMPARED),
        both([true_share(one) for one in found[0][2:]]) | {"error": error},
        both([equal_embeddings(found[0][at], found[1][at]) for at in (2, 3)]),
        both([equal_share(found[0][at], found[1][at]) for at in (2, 3)]),
        both(embedded_beside_damage(scene)),
        both([s / whole for s, whole in zip(seconds_after_kill(scene), whole_s, strict=True)]),
    ]


def both(values: Sequence[float]) -> dict[str, Any]:
    """Fields of a row whose value is ours; Hyrax's stands beside it."""
    ours, theirs = values
    return {"value": ours, "runs": 1, "facts": {"hyrax": theirs}}


def compare(
    pairs: Sequence[Sequence[Pair]], unit: str, value: Callable[[Pair], float]
) -> dict[str, Any]:
    """Fields of a row: ours over Hyrax's turn by turn, and the medians of both."""
    ours, theirs = ([value(pair) for pair in side] for side in pairs)
    facts = {f"ours_{unit}": float(np.median(ours)), f"hyrax_{unit}": float(np.median(theirs))}
    return {**spread([a / b for a, b in zip(ours, theirs, strict=True)]), "facts": facts}


def difference(ours: Found, theirs: Found) -> float:
    """Largest difference of an embedding from Hyrax's over the largest number of any.

    Ours are centered, so the mean difference, one vector for all, is no difference. Raises
    MeasurementError where there are other objects, or it is large.
    """
    if ours.stored.keys() != theirs.stored.keys():
        raise MeasurementError(
            f"{len(ours.stored)} objects are embedded here and {len(theirs.stored)} by Hyrax, "
            f"{len(ours.stored.keys() & theirs.stored.keys())} by both, expected the same"
        )
    ours_ND, theirs_ND = (
        np.array([side.stored[name] for name in sorted(ours.stored)], np.float64)
        for side in (ours, theirs)
    )
    apart_ND = ours_ND - theirs_ND
    error = float(np.abs(apart_ND - apart_ND.mean(0)).max() / np.abs(ours_ND).max())
    if not error <= LARGEST_ERROR:
        raise MeasurementError(
            f"embeddings differ from Hyrax's by {error:.2g} of the largest number, expected at "
            f"most {LARGEST_ERROR:g}: is its PyTorch the one that is here?"
        )
    return error


def true_share(found: Found) -> float:
    """Share of the true nearest of each object, by the embeddings it stored, that it gives."""
    names = sorted(found.stored)
    vector_ND = np.array([found.stored[name] for name in names], np.float64)
    vector_ND -= vector_ND.mean(0)
    square_N = (vector_ND**2).sum(1)
    shares: list[float] = []
    for at, name in enumerate(names):
        distance_N = square_N - 2 * vector_ND @ vector_ND[at]
        distance_N[at] = np.inf
        true = {names[other] for other in np.argsort(distance_N, kind="stable")[:NUM_NEAREST]}
        shares.append(len(true & set(found.nearest[name])) / NUM_NEAREST)
    return float(np.mean(shares))


def equal_embeddings(one: Found, other: Found) -> float:
    """Share of the objects whose embedding is the same to the last bit."""
    equal = [np.array_equal(vector_D, other.stored[name]) for name, vector_D in one.stored.items()]
    return float(np.mean(equal))


def equal_share(one: Found, other: Found) -> float:
    """Share of the files of either that the other has, with the same bytes."""
    names = one.digests.keys() | other.digests.keys()
    return sum(one.digests.get(name) == other.digests.get(name) for name in names) / len(names)


def embedded_beside_damage(scene: Scene) -> list[float]:
    """Share of the whole objects that each side embeds where one in the middle is damaged."""
    images = scene.few.first(len(scene.few.names), scene.scratch / "damaged")
    images.damage(images.names[len(images.names) // 2])
    jobs: list[Ours | Theirs] = [scene.ours(images, "damaged")]
    jobs.append(scene.theirs(images, "damaged", is_searched=False))
    for job in jobs:
        job.run()
    found = [job.found() for job in jobs]
    print(f"Hyrax at the damaged file: {found[1].error or 'no error'}", flush=True)
    return [len(one.stored) / (len(images.names) - 1) for one in found]


def seconds_after_kill(scene: Scene) -> list[float]:
    """What the run after a kill at half takes until all is embedded.

    The same command goes on here; there it is a new one, as Hyrax has no other.
    """
    seconds = []
    ours = scene.ours(scene.many, "killed")
    theirs = [scene.theirs(scene.many, name, is_searched=False) for name in ("killed", "again")]
    for killed, again in ((ours, ours), theirs):
        killed.run(kill_at=killed.num_pieces() // 2)
        seconds.append(again.run().embed_s)
    return seconds


def measure(quick: bool, scratch: Path, *, python: str) -> list[BenchRow]:
    """All rows; without Hyrax they say so."""
    sizes = QUICK if quick else FULL
    return measured(CLAIMS, lambda: measure_all(Scene.prepare(sizes, python, scratch)))


def main() -> None:
    """`python -m benchmarks.hyrax`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--hyrax-python", metavar="PYTHON", default="")
    asked, rest = parser.parse_known_args()
    claim = "A scan beside Hyrax. --hyrax-python PYTHON is of an environment that has Hyrax."
    run_benchmark("hyrax", claim, partial(measure, python=asked.hyrax_python), rest)


if __name__ == "__main__":
    from benchmarks import hyrax as module  # so that fresh processes find its functions by name

    module.main()
