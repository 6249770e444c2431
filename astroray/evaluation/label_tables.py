"""How the labels of each data set become the pools of its protocol."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from astroray import data_sets, storage
from astroray.errors import ConfigError, FileError
from astroray.evaluation.curve_labels import crts_pools, tess_pools
from astroray.evaluation.protocols import PROTOCOLS, Protocol, Subset
from astroray.evaluation.spectrum_labels import lamost_pools, type_pools
from astroray.surveys.simulated import truth_table

_log = logging.getLogger(__name__)

__all__ = ["open_protocol"]

CONTAMINATION = 0.1
RARE_CONTAMINATION = 0.01
TAILS_CONTAMINATION = 0.06
SPECTRA_CONTAMINATION = 0.05
SIM_OBJECTS, SIM_OBJECTS_FULL = 4_000, 17_778
SIM_POOL = 1.75
"""Objects simulated for each object of a draw: outliers of every kind are drawn from more."""
SIM_PLANTED = 0.47

_Pools = Mapping[str, Sequence[str]]


def open_protocol(
    name: str, *, data: str | None, full: bool = False, contamination: float | None = None
) -> Protocol:
    """The protocol `name` of PROTOCOLS with the objects that are there.

    data           folder of the layout `galaxies/efigi/...`, `lightcurves/...`, `spectra/...`; not
                   read for sim
    full           sim at the published size, 17,778 objects a draw instead of 4,000
    contamination  share of outliers; None: the protocol's own

    Raises ConfigError on an unknown name, on missing or malformed data, or where a subset would
    be empty.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol is {name!r}, expected one of {', '.join(PROTOCOLS)}")
    if full and name != "sim":
        raise ConfigError(f"--full is for the protocol sim, which has a size; {name} has its own")
    if name == "sim":
        return _sim(full, contamination)
    if data is None:
        raise ConfigError(
            f"protocol {name} needs real data: give --data DIR with DIR/{_FOLDERS[name]}"
        )
    return _READERS[name](storage.join(data, _FOLDERS[name]), contamination)


def _efigi(folder: str, contamination: float | None) -> Protocol:
    """EFIGI (Baillard et al. 2011, A&A 532, A74): T types and attributes by experts."""
    rows = _read_table(
        storage.join(folder, "efigi_attributes.csv"),
        ("PGC_name", "T", "Inclination", "Perturbation", "Multiplicity"),
    )
    have = _pictures_in(storage.join(folder, "images"))
    pools: dict[str, list[str]] = {name: [] for name in ("usual", *_EFIGI_KINDS, "R1", "spiral")}
    for row in rows:
        object_id = row["PGC_name"]
        if object_id not in have:
            continue
        kinds = _efigi_kinds(row)
        for kind in kinds[:1]:  # the first pool that an object belongs to is its only one
            pools[kind].append(object_id)
        t_type = float(row["T"])
        if 1 <= t_type <= 7:
            pools["spiral"].append(object_id)
        if t_type <= -3:
            pools["R1"].append(object_id)
    titles = {"S1": "elongated", "S2": "edge-on", "S3": "perturbed", "S4": "face-on spiral"}
    wanted = [
        *(_Wanted(name, title, "usual", (name,)) for name, title in titles.items()),
        _Wanted("S5", "mixed", "usual", _EFIGI_KINDS, is_mixed=True),
        _Wanted("R1", "ellipticals among spirals", "spiral", ("R1",), has_bar=False),
    ]
    survey = f"{folder}/images?table=../efigi_attributes.csv&id=PGC_name"
    return _protocol("efigi", survey, pools, wanted, contamination, fitted="S5")


_EFIGI_KINDS = ("S1", "S2", "S3", "S4", "multiple")


def _efigi_kinds(row: Mapping[str, str]) -> list[str]:
    """Pools of an object, the one that keeps it first."""
    t_type, inclination, perturbation, multiplicity = (
        float(row[name]) for name in ("T", "Inclination", "Perturbation", "Multiplicity")
    )
    is_round, is_slim = inclination <= 0.5, inclination >= 0.75
    claims = {
        "S4": 1 <= t_type <= 7 and is_round,
        "S3": perturbation >= 0.5,
        "S2": t_type >= 1 and is_slim,
        "S1": t_type <= -1 and is_slim,
        "multiple": multiplicity >= 0.5,
        "usual": t_type <= 0 and is_round and perturbation <= 0.25 and multiplicity <= 0.25,
    }
    return [kind for kind, belongs in claims.items() if belongs]


