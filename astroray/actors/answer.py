"""What a Ray worker holds that encodes uploads: the models of the runs that are served just now."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from astroray.actors.encode import BatchEncoder
from astroray.encoders import AttentionName

MAX_MODELS = 2
"""While one run gives way to the next, uploads for both come in."""


class Answerer:
    """Encodes prepared cutouts, each with the model that it names by the path of its file."""

    def __init__(self, *, device: str, num_threads: int, attention: AttentionName) -> None:
        self.device, self.num_threads, self.attention = device, num_threads, attention
        self._models: OrderedDict[tuple[str, str], BatchEncoder] = OrderedDict()

    def load(self, path: str, model_id: str) -> BatchEncoder:
        """The model of a file, loaded at its first use; the one unused for longest makes room."""
        key = (path, model_id)
        if key not in self._models:
            self._models[key] = BatchEncoder(
                model_path=path,
                batch_size=1,
                device=self.device,
                num_threads=self.num_threads,
                attention=self.attention,
            )
            if len(self._models) > MAX_MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]

    def embed(self, requests: Sequence[tuple[str, str, np.ndarray]]) -> list[np.ndarray]:
        """Embeddings [D] of requests (path, model_id, image [C, S, S]), in their order."""
        answers: dict[int, np.ndarray] = {}
        by_model: dict[tuple[str, str], list[int]] = {}
        for place, (path, model_id, _) in enumerate(requests):
            by_model.setdefault((path, model_id), []).append(place)
        for (path, model_id), places in by_model.items():
            image_BCYX = np.stack([requests[place][2] for place in places])
            embedding_BD = self.load(path, model_id).embed(image_BCYX)
            answers |= zip(places, embedding_BD, strict=True)
        return [answers[place] for place in range(len(requests))]
