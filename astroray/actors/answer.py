"""What a Ray worker holds that encodes uploads: the models of the runs that are served just now."""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from astroray.actors.run_model import RunModel
from astroray.encoders import AttentionName
from astroray.errors import ConfigError

if TYPE_CHECKING:
    from astroray.actors.encode import BatchEncoder

MAX_MODELS = 2
"""While one run gives way to the next, uploads for both come in."""


class Answerer:
    """Encodes prepared cutouts, each with the model of the run that it is for.

    attention  auto: that of the run
    """

    def __init__(self, *, device: str, num_threads: int, attention: AttentionName = "auto") -> None:
        self.device, self.num_threads, self.attention = device, num_threads, attention
        self._models: OrderedDict[RunModel, BatchEncoder] = OrderedDict()

    def load(self, model: RunModel) -> "BatchEncoder":
        """The model of a run, loaded at its first use; the one unused for longest makes room.

        Raises as `RunModel.start` does.
        """
        if model not in self._models:
            attention = model.attention if self.attention == "auto" else self.attention
            self._models[model] = dataclasses.replace(model, attention=attention).start(
                batch_size=1, device=self.device, num_threads=self.num_threads
            )
            if len(self._models) > MAX_MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(model)
        return self._models[model]

    def embed(self, requests: Sequence[tuple[RunModel, np.ndarray]]) -> list[np.ndarray]:
        """Embeddings [D] of requests (model, image [C, S, S]), in their order."""
        answers: dict[int, np.ndarray] = {}
        by_model: dict[RunModel, list[int]] = {}
        for place, (model, _) in enumerate(requests):
            by_model.setdefault(model, []).append(place)
        for model, places in by_model.items():
            image_BCYX = np.stack([requests[place][1] for place in places])
            answers |= zip(places, self.load(model).embed(image_BCYX), strict=True)
        return [answers[place] for place in range(len(requests))]

    def embed_each(self, requests: Sequence[tuple[RunModel, np.ndarray]]) -> list[np.ndarray]:
        """As `embed`, but NaN for what a network of the user's own raises on, which is logged."""
        try:
            return self.embed(requests)
        except ConfigError:
            if len(requests) > 1:  # the others are answered
                return [self.embed_each([request])[0] for request in requests]
            return [np.full(self.load(requests[0][0]).dim, np.nan, np.float32)]