def _gz2(folder: str, contamination: float | None) -> Protocol:
    """Galaxy Zoo 2 (Willett et al. 2013, MNRAS 435, 2835): spirals and others by votes."""
    rows = _read_table(storage.join(folder, "labels.csv"), ("file", "label"))
    have = _pictures_in(storage.join(folder, "images"))
    pools: dict[str, list[str]] = {"spiral": [], "non_spiral": []}
    for row in rows:
        object_id = storage.stem(row["file"])
        if object_id in have and row["label"] in pools:
            pools[row["label"]].append(object_id)
    wanted = [
        _Wanted("S1", "spirals among others", "non_spiral", ("spiral",), is_mixed=True),
        _Wanted("R1", "others among spirals", "spiral", ("non_spiral",), has_bar=False),
    ]
    survey = f"{folder}/images?table=../labels.csv&file=file"
    return _protocol("gz2", survey, pools, wanted, contamination, fitted="S1")


def _mirabest(folder: str, contamination: float | None) -> Protocol:
    """MiraBest (Porter & Scaife 2023, RASTI 2, 293): radio galaxies of FIRST by eye."""
    rows = _read_table(
        storage.join(folder, "labels.csv"), ("file", "fr_class", "confidence", "morphology")
    )
    stack = storage.join(folder, "mirabest_150px_uint8.npz")
    data_sets.expect(stack)
    pools: dict[str, list[str]] = {"FRI": [], "FRII": [], "tails": []}
    for row in rows:
        object_id = row["file"].removesuffix(".fits")
        if row["morphology"] == "wide-angle-tail":
            pools["tails"].append(object_id)
        elif (row["confidence"], row["morphology"]) == ("confident", "standard"):
            pools.setdefault(row["fr_class"], []).append(object_id)
    pools["sure"] = [*pools["FRI"], *pools["FRII"]]
    few = TAILS_CONTAMINATION if contamination is None else contamination
    wanted = [
        _Wanted("S1", "FRI among FRII", "FRII", ("FRI",), has_bar=False),
        _Wanted("S2", "FRII among FRI", "FRI", ("FRII",), has_bar=False),
        _Wanted("S3", "wide-angle tails", "sure", ("tails",), has_bar=False, contamination=few),
    ]
    return _protocol("mirabest", f"{stack}?table=labels.csv", pools, wanted, contamination, "S3")


def _tess(folder: str, contamination: float | None) -> Protocol:
    """Windows of young stars with and without a flare, as stella's network marks them."""
    survey, pools = tess_pools(folder)
    wanted = [_Wanted("S1", "windows with a flare", "quiet", ("flare",), has_bar=False)]
    return _protocol("tess", survey, pools, wanted, contamination, fitted="S1")


def _crts(folder: str, contamination: float | None) -> Protocol:
    """Transients of the Catalina survey (Drake et al. 2009, ApJ 696, 870) by their class."""
    survey, pools = crts_pools(folder)
    wanted = [
        _Wanted("S1", "supernovae among cataclysmic variables", "CV", ("SN",), has_bar=False),
        _Wanted("S2", "cataclysmic variables among supernovae", "SN", ("CV",), has_bar=False),
    ]
    return _protocol("crts", survey, pools, wanted, contamination, fitted="S1")


def _lamost(folder: str, contamination: float | None) -> Protocol:
    """Spectra of LAMOST (Luo et al. 2015, RAA 15, 1095) by what its pipeline took them for."""
    return _of_spectra("lamost", *lamost_pools(folder), contamination)


def _types(folder: str, contamination: float | None) -> Protocol:
    """Mean spectra of SDSS by spectral type and metallicity."""
    return _of_spectra("types", *type_pools(folder), contamination)


def _of_spectra(name: str, survey: str, pools: _Pools, contamination: float | None) -> Protocol:
    """Rare spectra among stars of types F, G and K: 5 % unless told otherwise."""
    titles = {"cool": "M and L", "hot": "A, B and O", "other": "no stars, or unknown"}
    wanted = [
        _Wanted(f"S{number}", f"{titles[pool]} among F, G and K", "usual", (pool,), has_bar=False)
        for number, pool in enumerate((pool for pool in titles if pool in pools), start=1)
    ]
    few = SPECTRA_CONTAMINATION if contamination is None else contamination
    return _protocol(name, survey, pools, wanted, few, fitted="S1")


