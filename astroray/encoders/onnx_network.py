"""A network that came as an ONNX file: its program is its only tensor, ONNX Runtime computes it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from astroray.encoders.onnx_file import first_line, start_session
from astroray.errors import ConfigError


class OnnxNetwork(nn.Module):
    """Images [B, C, S, S] in 0..1 to what the program makes of them, [B, D].

    num_bytes  length of the program
    output     which of its outputs is taken
    batch      images that it takes at once, the last ones padded with zeros; 0: any number

    It computes in float32, in as many threads as PyTorch may use when it begins; on a GPU images
    and embeddings are copied through the host. Raises ConfigError where the program cannot take
    these images, or gives no [B, D].
    """

    def __init__(
        self, *, num_bands: int, size_px: int, num_bytes: int, output: int, batch: int
    ) -> None:
        super().__init__()
        self.output, self.batch = output, batch
        self.register_buffer("program", torch.zeros(num_bytes, dtype=torch.uint8))
        self._sessions: dict[str, Any] = {}

    def forward(self, image_BCYX: Tensor) -> Tensor:
        device = image_BCYX.device
        session = self._sessions.get(device.type) or self._start(device.type)
        image_BCYX = image_BCYX.detach().float().cpu().contiguous()
        size = self.batch or max(1, len(image_BCYX))
        parts = [self._run(session, part.numpy(), size) for part in torch.split(image_BCYX, size)]
        return torch.from_numpy(np.concatenate(parts)).to(device)

    def _start(self, device: str) -> Any:
        data = self.get_buffer("program").cpu().numpy().tobytes()
        threads = torch.get_num_threads()
        self._sessions[device] = start_session(data, device=device, num_threads=threads)
        return self._sessions[device]

    def _run(self, session: Any, image_BCYX: np.ndarray, size: int) -> np.ndarray:
        """Outputs of at most `size` images."""
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        num_rows = len(image_BCYX)
        if self.batch and num_rows < size:
            padding = np.zeros((size - num_rows, *image_BCYX.shape[1:]), np.float32)
            image_BCYX = np.concatenate([image_BCYX, padding])
        name = session.get_outputs()[self.output].name
        try:
            (found,) = session.run([name], {session.get_inputs()[0].name: image_BCYX})
        except (state.Fail, state.InvalidArgument, state.RuntimeException) as error:
            raise ConfigError(
                f"the ONNX program cannot take images {image_BCYX.shape[1:]}: "
                f"{first_line(error)}; set encoder.size_px and encoder.bands to what it was "
                "exported for"
            ) from None
        output: np.ndarray = np.asarray(found)
        if output.ndim != 2 or len(output) != len(image_BCYX):
            raise ConfigError(
                f"output {name} of the ONNX program is {output.shape} for {len(image_BCYX)} "
                "images, expected [B, D]; name another one with encoder.output, or export the "
                "network with a mean over its patches or pixels"
            )
        return output[:num_rows]
