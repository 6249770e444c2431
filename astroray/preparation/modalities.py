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
from astroray.surveys.shards import ModalityName, Rows

__all__ = ["MODALITIES", "AnyPreparation", "Modality"]

AnyPreparation = Preparation | CurvePreparation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
    """How rows of one kind are measured, prepared and shown."""

    noun: str
    """What a row is called: an image, a light curve."""
    default_encoder: str
    """Name of `encoders.ENCODERS` where the user names none."""
    preparation: type[Preparation] | type[CurvePreparation]
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

    def render(self, rows: Rows) -> list[bytes]:
        """A picture of each row of a slice, [B] JPEG."""
        module, name = self.picture.split(":")
        pictures: list[bytes]
        pictures = getattr(importlib.import_module(f"astroray.{module}"), name)(rows)
        return pictures


def _image_shape(network: Mapping[str, int]) -> tuple[int, int, int]:
    return network["num_bands"], network["size_px"], network["size_px"]


def _curve_shape(network: Mapping[str, int]) -> tuple[int, int, int]:
    return 2, network["num_windows"], WINDOW


MODALITIES: Mapping[ModalityName, Modality] = {
    "images": Modality(
        noun="image",
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
        default_encoder="waves",
        preparation=CurvePreparation,
        measure=measure_curves,
        prepare=prepare_curves,
        shape=_curve_shape,
        can_turn=False,
        picture="report.curve_pictures:render_curves",
    ),
}
"""By the name that readers and encoders give; a new kind of survey is a line here."""
