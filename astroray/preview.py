"""What astroray makes of a survey's files, before any scan: some rows are read, nothing is kept."""

import base64
import dataclasses
import html
import io
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from astroray import surveys
from astroray.archive import draw_item
from astroray.errors import ConfigError, DataError
from astroray.preparation import Preparation, Wishes, not_prepared
from astroray.preparation.modalities import MODALITIES
from astroray.surveys.light_curve_rows import LightCurve, LightCurves
from astroray.surveys.shards import Cutouts, ModalityName, Reject, Rows, Shard, SurveyUri
from astroray.surveys.spectrum_rows import Spectra, Spectrum
from astroray.terminal import one_line

__all__ = ["Look", "look", "save_sheet"]

MAX_SHARDS = 3
"""Shards that are opened: where none of them can be read, the others are hardly better."""
LARGE_PX = 256
"""Edge of a FITS image from which on it may be a field, although a reader takes it for a stamp."""
PICTURE_PX = 96
LINE_COLOR = (58, 66, 82)
MAX_PICTURES = 48
DRAWN_ASPECT = 2
"""Width over height of what is drawn: light curves and spectra."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What was found; `print` it, and where a notebook shows it the pictures are below."""

    facts: Mapping[str, str]
    """Names and values for a person."""
    slices: Sequence[Rows]
    """What was read: Cutouts, LightCurves or Spectra."""
    rejects: Sequence[Reject]

    def __str__(self) -> str:
        return "\n".join(one_line(f"{name:<11}{value}") for name, value in self.facts.items())

    __repr__ = __str__

    def sheet(self) -> Image.Image:
        """The objects that were read, first ones first, as one picture.

        Raises DataError where none could be read.
        """
        is_drawn = any(rows.modality != "images" for rows in self.slices)
        aspect = DRAWN_ASPECT if is_drawn else 1
        drawn = [
            draw_item(rows, at, size_px=PICTURE_PX, aspect=aspect)
            for rows in self.slices
            for at in range(len(rows.row_B))
        ][:MAX_PICTURES]
        pictures = [Image.open(io.BytesIO(png)) for png in drawn if png]
        if not pictures:
            raise DataError("there is no picture: no object of the first shards could be read")
        width = PICTURE_PX * aspect
        num_columns = min(len(pictures), 8 // aspect)
        num_lines = math.ceil(len(pictures) / num_columns)
        sheet = Image.new("RGB", (num_columns * width, num_lines * PICTURE_PX), LINE_COLOR)
        for number, picture in enumerate(pictures):
            line, column = divmod(number, num_columns)
            place = column * width, line * PICTURE_PX
            # a line between curves: nothing else says where one ends
            box = (0, 0, width - is_drawn, PICTURE_PX - is_drawn)
            sheet.paste(picture.crop(box), place)
        return sheet

    def _repr_html_(self) -> str:
        """What a notebook shows: the facts, and below them the picture."""
        facts = f"<pre>{html.escape(str(self))}</pre>"
        if not self.slices:
            return facts
        out = io.BytesIO()
        self.sheet().save(out, "PNG")
        picture = base64.b64encode(out.getvalue()).decode()
        return (
            f'{facts}<img alt="The objects that were read" style="max-width:100%" '
            f'src="data:image/png;base64,{picture}">'
        )


def look(survey: str | os.PathLike[str], *, n: int = 48) -> Look:
    """Lists a survey and reads `n` of its objects, as a scan would; needs no Ray.

    Half of them are the first, the others come from the end, where files of another kind may be.

    Raises ConfigError where nothing readable is found or an option is wrong.
    """
    if n < 1:
        raise ConfigError(f"n is {n}, expected at least 1 object to read")
    shards = list(surveys.list_shards(survey).shards)
    slices, rejects = _read_some(shards, n)
    facts = _describe_files(shards)
    if slices:
        uri = SurveyUri.parse(survey)
        facts |= _describe_rows(slices, has_table="table" in uri.options)
        if shards[0].reader == "fits_cutouts" and _may_be_fields(slices):
            facts["or fields"] = f"if they hold many objects each: '{uri.asking(format='fields')}'"
        facts["a scan"], unfit = _prepare(slices, surveys.modality_of(shards[0]))
        rejects += unfit
    else:
        opened = min(len(shards), MAX_SHARDS)
        facts["read"] = f"no object of the first {opened} of {len(shards):,} shards"
    return Look(facts={**facts, **_describe_rejects(rejects)}, slices=slices, rejects=rejects)


def save_sheet(seen: Look, path: str) -> None:
    """Writes the picture of what was read. Raises ConfigError where PIL knows no such suffix."""
    sheet = seen.sheet()
    try:
        sheet.save(path)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be written as a picture: {error}; try look.png") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}; name a file elsewhere") from None


