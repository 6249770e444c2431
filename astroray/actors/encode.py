"""How prepared rows become embeddings on a device, in batches of one fixed size."""

import logging

import numpy as np
import torch

from astroray.encoders import OF_BATCH, AttentionName, QuantizeName
from astroray.encoders.selecting import choose_backends
from astroray.encoders.store import load_model
from astroray.errors import BackendError, ConfigError
from astroray.preparation.modalities import MODALITIES

LEAST_PATIENCE = 4
"""Half the batches before a batch that was cut once is tried whole again."""
_log = logging.getLogger("astroray.encode")


def resolve_backends(
    model_path: str, attention: AttentionName, quantize: QuantizeName, device: str
) -> dict[str, str]:
    """What `encoder.attention` and `encoder.quantize` become for a model on this machine.

    See `choose_backends`; of a network without attention only the latter.
    """
    model = load_model(model_path)
    _, found = choose_backends(model, quantize=quantize, attention=attention, device=device)
    return found


class BatchEncoder:
    """Encodes rows in batches of one fixed size, so that a row's numbers never depend on luck.

    The last batch of a shard is padded with zeros. On a GPU batches are copied from pinned memory
    on a stream of their own, and cut in halves where memory does not suffice. What took it may be
    gone soon, as another process: after some batches pieces of twice the size are tried again,
    after twice as many with each cut, so that a batch that is simply too large is seldom tried.
    """

    def __init__(
        self,
        *,
        model_path: str,
        batch_size: int,
        device: str,
        num_threads: int,
        attention: AttentionName = "auto",
        quantize: QuantizeName = "none",
    ) -> None:
        torch.set_num_threads(num_threads)
        self.device = torch.device(device)
        self.model, self.backends = choose_backends(
            load_model(model_path), quantize=quantize, attention=attention, device=self.device
        )
        self.dim = self.model.dim
        shape = MODALITIES[self.model.modality].shape(self.model.network_config)
        self._batch_BCYX = torch.zeros((batch_size, *shape), pin_memory=self.device.type == "cuda")
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._num_waiting = 0
        self.num_encoded = 0
        """Rows since those that wait were last forgotten."""
        self._num_pieces = 1
        self._num_calm = 0
        self._patience = LEAST_PATIENCE

    def push(self, image_BCYX: np.ndarray) -> np.ndarray:
        """Takes prepared rows; returns the embeddings [M, dim] of the batches that became full."""
        size = len(self._batch_BCYX)
        full: list[np.ndarray] = []
        start = 0
        while start < len(image_BCYX):
            take = min(size - self._num_waiting, len(image_BCYX) - start)
            stop = self._num_waiting + take
            self._batch_BCYX[self._num_waiting : stop] = torch.from_numpy(
                image_BCYX[start : start + take]
            )
            self._num_waiting, start = stop, start + take
            if stop == size:
                full.append(self.flush())
        return np.concatenate(full) if full else np.zeros((0, self.dim), np.float32)

    def flush(self) -> np.ndarray:
        """Embeddings of the rows that still wait, [M, dim]; the batch is padded with zeros."""
        num_rows = self._num_waiting
        if num_rows == 0:
            return np.zeros((0, self.dim), np.float32)
        self._batch_BCYX[num_rows:] = 0.0
        embedding_BD = self._encode(self._batch_BCYX)[:num_rows]
        self._num_waiting = 0
        self.num_encoded += num_rows
        return embedding_BD

    def find_failing(self) -> tuple[range, int | None]:
        """Rows of the batch that the network fails on, and the first that it fails on alone.

        Rows are counted as `num_encoded` is. None: each alone is encoded.
        """
        rows = range(self.num_encoded, self.num_encoded + self._num_waiting)
        for place, row in enumerate(rows):
            try:
                self._encode(self._batch_BCYX[place : place + 1])
            except ConfigError:
                return rows, row
        return rows, None

    def embed(self, image_BCYX: np.ndarray) -> np.ndarray:
        """Embeddings [B, dim] of prepared rows at once, not padded, beside any that wait.

        For answers while somebody waits: the last bits may differ from those of a full batch.
        Numbers that depend on the company of a row are those of the row alone.
        """
        num_pieces = max(1, len(image_BCYX)) if self.backends["quantize"] in OF_BATCH else 1
        pieces = torch.from_numpy(image_BCYX).chunk(num_pieces)
        return np.concatenate([self._encode(piece) for piece in pieces])

    def clear(self) -> None:
        """Forgets the rows that wait."""
        self._num_waiting = self.num_encoded = 0

    @torch.inference_mode()
    def _encode(self, batch_BCYX: torch.Tensor) -> np.ndarray:
        while True:
            try:
                pieces = batch_BCYX.chunk(self._num_pieces)
                embedding_BD = np.concatenate([self._forward(piece) for piece in pieces])
                self._grow()
                return embedding_BD
            except torch.OutOfMemoryError as error:
                self._num_pieces *= 2
                self._patience *= 2
                self._num_calm = 0
                if self._num_pieces > len(batch_BCYX):
                    raise BackendError(
                        f"one object does not fit into the memory of {self.device}: {error}; "
                        "choose a smaller encoder or size"
                    ) from error
                _log.warning("out of memory: batch cut into %d pieces", self._num_pieces)
                if self._stream is not None:
                    torch.cuda.empty_cache()

    def _grow(self) -> None:
        """Notes a batch that memory sufficed for; after enough of them the next one is cut less."""
        self._num_calm += 1
        if self._num_pieces > 1 and self._num_calm >= self._patience:
            self._num_pieces //= 2
            self._num_calm = 0

    def _forward(self, piece_BCYX: torch.Tensor) -> np.ndarray:
        if self._stream is None:
            return self.model.embed(piece_BCYX).numpy()
        with torch.cuda.stream(self._stream):
            embedding_BD = self.model.embed(piece_BCYX.to(self.device, non_blocking=True))
            return embedding_BD.cpu().numpy()
