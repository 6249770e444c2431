"""What a person is shown of a finished run: one HTML file that needs no network."""

import base64
import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import ledger, schema, storage
from astroray.errors import AstrorayError, LedgerError
from astroray.report import figures, night
from astroray.report.figures import Dot
from astroray.report.groups import read_groups
from astroray.report.map import layouts, map_data, missing_layouts, place_objects
from astroray.report.rows import ReportRows, num_top, read_rows, read_top
from astroray.report.script import render_script
from astroray.report.thumbnails import read_thumbnails
from astroray.run_files import report_file
from astroray.run_record import RunRecord
from astroray.templates import load_template

_log = logging.getLogger("astroray.report")

_PLAIN_NAMES = frozenset([
    "catalog", "cutouts", "data", "files", "fits", "image", "images", "jpg", "light_curves",
    "lightcurves", "png", "spectra", "shards", "stamps", "tiles",
])  # fmt: skip
"""Folders in any survey, whose name says nothing of it."""
MAX_NEIGHBORS = 5
MAX_RANDOM = 400
MAX_PICTURE_BYTES = 6_300_000  # 8.4 MB in base64: the page stays below 10 MB and can be mailed

FLAG_WORDS = {
    schema.Flag.FILLED: "missing pixels filled",
    schema.Flag.EDGE: "at the edge of its image",
    schema.Flag.BLENDED: "blended",
    schema.Flag.SATURATED: "saturated",
    schema.Flag.COARSER: "longer than the model's light curves",
}

