"""A network that came as an ONNX file: its program is its only tensor, ONNX Runtime computes it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from astroray.encoders.onnx_file import first_line, start_session
from astroray.errors import ConfigError


class OnnxNetwork(nn.Module):
    """Prepared objects [B, C, Y, X] to what the program makes of them, [B, D].

    shape      the numbers of its input, as for any network of the modality
    num_bytes  length of the program
    output     which of its outputs is taken
    batch      objects that it takes at once, the last ones padded with zeros; 0: any number

    It computes in float32, in as many threads as PyTorch may use when it begins; on a GPU objects
    and embeddings are copied through the host. Raises ConfigError where the program cannot take
    these objects, or gives no [B, D].
    """

    def __init__(self, *, num_bytes: int, output: int, batch: int, **shape: int) -> None:
        super().__init__()
        self.output, self.batch = output, batch
        self.register_buffer("program", torch.zeros(num_bytes, dtype=torch.uint8))
        self._sessions: dict[str, Any] = {}

    def forward(self, input_BCYX: Tensor) -> Tensor:
        device = input_BCYX.device
        session = self._sessions.get(device.type) or self._start(device.type)
        input_BCYX = input_BCYX.detach().float().cpu().contiguous()
        size = self.batch or max(1, len(input_BCYX))
        parts = [self._run(session, part.numpy(), size) for part in torch.split(input_BCYX, size)]
        return torch.from_numpy(np.concatenate(parts)).to(device)

    def _start(self, device: str) -> Any:
        data = self.get_buffer("program").cpu().numpy().tobytes()
        threads = torch.get_num_threads()
        self._sessions[device] = start_session(data, device=device, num_threads=threads)
        return self._sessions[device]

    def _run(self, session: Any, input_BCYX: np.ndarray, size: int) -> np.ndarray:
        """Outputs of at most `size` objects."""
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        num_rows = len(input_BCYX)
        if self.batch and num_rows < size:
            padding = np.zeros((size - num_rows, *input_BCYX.shape[1:]), np.float32)
            input_BCYX = np.concatenate([input_BCYX, padding])
        name = session.get_outputs()[self.output].name
        try:
            (found,) = session.run([name], {session.get_inputs()[0].name: input_BCYX})
        except (state.Fail, state.InvalidArgument, state.RuntimeException) as error:
            raise ConfigError(
                f"the ONNX program cannot take objects {input_BCYX.shape[1:]}: "
                f"{first_line(error)}; export it for these, or of images set encoder.size_px and "
                "encoder.bands to what it was exported for"
            ) from None
        output: np.ndarray = np.asarray(found)
        if output.ndim != 2 or len(output) != len(input_BCYX):
            raise ConfigError(
                f"output {name} of the ONNX program is {output.shape} for {len(input_BCYX)} "
                "objects, expected [B, D]; name another one with encoder.output, or export the "
                "network with a mean over its patches, pixels or bins"
            )
        return output[:num_rows]
