"""A model file made into a quantized one: what is observed, where file and page go."""

import dataclasses
from typing import TYPE_CHECKING

from astroray import allowance, storage, surveys
from astroray.encoders import read_model_file
from astroray.errors import ConfigError
from astroray.execution.progress import Progress, Show

if TYPE_CHECKING:  # loads torch
    from astroray.actors.quantize import Quantization

__all__ = ["QuantizeConfig", "quantize_encoder"]

ROWS_OF_A_NAMED = 512
ROWS_OF_AUTO = 16_384
"""More than the 10,000 that the comparison of two lists needs."""
PAGE_SUFFIX = ".html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """What `astroray quantize` is asked to do."""

    model: str
    """Path of a model file."""
    survey: str
    """Survey URI whose objects are observed."""
    out: str
    """Path of the new model file; the page goes beside it."""
    scheme: str = "auto"
    """auto, or one of `quantization.modules.SCHEMES`."""
    max_rows: int | None = None
    """Objects drawn; None: 512 for a named scheme, 16,384 for auto."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"rows is {self.max_rows}, expected at least 1")
        if storage.exists(self.out):
            raise ConfigError(f"{self.out} exists; remove it or give another --out")


def quantize_encoder(
    config: QuantizeConfig, *, show: Show = lambda _: None
) -> tuple["Quantization", str]:
    """Quantizes a model, and returns what was found and the path of its page.

    Raises ConfigError on a model or a survey that cannot be used.
    """
    read_model_file(config.model)  # refuses what is no model before torch is loaded
    show(Progress(stage="list", note=config.survey))
    from astroray.actors.quantize import QuantizePlan, quantize_model
    from astroray.quantization.page import write_page

    plan = QuantizePlan(
        model_path=config.model,
        out=config.out,
        scheme=config.scheme,
        max_rows=config.max_rows or (ROWS_OF_AUTO if config.scheme == "auto" else ROWS_OF_A_NAMED),
        seed=config.seed,
        num_threads=allowance.num_cores(),
    )
    with storage.scratch_folder() as folder:  # the model is quantized in this process
        shards = surveys.list_shards(config.survey, objects_folder=str(folder)).shards
        found = quantize_model(
            shards, plan, show=lambda note: show(Progress(stage="quantize", note=note))
        )
    page = write_page(f"{config.out}{PAGE_SUFFIX}", found, model=config.model, survey=config.survey)
    return found, page
