"""What the report says of versions: what a night changed, and what to type next."""

import shlex
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from astroray import storage
from astroray.run_files import changes_file, model_file
from astroray.run_record import RunRecord
from astroray.storage.parquet import read_parquet

__all__ = ["list_commands", "read_change_of", "read_changes"]

MAX_SHOWN = 60
"""Objects of each kind of change that the page shows."""
REPEATED: Mapping[str, str | None] = {
    "encoder.quantize": "auto", "encoder.attention": "auto", "batch_size": None,
    "search.score": "kth", "search.index": "auto", "search.num_probes": None,
}  # fmt: skip
"""Settings that a model file does not hold and a catalog comes from, with their defaults."""


def read_changes(run_dir: str, picture_of: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of CHANGES by kind, as the page shows them; empty for a scan.

    picture_of  HTML id of the picture by object_id
    """
    shown: dict[str, list[dict[str, Any]]] = {}
    for row in _table(run_dir).to_pylist():
        before = "" if row["rank_before"] is None else f"{row['rank_before']:,}"
        ranks = " → ".join(text for text in (before, f"{row['rank']:,}") if text)
        label = f"rank {ranks} · {row['object_id']}"
        if row["suspect"]:
            label += f" · {row['suspect']}"
        picture = picture_of.get(row["object_id"], "")
        shown.setdefault(row["change"], []).append(
            {**row, "ranks": ranks, "label": label, "picture": picture}
        )
    return {change: rows[:MAX_SHOWN] for change, rows in shown.items()}


def read_change_of(run_dir: str) -> dict[str, str]:
    """entered, left or moved, of objects whose place in the certified list is another than before.

    Empty for a scan.
    """
    table = _table(run_dir)
    if not len(table):
        return {}
    return dict(zip(table["object_id"].to_pylist(), table["change"].to_pylist(), strict=True))


def list_commands(run_dir: str, record: RunRecord) -> list[tuple[str, str]]:
    """What to type next; with the same model file a run repeats to the byte."""
    if record.night:
        return _commands_of_night(run_dir, record.survey, record.night.reference)
    out, survey = shlex.quote(run_dir), shlex.quote(record.survey)
    model = shlex.quote(model_file(run_dir))
    scan = f"astroray scan {survey} --out NEW_FOLDER --encoder {model}{_flags(record.config)}"
    night = (
        "Add what is new in the survey, and see what changes",
        f"astroray nightly --survey {survey} --reference {out} --out NIGHT",
    )
    return [
        ("Repeat it with the same model: the catalog must come out the same", scan),
        ("Check the files and the counts", f"astroray verify {out}"),
        *([] if record.backends.fewer_bits else [night]),  # which has to have one model
        _labelling(out),
        ("Hand the catalog on", f"astroray export {out} --format votable --out outliers.vot"),
    ]


def _flags(config: Mapping[str, Any]) -> str:
    """The settings beside the model by which a scan comes out as it did."""
    search = config.get("search") or {}
    flags = "".join(f" --{name} {search[name]}" for name in ("k", "top") if name in search)
    for name, default in REPEATED.items():
        section, _, key = name.rpartition(".")
        value = (config.get(section) or {} if section else config).get(key, default)
        if value != default:
            flags += f" --set {name}={value}"
    return flags


def _commands_of_night(run_dir: str, survey: str, reference: str) -> list[tuple[str, str]]:
    out, survey, reference = map(shlex.quote, (run_dir, survey, reference))
    return [
        (
            "Add the next night",
            f"astroray nightly --survey {survey} --reference {out} --out NEXT_NIGHT",
        ),
        (
            "Repeat this night: the catalog must come out the same",
            f"astroray nightly --survey {survey} --reference {reference} --out NEW_FOLDER",
        ),
        _labelling(out),
        ("Trace an object, and compute its score again", f"astroray explain {out} OBJECT_ID"),
        ("Check the files and the counts", f"astroray verify {out}"),
    ]


def _labelling(out: str) -> tuple[str, str]:
    return ("Say what the objects are, with this map beside the page", f"astroray label {out}")


def _table(run_dir: str) -> pa.Table:
    path = changes_file(run_dir)
    if not storage.exists(path):
        return pa.table({})
    return read_parquet(storage.read_bytes(path))