_SCORE_WORDS = {
    "kth_distance": "distance to the last neighbor",
    "mean_distance": "mean distance to the neighbors",
    "mean_shift": "distance to the mean of the neighbors",
    "local_outlier_factor": "local outlier factor",
    "mahalanobis_distance": "Mahalanobis distance",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shown:
    """An object as the page shows it: an outlier, a neighbor or one drawn at random."""

    object_id: str
    picture: str
    """HTML id of its picture, "" where there is none."""
    rank: int | None = None
    score: float | None = None
    ra_deg: float | None = None
    dec_deg: float | None = None
    flags: tuple[str, ...] = ()
    is_certified: bool = False
    distance: float | None = None
    """To the object whose neighbor it is."""
    href: str = ""
    neighbors: tuple["_Shown", ...] = ()
    further: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Scores beside the ranking, those that are known."""

    @property
    def label(self) -> str:
        rank = "" if self.rank is None else f"rank {self.rank:,} · "
        score = "" if self.score is None else f" · score {_significant(self.score)}"
        return f"{rank}{self.object_id}{score}"


def write_report(run_dir: str) -> str:
    """Publishes `report/index.html` from what stands in the run directory; returns its path.

    Raises LedgerError where there is no run record or no complete catalog.
    """
    record = RunRecord.load(run_dir)
    if record is None:
        raise LedgerError(
            f"no run record in {run_dir}: run.json is not there, expected a run directory; "
            "give the folder that was named with --out"
        )
    path = report_file(run_dir)
    storage.publish(path, _render(run_dir, record).encode())
    return path


def add_report(run_dir: str) -> None:
    """Writes the report of a result that is whole without it.

    Whatever goes wrong is logged, and there is no page then rather than the one of an earlier
    catalog. Raises LedgerError where the directory holds no result.
    """
    again = f"its catalog is whole; `astroray report {run_dir} --again` draws the page"
    try:
        write_report(run_dir)
    except LedgerError:
        raise
    except AstrorayError as error:
        _drop_report(run_dir)
        _log.warning("the report of %s could not be drawn: %s; %s", run_dir, error, again)
    except Exception:  # noqa: BLE001 -- whatever it is, hours of work are not lost for a page
        _drop_report(run_dir)
        _log.exception(
            "the report of %s could not be drawn; %s once the error above, which please report, "
            "is mended",
            *(run_dir, again),
        )


def _drop_report(run_dir: str) -> None:
    storage.delete(report_file(run_dir))


def _render(run_dir: str, record: RunRecord) -> str:
    top = read_top(run_dir, num_top(record))
    top_rows = top.rows.to_pylist()
    wanted = [*_wanted_ids(top_rows), *night.read_change_of(run_dir)]
    stored = read_thumbnails(run_dir)
    pictures = _choose_pictures(stored, list(dict.fromkeys(wanted)))
    picture_of = {object_id: f"p{i}" for i, object_id in enumerate(pictures)}
    outliers = _outliers(top_rows, picture_of)
    rows = read_rows(run_dir, top, list(stored))
    mapped = place_objects(run_dir, rows.mapped)
    drawn = layouts(mapped)
    others = _others(rows.others, picture_of)
    further = _further(outliers, record)
    groups = read_groups(run_dir, record, mapped)
    facts = map_data(mapped, drawn, picture_of, further, len(outliers), groups)
    neighbor_ids = {near.object_id for shown in outliers for near in shown.neighbors}
    return _template().render(
        record=record,
        name=survey_name(record.survey),
        num_objects=top.num_objects,
        num_positions=top.num_positions,
        outliers=outliers,
        further=further,
        random=[shown for shown in others if shown.object_id not in neighbor_ids],
        pictures=[
            (picture_of[object_id], base64.b64encode(jpeg).decode())
            for object_id, jpeg in pictures.items()
        ],
        rejected_shards=_rejected_shards(run_dir, record),
        figures=_figures(record, rows, mapped, drawn, [*outliers, *others]),
        map=facts,
        missing=missing_layouts(mapped, drawn),
        script=render_script(facts),
        settings=_flat(record.config),
        stages=_stages(record.seconds),
        commands=night.list_commands(run_dir, record),
        changes=night.read_changes(run_dir, picture_of),
    )


def _wanted_ids(top_rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The outliers, then their neighbors: pictures that must be on the page before all others."""
    ids = [row["object_id"] for row in top_rows]
    for row in top_rows:
        ids += (row["neighbor_id"] or [])[:MAX_NEIGHBORS]
    return list(dict.fromkeys(ids))


def _choose_pictures(stored: Mapping[str, bytes], wanted: Sequence[str]) -> dict[str, bytes]:
    """JPEG by object_id, the wanted ones first, up to what fits the page."""
    is_wanted = set(wanted)
    extra = [object_id for object_id in stored if object_id not in is_wanted]
    order = np.random.default_rng(0).permutation(len(extra))[:MAX_RANDOM]
    chosen: dict[str, bytes] = {}
    free_bytes = MAX_PICTURE_BYTES
    for object_id in [*wanted, *(extra[i] for i in order)]:
        jpeg = stored.get(object_id)
        if jpeg and len(jpeg) <= free_bytes:
            chosen[object_id] = jpeg
            free_bytes -= len(jpeg)
    return chosen


def _outliers(top_rows: Sequence[Mapping[str, Any]], picture_of: Mapping[str, str]) -> list[_Shown]:
    href_of = {row["object_id"]: f"#rank-{row['rank']}" for row in top_rows}
    outliers = []
    for row in top_rows:
        neighbors = zip(row["neighbor_id"] or [], row["neighbor_distance"] or [], strict=True)
        shown = [
            _Shown(
                object_id=object_id,
                picture=picture_of.get(object_id, ""),
                distance=distance,
                href=href_of.get(object_id, ""),
            )
            for object_id, distance in list(neighbors)[:MAX_NEIGHBORS]
        ]
        outliers.append(
            _shown(row, picture_of, href=href_of[row["object_id"]], neighbors=tuple(shown))
        )
    return outliers


def _shown(
    row: Mapping[str, Any],
    picture_of: Mapping[str, str],
    *,
    href: str = "",
    neighbors: tuple[_Shown, ...] = (),
) -> _Shown:
    """A row of the catalog as the page shows it."""
    flags = row["processing_flags"] or 0
    return _Shown(
        object_id=row["object_id"],
        picture=picture_of.get(row["object_id"], ""),
        rank=row["rank"],
        score=row["outlier_score"],
        ra_deg=row["ra"],
        dec_deg=row["dec"],
        flags=tuple(word for bit, word in FLAG_WORDS.items() if flags & bit),
        is_certified=bool(row["certified"]),
        href=href,
        neighbors=neighbors,
        further={name: row[name] for name in _SCORE_WORDS if row[name] is not None},
    )


def _further(outliers: Sequence[_Shown], record: RunRecord) -> dict[str, str]:
    """Words, by name, for the scores that can put the outliers in another order."""
    ranking = f"{record.proof.score if record.proof else 'kth'}_distance"
    known = {name for shown in outliers for name in shown.further}
    return {name: words for name, words in _SCORE_WORDS.items() if name in known - {ranking}}


def _others(others: pa.Table, picture_of: Mapping[str, str]) -> list[_Shown]:
    """Objects that have a picture and are no outliers, in the order of their pictures."""
    ids = pa.array(list(picture_of), pa.string())
    index = pc.index_in(ids, value_set=others["object_id"].combine_chunks())
    return [_shown(row, picture_of) for row in others.take(index.drop_null()).to_pylist()]


def _figures(
    record: RunRecord,
    rows: ReportRows,
    mapped: pa.Table,
    drawn: Mapping[str, np.ndarray],
    named: Sequence[_Shown],
) -> dict[str, Any]:
    fit = record.model.fit if record.model else {}
    places_M2 = drawn.get("likeness", drawn.get("plane", np.zeros((0, 2))))
    return {
        "scores": figures.score_histogram(
            rows.count_B, rows.edge_B, threshold=record.proof.threshold if record.proof else None
        ),
        "embedding": figures.embedding_map(places_M2, _dots(mapped, named)),
        "num_mapped": len(mapped),
        "sky": figures.sky_map(
            rows.placed["ra"].to_numpy(), rows.placed["dec"].to_numpy(), _dots(rows.placed, named)
        ),
        "num_placed": len(rows.placed),
        "loss": figures.loss_curve(fit.get("loss") or [], fit.get("validation_loss") or []),
    }


def _dots(sample: pa.Table, named: Sequence[_Shown]) -> list[Dot]:
    """The named objects that are in the sample, as a map wants them."""
    ids = pa.array([shown.object_id for shown in named], pa.string())
    index = pc.index_in(ids, value_set=sample["object_id"].combine_chunks()).to_pylist()
    return [
        Dot(
            index=i,
            label=shown.label,
            href=shown.href,
            picture=shown.picture,
            is_outlier=bool(shown.href),
        )
        for i, shown in zip(index, named, strict=True)
        if i is not None
    ]


def _rejected_shards(run_dir: str, record: RunRecord) -> list[dict[str, Any]]:
    """Rejects of whole shards, at most 50."""
    if not record.counts.shards_rejected:
        return []
    rejects = ledger.read_rejects(run_dir)
    return rejects.filter(pc.is_null(rejects["row"])).slice(0, 50).to_pylist()


def _stages(seconds: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Stage, seconds and share of the whole."""
    whole = sum(seconds.values())
    return [(name, value, value / whole if whole else 0.0) for name, value in seconds.items()]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings by dotted name; None, which lets the program choose, is left out."""
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        elif value is not None and value != "":
            flat.append((prefix + name, value))
    return flat


def survey_name(survey: str) -> str:
    """A short name for the title: the last part of the location that has no wildcard.

    With the folder above it where that says nothing, as of efigi/images.
    """
    location = survey.partition("?")[0]
    parts = [part for part in location.split("/") if part and not set(part) & set("*[")]
    if not parts:
        return survey
    name = storage.stem(parts[-1])
    return f"{parts[-2]} {name}" if name.lower() in _PLAIN_NAMES and len(parts) > 1 else name


def _template() -> jinja2.Template:
    return load_template(
        "astroray.report",
        "page.html.jinja",
        undefined=jinja2.ChainableUndefined,
        significant=_significant,
        duration=_duration,
        ordinal=_ordinal,
    )


def _significant(value: float | None) -> str:
    """Four significant digits; a dash where there is no number."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value) or 1)))}f}"


def _duration(seconds: float | None) -> str:
    if not isinstance(seconds, int | float):
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _ordinal(number: int) -> str:
    teen = 10 <= number % 100 <= 20
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