def _read_some(shards: Sequence[Shard], n: int) -> tuple[list[Rows], list[Reject]]:
    """Some `n` objects, as slices, half of them of the end, and what was rejected on the way."""
    *others, last = shards
    count = last.num_rows or 0
    rows = range(max(0, count - n // 2), count) if count == len(last.inputs) else None
    at_end = [last] if others or (rows and count > n) else []
    ends, rejects = _read_first(at_end, n // 2, rows) if n > 1 else ([], [])
    left = n - sum(len(slice.row_B) for slice in ends)
    slices, rejects_before = _read_first(others or [last], left)
    return slices + ends, rejects_before + rejects


def _read_first(
    shards: Sequence[Shard], n: int, rows: Sequence[int] | None = None
) -> tuple[list[Rows], list[Reject]]:
    """The first `n` objects, or of `rows`, and what was rejected before there were as many."""
    slices: list[Rows] = []
    rejects: list[Reject] = []
    left = n
    for shard in shards[:MAX_SHARDS]:
        for item in surveys.read_or_reject(shard, rows=rows):
            if isinstance(item, Reject):
                rejects.append(item)
            else:
                taken = item.take(np.arange(min(left, len(item.row_B))))
                slices.append(taken)
                left -= len(taken.row_B)
            if left <= 0 or len(rejects) >= n:
                return slices, rejects
    return slices, rejects


def _prepare(slices: Sequence[Rows], name: ModalityName) -> tuple[str, list[Reject]]:
    """How a scan would encode the objects that were read, or why not, and which it would reject."""
    modality = MODALITIES[name]
    try:
        preparation = modality.measure(iter(slices), Wishes())
    except ConfigError as error:
        return f"refuses them: {error}", []
    rejects = [
        one
        for rows in slices
        for one in (
            not_prepared(rows, preparation)
            if isinstance(rows, Cutouts) and isinstance(preparation, Preparation)
            else modality.prepare(rows, preparation).rejects
        )
    ]
    return f"encodes {preparation.describe()['input']}", rejects


def _describe_files(shards: Sequence[Shard]) -> dict[str, str]:
    files = {file.path: file.size_bytes for shard in shards for file in shard.inputs}
    sizes = [shard.num_rows for shard in shards]
    known = sum(size for size in sizes if size is not None)
    objects = f"{known:,}" if None not in sizes else "known when all is read"
    readers = ", ".join(sorted({shard.reader for shard in shards}))
    held = f"{len(files):,}, {sum(files.values()) / 1e6:,.1f} MB, in {len(shards):,} shards"
    return {"reader": readers, "files": held if files else "none", "objects": objects}


def _describe_rows(slices: Sequence[Rows], *, has_table: bool) -> dict[str, str]:
    """What the objects that were read have in common, and what not."""
    ids = [name for rows in slices for name in rows.object_id_B]
    some = ids if len(ids) < 4 else [*ids[:2], "...", ids[-1]]
    facts = {"read": f"{len(ids)}: {', '.join(some)}"}
    if images := [rows for rows in slices if isinstance(rows, Cutouts)]:
        facts |= _describe_images(images)
    if curves := [one for rows in slices if isinstance(rows, LightCurves) for one in rows.curve_B]:
        facts["curves"] = _describe_curves(curves)
    if spectra := [one for rows in slices if isinstance(rows, Spectra) for one in rows.spectrum_B]:
        facts["spectra"] = _describe_spectra(spectra)
    facts["positions"] = _describe_positions(slices, has_table)
    for name in ("field", "night", "detector"):
        if values := sorted({getattr(rows, name) for rows in slices} - {None}):
            facts[name] = ", ".join(values[:3]) + (", ..." if len(values) > 3 else "")
    return facts


def _describe_positions(slices: Sequence[Rows], has_table: bool) -> str:
    ra_deg_N = np.concatenate([rows.ra_deg_B for rows in slices])
    dec_deg_N = np.concatenate([rows.dec_deg_B for rows in slices])
    has_place_N = np.isfinite(ra_deg_N)
    if not has_place_N.any():
        advice = "a table can give them: docs/surveys.md"
        if has_table:
            advice = "table= gives none; if it has such columns, name them with ra= and dec="
        return f"none of these {len(ra_deg_N)}; {advice}"
    first, last = _arc(ra_deg_N[has_place_N] % 360)
    dec = dec_deg_N[has_place_N]
    return (
        f"{len(dec)} of {len(ra_deg_N)}, ra {first:.4f} to {last:.4f}, "
        f"dec {dec.min():+.4f} to {dec.max():+.4f} deg"
    )


def _arc(ra_deg_N: np.ndarray) -> tuple[float, float]:
    """From where to where right ascensions lie, over 0 where the widest gap is elsewhere; deg."""
    ra_N = np.sort(ra_deg_N)
    widest = int(np.argmax(np.diff(ra_N, append=ra_N[0] + 360)))
    return float(ra_N[(widest + 1) % len(ra_N)]), float(ra_N[widest])


def _describe_curves(curves: Sequence[LightCurve]) -> str:
    cadences = _spread([len(curve.flux) for curve in curves])
    days = _spread([float(np.ptp(curve.time_d)) for curve in curves])
    kinds = _counted([f"{curve.mission} {curve.flux_kind}" for curve in curves])
    return f"{cadences} cadences, {days} days, {kinds}"


def _describe_spectra(spectra: Sequence[Spectrum]) -> str:
    seen = [one.wavelength[one.seen_T] for one in spectra]
    low, high = _spread([one[0] for one in seen]), _spread([one[-1] for one in seen])
    missing = 1 - float(np.mean([one.seen_T.mean() for one in spectra]))
    pixels = _spread([len(one.flux) for one in spectra])
    kinds = _counted([one.origin for one in spectra])
    return f"{pixels} pixels from {low} Å up to {high} Å, {missing:.1%} of them missing, {kinds}"


def _describe_images(images: Sequence[Cutouts]) -> dict[str, str]:
    kinds = [
        f"{' '.join(rows.bands)}, {'display values' if rows.pixels == 'display' else 'flux'}"
        for rows in images
        for _ in rows.row_B
    ]
    heights, widths = zip(*(rows.image_BCYX.shape[2:] for rows in images), strict=True)
    size = f"{_spread(widths)} x {_spread(heights)} px"
    values = np.concatenate([rows.image_BCYX.ravel() for rows in images])
    missing = 1.0 - float(np.isfinite(values).mean())
    facts = {"images": f"{size}, {_counted(kinds)}"}
    if missing < 1.0:
        low, middle, high = np.nanpercentile(values[np.isfinite(values)], [1, 50, 99])
        facts["values"] = f"{low:.4g}, {middle:.4g}, {high:.4g} (1, 50, 99 %)"
    if missing:
        facts["missing"] = f"{missing:.1%} of the pixels"
    return facts


def _may_be_fields(slices: Sequence[Rows]) -> bool:
    """Whether an image is so large for an object that it may be one of many."""
    return any(
        max(rows.image_BCYX.shape[2:]) >= LARGE_PX for rows in slices if isinstance(rows, Cutouts)
    )


def _describe_rejects(rejects: Sequence[Reject]) -> dict[str, str]:
    first = {reject.kind: reject.reason for reject in reversed(rejects)}
    counts = Counter(reject.kind for reject in rejects)
    return {
        f"reject {number}": f"{count} {kind}, first: {first[kind]}"
        for number, (kind, count) in enumerate(counts.most_common(), start=1)
    }


def _spread(numbers: Sequence[float]) -> str:
    """Least to greatest, or the one that all are."""
    low, high = (
        f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"
        for number in (min(numbers), max(numbers))
    )
    return low if low == high else f"{low} to {high}"


def _counted(kinds: Sequence[str]) -> str:
    """What there is, the most frequent first; how many of each where they differ."""
    counts = Counter(kinds).most_common()
    if len(counts) == 1:
        return counts[0][0]
    some = "; ".join(f"{count} of {kind}" for kind, count in counts[:4])
    return some + ("; ..." if len(counts) > 4 else "")