def _sim(full: bool, contamination: float | None) -> Protocol:
    """Simulated galaxies: smooth ones and spirals, and six kinds that are planted."""
    num_objects = SIM_OBJECTS_FULL if full else SIM_OBJECTS
    levels = (CONTAMINATION, RARE_CONTAMINATION) if contamination is None else (contamination,)
    count = round(SIM_POOL * num_objects)
    survey = f"sim:galaxies?count={count}&outliers={SIM_PLANTED}&seed=7"
    truth = truth_table(survey)
    pools: dict[str, list[str]] = {"usual": []}
    for object_id, kind in zip(
        truth["object_id"].to_pylist(), truth["kind"].to_pylist(), strict=True
    ):
        pools.setdefault("usual" if kind in ("smooth", "spiral") else kind, []).append(object_id)
    pools["usual"] = pools["usual"][: round(num_objects * (1 - CONTAMINATION))]
    kinds = tuple(sorted(set(pools) - {"usual"}))
    wanted = []
    for level in levels:
        mixed = f"mixed@{level:g}"
        rate = f", {100 * level:g} %"
        wanted.append(_Wanted(mixed, f"all kinds{rate}", "usual", kinds, True, True, level))
        for kind in kinds:
            title = kind.replace("_", " ") + rate
            wanted.append(
                _Wanted(f"{kind}@{level:g}", title, "usual", (kind,), contamination=level)
            )
    return _protocol("sim", survey, pools, wanted, levels[0], fitted=f"mixed@{levels[0]:g}")


class _Wanted(NamedTuple):
    """A subset by the names of its pools."""

    name: str
    title: str
    inliers: str
    outliers: tuple[str, ...]
    has_bar: bool = True
    is_mixed: bool = False
    contamination: float | None = None


def _protocol(
    name: str,
    survey: str,
    pools: _Pools,
    wanted: Sequence[_Wanted],
    contamination: float | None,
    fitted: str,
) -> Protocol:
    used = {pool for subset in wanted for pool in (subset.inliers, *subset.outliers)}
    object_ids = sorted({object_id for pool in used for object_id in pools[pool]})
    row_of = {object_id: row for row, object_id in enumerate(object_ids)}
    if contamination is None:
        contamination = CONTAMINATION

    def rows(pool: str) -> np.ndarray:
        return np.array(sorted(row_of[object_id] for object_id in pools[pool]), np.int64)

    return Protocol(
        name=name,
        survey=survey,
        object_ids=tuple(object_ids),
        subsets=tuple(
            Subset(
                name=subset.name,
                title=subset.title,
                inlier_I=rows(subset.inliers),
                outliers=tuple(rows(pool) for pool in subset.outliers if pools[pool]),
                contamination=contamination
                if subset.contamination is None
                else subset.contamination,
                has_bar=subset.has_bar,
                is_mixed=subset.is_mixed,
            )
            for subset in wanted
        ),
        fitted=fitted,
    )


def _read_table(path: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file, one for each value of the first of `columns`.

    Raises ConfigError where the file or one of the columns is missing.
    """
    data_sets.expect(path)
    rows = csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig")))
    missing = set(columns) - set(rows.fieldnames or ())
    if missing:
        raise ConfigError(
            f"{path} lacks the columns {sorted(missing)}, it has {rows.fieldnames}; "
            "give the published table"
        )
    first: dict[str, dict[str, str]] = {}
    for row in rows:
        first.setdefault(row[columns[0]], row)
    return list(first.values())


def _pictures_in(folder: str) -> set[str]:
    """Names of the pictures in a folder without their suffix, all of one size and compression.

    The commonest kind of file stays: compression and size would give the others away.
    """
    try:
        files = storage.list_files(folder)
    except FileError:
        files = storage.FileList()
    kind_of = {storage.stem(f.path): _kind_of_file(storage.read_bytes(f.path)) for f in files}
    counts = Counter(kind for kind in kind_of.values() if kind)
    if not counts:
        raise data_sets.missing(f"{folder}/*.jpg")
    ((commonest, count),) = counts.most_common(1)
    if count < len(kind_of):
        _log.warning(
            "%d of %d files in %s are no pictures of the commonest size and compression: left out",
            len(kind_of) - count,
            len(kind_of),
            folder,
        )
    return {name for name, kind in kind_of.items() if kind == commonest}


def _kind_of_file(data: bytes) -> str:
    """Format, size, colors and JPEG tables of a picture; empty where it is none."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            tables = getattr(picture, "quantization", None)
            return f"{picture.format} {picture.size} {picture.mode} {tables}"
    except (OSError, SyntaxError, ValueError):  # what Pillow raises on a broken header
        return ""


_FOLDERS = {
    "efigi": "galaxies/efigi",
    "gz2": "galaxies/gz2_kaggle_spirals",
    "mirabest": "galaxies/radio_mirabest",
    "tess": "lightcurves/tess_young_stars",
    "crts": "lightcurves/other_variables",
    "lamost": "spectra/lamost_lrs",
    "types": "spectra/sdss_templates_spt",
}
_READERS: Mapping[str, Callable[[str, float | None], Protocol]] = {
    "efigi": _efigi,
    "gz2": _gz2,
    "mirabest": _mirabest,
    "tess": _tess,
    "crts": _crts,
    "lamost": _lamost,
    "types": _types,
}
