"""What each kind of survey needs on its way through the one pipeline: the seam between them.

Readers say what their rows are (`surveys.MODALITIES`), encoders what they eat
(`EncoderKind.modality`); all that differs in between stands here.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from astroray.preparation import Preparation, Prepared, Wishes, measure_cutouts, prepare
from astroray.preparation.light_curves import (
    WINDOW,
    CurvePreparation,
    measure_curves,
    prepare_curves,
)
from astroray.preparation.spectra import SpectrumPreparation, measure_spectra, prepare_spectra
from astroray.surveys.shards import ModalityName, Rows

__all__ = ["MODALITIES", "AnyPreparation", "Modality"]

AnyPreparation = Preparation | CurvePreparation | SpectrumPreparation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
    """How rows of one kind are measured, prepared and shown."""

    noun: str
    """What a row is called: an image, a light curve."""
    nouns: str
    """What several are called."""
    default_encoder: str
    """Name of `encoders.ENCODERS` where the user names none."""
    preparation: type[Preparation] | type[CurvePreparation] | type[SpectrumPreparation]
    measure: Callable[[Iterator[Rows], Wishes], AnyPreparation]
    """The preparation of a survey, from slices of a sample of it."""
    prepare: Callable[[Rows, Any], Prepared]
    """A slice as encoders eat it, [B, C, Y, X]; rejects what cannot be used."""
    shape: Callable[[Mapping[str, int]], tuple[int, int, int]]
    """[C, Y, X] of a network's input, by the numbers that the network is built with."""
    can_turn: bool
    """Whether a row turned by quarters and mirrored is as likely as the row itself."""
    picture: str
    """`module:function` below astroray that renders a slice as JPEGs; loaded where it is used."""
    draw: str = ""
    """The same that draws one row of a slice as wide as asked, as PNG; empty where pixels are shown
    as they are."""

    def render(self, rows: Rows) -> list[bytes]:
        """A picture of each row of a slice, [B] JPEG."""
        pictures: list[bytes] = _load(self.picture)(rows)
        return pictures

    def draw_wide(self, rows: Rows, at: int, *, width_px: int, height_px: int) -> bytes:
        """One row of a slice, PNG, of a kind that is drawn."""
        png: bytes = _load(self.draw)(rows, at, width_px=width_px, height_px=height_px)
        return png


def _load(name: str) -> Callable[..., Any]:
    module, function = name.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(f"astroray.{module}"), function)
    return loaded


def _image_shape(network: Mapping[str, int]) -> tuple[int, int, int]:
    return network["num_bands"], network["size_px"], network["size_px"]


def _curve_shape(network: Mapping[str, int]) -> tuple[int, int, int]:
    return 2, network["num_windows"], WINDOW


MODALITIES: Mapping[ModalityName, Modality] = {
    "images": Modality(
        noun="image",
        nouns="images",
        default_encoder="rings",
        preparation=Preparation,
        measure=measure_cutouts,
        prepare=prepare,
        shape=_image_shape,
        can_turn=True,
        picture="report.thumbnails:render_cutouts",
    ),
    "light_curves": Modality(
        noun="light curve",
        nouns="light curves",
        default_encoder="waves",
        preparation=CurvePreparation,
        measure=measure_curves,
        prepare=prepare_curves,
        shape=_curve_shape,
        can_turn=False,
        picture="report.plots:render_curves",
        draw="report.plots:draw_curve",
    ),
    "spectra": Modality(
        noun="spectrum",
        nouns="spectra",
        default_encoder="lines",
        preparation=SpectrumPreparation,
        measure=measure_spectra,
        prepare=prepare_spectra,
        shape=_curve_shape,
        can_turn=False,
        picture="report.plots:render_spectra",
        draw="report.plots:draw_spectrum",
    ),
}
"""By the name that readers and encoders give; a new kind of survey is a line here."""
