"""What an ONNX file has to be to serve as an encoder: one object in, one embedding out.

ONNX is the format in which other programs hand over a network with its weights: a graph of named
operators, data and no code. It is loaded by ONNX Runtime alone.
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from astroray import storage
from astroray.errors import BackendError, ConfigError, FileError
from astroray.preparation import Wishes
from astroray.preparation.light_curves import WINDOW
from astroray.preparation.modalities import MODALITIES
from astroray.surveys.shards import ModalityName

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OnnxFile", "first_line", "read_onnx", "start_session"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""What ONNX Runtime calls a device."""
INSTALL = "pip install 'astroray[onnx]'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A program that can encode, as its file has it; None where the file leaves it open."""

    path: str
    data: bytes
    """The program with its weights, also of those that stood in files beside it."""
    batch: int | None
    """Objects that it takes at once."""
    shape: tuple[int | None, int | None, int | None]
    """[C, Y, X] of an object: bands and twice the size, or of light curves 2, windows, 512."""
    output: int
    """Which of its outputs is the embedding."""

    @property
    def content_id(self) -> str:
        """Hash of the program and of the output that is taken."""
        return hashlib.sha256(self.data + b"%d" % self.output).hexdigest()[:16]

    def wishes(self, modality: ModalityName, wishes: Wishes) -> Wishes:
        """The user's wishes with those of the program: the size of images, windows of curves.

        Raises ConfigError where it takes no objects of the modality, or others than the user.
        """
        planes, height, width = self.shape
        if modality != "images":
            if planes not in (None, 2) or width not in (None, WINDOW):
                wanted = MODALITIES[modality].nouns
                raise ConfigError(
                    f"{self.path} takes objects of {_words(self.shape)}, expected {wanted}: 2 "
                    f"(flux; 1 where observed), windows, {WINDOW} bins; export it so"
                )
            return dataclasses.replace(wishes, num_windows=height)
        if height != width:
            raise ConfigError(
                f"{self.path} takes images of {_words(self.shape)}, expected bands and a square: "
                "[bands, size, size]; export it so (tf2onnx: --inputs-as-nchw puts bands first)"
            )
        if wishes.size_px and height and wishes.size_px != height:
            raise ConfigError(
                f"encoder.size_px is {wishes.size_px}, but {self.path} takes images of {height} "
                "px; leave it out"
            )
        return dataclasses.replace(wishes, size_px=height or wishes.size_px)

    def numbers(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """What its network is built with beside the numbers of [C, Y, X], its input.

        Raises ConfigError where it takes another number of bands.
        """
        if self.shape[0] not in (None, shape[0]):
            raise ConfigError(
                f"{self.path} takes {self.shape[0]} bands, the survey gives {shape[0]}; choose "
                "those that it was made for, in its order, with encoder.bands, or export the "
                "network for these"
            )
        return {"num_bytes": len(self.data), "output": self.output, "batch": self.batch or 0}

    def to_tensor(self) -> "Tensor":
        """The program as a network's only tensor, uint8."""
        import torch  # only where a model is made: the driver of a scan starts without it

        return torch.frombuffer(bytearray(self.data), dtype=torch.uint8)


def read_onnx(path: str, *, output: str | None = None) -> OnnxFile:
    """An ONNX file, checked.

    output  name of the output to take; None: the only one of two dimensions

    Raises ConfigError where it is none, or not of objects [B, C, Y, X] to embeddings [B, D] in
    float32, and where ONNX Runtime is not installed.
    """
    data = _read_whole(path)
    session = start_session(data, device="cpu", num_threads=1, name=path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or inputs[0].type != "tensor(float)":
        found = "; ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise ConfigError(
            f"{path} takes {found or 'nothing'}, expected one input of float32 "
            f"[batch, bands, size, size], of light curves [batch, 2, windows, {WINDOW}]; export "
            "it so"
        )
    batch, planes, height, width = (n if isinstance(n, int) else None for n in shape)
    return OnnxFile(
        path=path,
        data=data,
        batch=batch,
        shape=(planes, height, width),
        output=_choose_output(path, outputs, output),
    )


def start_session(data: bytes, *, device: str, num_threads: int, name: str = "the model") -> Any:
    """ONNX Runtime's session of a program on a device, cpu or cuda.

    Raises ConfigError where it is not installed or refuses the program, BackendError where it
    has no such device.
    """
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        raise ConfigError(f"{name} needs ONNX Runtime, which is missing; {INSTALL}") from None
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise BackendError(
            f"{name} is to run on {device}, but this ONNX Runtime has "
            f"{', '.join(onnxruntime.get_available_providers())}; pip install onnxruntime-gpu, or "
            "set num_gpus to 0"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    refusals = (
        state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf,
        state.NotImplemented, state.RuntimeException,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as nothing:
        # a program is whole: it may not read weights from files of this machine
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, nothing)
        try:
            return onnxruntime.InferenceSession(data, options, providers=[PROVIDERS[device]])
        except refusals as error:
            raise ConfigError(f"ONNX Runtime refuses {name}: {first_line(error)}") from None


def _read_whole(path: str) -> bytes:
    """The program as one piece, with the weights that large exports put into a file beside it."""
    try:
        import onnx
        from google.protobuf.message import DecodeError, EncodeError
    except ImportError:
        raise ConfigError(f"{path} needs the package onnx, which is missing; {INSTALL}") from None
    try:
        with storage.local_copy(path) as local:
            program = onnx.load(local)
            for weight in program.graph.initializer:  # it says no more where it came from
                weight.ClearField("data_location")
            whole: bytes = program.SerializeToString(deterministic=True)
            return whole
    except FileError as error:
        raise ConfigError(f"{error}; give the path of an ONNX file") from None
    except DecodeError:
        raise ConfigError(f"{path} is no ONNX file; export one with torch.onnx.export") from None
    except (EncodeError, ValueError):
        raise ConfigError(f"{path} is larger than 2 GB, expected a smaller network") from None
    except (OSError, onnx.checker.ValidationError) as error:
        raise ConfigError(
            f"{path} has weights in another file that cannot be read ({first_line(error)}); put "
            "it beside the program on this machine, or export with external_data=False"
        ) from None


def _choose_output(path: str, outputs: Sequence[Any], asked: str | None) -> int:
    """Number of the output that is the embedding."""
    names = [one.name for one in outputs]
    flat = [i for i, one in enumerate(outputs) if len(one.shape or ()) == 2]
    if asked is not None:
        flat = [names.index(asked)] if asked in names else []
    if len(flat) != 1:
        found = "; ".join(f"{one.name} {one.shape}" for one in outputs)
        wanted = f"one named {asked!r}" if asked is not None else "one of shape [batch, D]"
        raise ConfigError(
            f"{path} has the outputs {found}, expected {wanted}; name the embedding with "
            "encoder.output, or export the network with a mean over its patches, pixels or bins"
        )
    return flat[0]


def _words(shape: Sequence[int | None]) -> str:
    return ", ".join("any number" if n is None else str(n) for n in shape)


def first_line(error: Exception) -> str:
    """What ONNX Runtime, which tells long stories, says first."""
    return str(error).strip().splitlines()[0][:300]
