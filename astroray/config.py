"""What a scan is asked to do: every setting, its default, and what it may be.

The effective configuration is written to `run.json` before the first row is read.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

from astroray import ledger, storage
from astroray.encoders import (
    AUTO,
    ENCODERS,
    AttentionName,
    QuantizeName,
    fixed_numbers,
    is_onnx_file,
    is_own,
)
from astroray.encoders.onnx_file import read_onnx
from astroray.errors import ConfigError
from astroray.execution.worker_bounds import parse_workers
from astroray.fitting.fit_state import FitConfig
from astroray.neighbors.search import SearchConfig
from astroray.preparation import MAX_SIZE_PX, MIN_SIZE_PX
from astroray.settings import UNTOLD, from_dict, gather, to_dict
from astroray.surveys.shards import SurveyUri

DEFAULT_BUDGET_S = 90.0

BATCH_SIZES = {"cpu": 32, "cuda": 256}
"""Objects encoded at once where nothing is asked: fewer cost a CPU speed, more give it none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which encoder, and what it sees of a cutout."""

    name: str = AUTO
    """A name, fitted on the survey, or the path of a model file, of a run that has one, or of an
    ONNX file (.onnx), or a class of yours (module:Class); auto: the default of what the survey
    holds, `rings` for images, `waves` for light curves, `lines` for spectra."""
    size_px: int | None = None
    """Edge of the prepared square; None: the cutouts' own, at most 64. For a fit only."""
    bands: tuple[str, ...] | None = None
    """Bands in order; None: all that the survey has. For a fit only."""
    latent: int | None = None
    """Length of the network's output; None: its own default. For a fit only."""
    pretrained: bool = True
    """Whether an encoder that has weights of its own is taken as it came, or fitted here."""
    attention: AttentionName = "auto"
    """How transformers compute attention: PyTorch's, or that of `astroray_kernels`."""
    quantize: QuantizeName = "auto"
    """Numbers that the pass over the survey computes with; auto: what `astroray quantize` chose
    for a model that it made, else none, which is float32."""
    max_missing: float = 0.5
    """Largest share of missing pixels of a cutout. For a fit only."""
    output: str | None = None
    """Output of an ONNX file that is the embedding; None: its only one of two dimensions."""
    network: Mapping[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    """Further keywords that a class of yours (module:Class) is constructed with, each by its name,
    `encoder.network.depth=4`. For a fit only."""

    def __post_init__(self) -> None:
        if self.network and not is_own(self.name):
            raise ConfigError(
                f"encoder.network has {', '.join(self.network)} for encoder {self.name}, expected "
                "nothing: only a class of yours (module:Class) is constructed with your keywords"
            )
        for key, value in self.network.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"encoder.network.{key} is {value}, expected a finite number")
        if self.output is not None and not is_onnx_file(self.name):
            raise ConfigError(
                f"encoder.output is {self.output!r} for encoder {self.name}, expected none: only "
                "an ONNX file (.onnx) has outputs to choose from"
            )
        if self.quantize not in ("auto", "none") and is_onnx_file(self.name):
            raise fixed_numbers(self.quantize)
        if self.latent is not None and self.latent < 1:
            raise ConfigError(f"encoder.latent is {self.latent}, expected at least 1")
        if self.size_px is not None and not MIN_SIZE_PX <= self.size_px <= MAX_SIZE_PX:
            raise ConfigError(
                f"encoder.size_px is {self.size_px}, expected {MIN_SIZE_PX}..{MAX_SIZE_PX}, or "
                "none for the size of the survey's own cutouts"
            )
        if self.bands is not None and not (self.bands and all(self.bands)):
            raise ConfigError(f"encoder.bands is {self.bands}, expected names such as g,r,i")
        if not 0 <= self.max_missing < 1:
            raise ConfigError(
                f"encoder.max_missing is {self.max_missing}, expected a share of 0 up to below 1"
            )

    @property
    def is_file(self) -> bool:
        """Whether `name` is a path."""
        return not (self.name in (AUTO, *ENCODERS) or is_own(self.name))

    @property
    def is_fitted(self) -> bool:
        """Whether `name` is the path of a model file."""
        return self.is_file and not is_onnx_file(self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """The main job's settings; a file or `--set` may name each of them."""

    survey: str
    """Survey URI, e.g. `hdf`, `sim:galaxies?count=20000`, a folder, a glob, `s3://...`."""
    out: str
    """Run directory; belongs to one fingerprint."""
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    fit: FitConfig = dataclasses.field(default_factory=lambda: FitConfig(budget_s=DEFAULT_BUDGET_S))
    max_fit_rows: int = 4096
    """Objects that an encoder is fitted on, drawn from several shards."""
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    batch_size: int | None = None
    """Objects encoded at once, the last batch padded; None: as many as suit the device."""
    seed: int = 0
    """Of the sample that is fitted on and of the random objects shown."""
    workers: str = "auto"
    """Workers of the embed stage: auto, N, or MIN..MAX, of which MIN are kept on GPUs."""
    num_gpus: float | None = None
    """GPUs a worker, fractions too; None: one each where there are any."""
    max_rejected: float = 0.01
    """Share of rows or of shards that may be rejected; above it the exit code is 1."""
    num_random: int = 60
    """Random objects shown in the report beside the outliers."""
    fault_plan: str = dataclasses.field(default="", metadata=UNTOLD)
    """Folder of kill points for tests; see faults.py."""

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out is empty, expected a folder or s3:// address; give --out DIR")
        parse_workers(self.workers)
        for name in ("max_fit_rows", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1")
        for name in ("seed", "num_random", "num_gpus"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} is {value}, expected at least 0")
        if not 0 <= self.max_rejected <= 1:
            raise ConfigError(f"max_rejected is {self.max_rejected}, expected a share 0..1")

    def batch_size_on(self, device: str) -> int:
        """Objects encoded at once on `device`, cpu or cuda."""
        return self.batch_size or BATCH_SIZES[device]

    def science(self, *, model_id: str, device: str) -> dict[str, Any]:
        """All settings that may change what the catalog says; neither workers nor paths."""
        settings = to_dict(self)
        for name in ledger.FREE_SETTINGS:
            del settings[name]
        if model_id:  # a model file is known by its content, and nothing is fitted
            settings = {k: v for k, v in settings.items() if k not in ("fit", "max_fit_rows")}
            settings["encoder"] = {
                "model_id": model_id,
                "attention": self.encoder.attention,
                "quantize": self.encoder.quantize,
            }
        elif is_onnx_file(self.encoder.name):  # so is the program, but a frame is fitted
            program = read_onnx(self.encoder.name, output=self.encoder.output)
            settings["encoder"]["name"] = f"onnx:{program.content_id}"
        elif is_own(self.encoder.name):
            from astroray.encoders.own import own_code

            settings["encoder"]["name"] = f"{self.encoder.name} {own_code(self.encoder.name)}"
        settings["encoder"].pop("output", None)
        if not settings["encoder"].get("network"):
            settings["encoder"].pop("network", None)
        settings["search"].pop("num_threads", None)
        settings |= {"device": device, "batch_size": self.batch_size_on(device)}
        return settings


def load_config(survey: str, out: str, file: str | None, flags: Mapping[str, Any]) -> ScanConfig:
    """The configuration of defaults, then a YAML file, then flags.

    flags  dotted keys, e.g. {"search.k": 10, "encoder.name": "pca"}; None values are left out

    Raises ConfigError on an unknown key or a value of another type.
    """
    values, where = gather(file, flags)
    if given := [name for name in ("survey", "out") if name in values]:
        raise ConfigError(
            f"setting {given[0]} in {where} is {values[given[0]]!r}, expected it to be named by "
            "the command: astroray scan SURVEY --out DIR"
        )
    values |= {"survey": SurveyUri.absolute(survey), "out": storage.absolute(out) if out else out}
    fit = values.get("fit")
    if isinstance(fit, dict) and not {"num_passes", "budget_s"} & fit.keys():
        fit["budget_s"] = DEFAULT_BUDGET_S
    config: ScanConfig = from_dict(ScanConfig, values, where=where)
    path = os.path.expanduser(config.encoder.name)
    if config.encoder.is_file and os.path.exists(path):
        encoder = dataclasses.replace(config.encoder, name=storage.absolute(path))
        config = dataclasses.replace(config, encoder=encoder)
    return config
