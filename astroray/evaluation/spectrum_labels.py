"""How the labels of spectra become pools of usual and rare ones."""

from collections.abc import Mapping

from astroray import storage, surveys
from astroray.errors import ConfigError
from astroray.evaluation.curve_labels import csv_rows
from astroray.surveys.spectrum_rows import Spectra

__all__ = ["lamost_pools", "type_pools"]

USUAL = ("F", "G", "K")
_POOL_OF = {"M": "cool", "L": "cool", "A": "hot", "B": "hot", "O": "hot"}

_Pools = tuple[str, Mapping[str, list[str]]]


def lamost_pools(folder: str) -> _Pools:
    """Survey of LAMOST's spectra by class and subclass of its pipeline.

    Stars of types F, G and K are `usual`, M `cool`, A `hot`, what is no star or was not recognized
    `other`. Raises ConfigError where the files are missing.
    """
    survey = f"{folder}/fits/*.fits.gz"
    label_of = {row["file"]: row for row in csv_rows(storage.join(folder, "index.csv"))}
    pools: dict[str, list[str]] = {"usual": [], "cool": [], "hot": [], "other": []}
    for shard in surveys.list_shards(survey).shards:
        for rows in surveys.read_shard(shard):
            if not isinstance(rows, Spectra):
                continue
            for row, object_id in zip(rows.row_B, rows.object_id_B, strict=True):
                label = label_of.get(shard.inputs[row].path.rpartition("/")[2])
                if label is not None:
                    is_star = label["cls"] == "STAR"
                    pools[_pool(label["subclass"]) if is_star else "other"].append(object_id)
    return survey, pools


def type_pools(folder: str) -> _Pools:
    """Survey of the means of SDSS spectra by spectral type: F, G, K are usual, hot and cool rare.

    Kesseli et al. 2017, ApJS 230, 16. Raises ConfigError where the files are missing.
    """
    survey = f"{folder}/sdss_templates.npz?format=spectra"
    pools: dict[str, list[str]] = {"usual": [], "cool": [], "hot": []}
    for row in csv_rows(storage.join(folder, "labels.csv")):
        pools[_pool(row["spt"])].append(row["name"])
    return survey, pools


def _pool(spectral_type: str) -> str:
    letter = spectral_type.removeprefix("d").removeprefix("g")[:1]
    if letter in USUAL:
        return "usual"
    if letter not in _POOL_OF:
        raise ConfigError(f"spectral type is {spectral_type!r}, expected one of O, B, A, F to L")
    return _POOL_OF[letter]
