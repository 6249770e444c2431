"""What can be said of a survey of wide-field images after its question mark."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from astroray.errors import ConfigError
from astroray.surveys.detection import DetectionOptions
from astroray.surveys.position_catalogs import CatalogColumns
from astroray.surveys.shards import parse_options

__all__ = ["FieldOptions", "parse_field_options"]

_OF_CATALOG = ("catalog", "id", "ra", "dec", "angles")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldOptions(DetectionOptions):
    """What stands after the question mark of a survey of wide-field images."""

    size: int = 32
    """Side of a stamp, px."""
    bands: str = ""
    """Names of the planes, `g,r,i`; else the header's, else b0, b1... Where the files' names have
    every one of them, `tile7_g.fits`, `g-tile7.fits` or `g/tile7.fits`, each file is a band."""
    hdu: str = ""
    """Name or number of the one image HDU to use; all of them where empty."""
    mask: str = ""
    """Name of a mask HDU, or a mask file for every image, by its path from the survey's folder; 0
    is good. Without it an HDU called MASK, DQ, IVAR, WEIGHT... of the image's shape is used."""
    catalog: str = ""
    """Path of a catalog whose objects are cut out, in place of detection; several separated by
    commas: a table, a folder of tables, or a HATS catalog, relative to the survey's folder."""
    id: str = ""
    """Column of the catalog's identifiers; without it well-known names are tried."""
    ra: str = ""
    """Column of right ascension, ICRS, degrees unless the catalog states a unit."""
    dec: str = ""
    """Column of declination, ICRS, likewise."""
    angles: str = ""
    """deg or rad: the unit of `ra` and `dec` where the catalog states none."""
    format: str = ""
    """Name of this reader."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        super().__post_init__()
        if self.size < 1:
            raise ConfigError(f"survey option size is {self.size}, expected 1 or more")
        named = [key for key in _OF_CATALOG[1:] if getattr(self, key)]
        if named and not self.catalog:
            raise ConfigError(f"option {named[0]}= is about no catalog; add catalog=PATH")

    @property
    def columns(self) -> CatalogColumns:
        """Which columns of the catalog are asked for."""
        return CatalogColumns(id=self.id, ra=self.ra, dec=self.dec, angles=self.angles)

    def to_params(self) -> dict[str, Any]:
        """The options for the params of a shard, without those of a catalog that is not there."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name != "format" and (value or name not in _OF_CATALOG)
        }


def parse_field_options(options: Mapping[str, str]) -> FieldOptions:
    """The options of a survey. Raises ConfigError where they cannot be meant."""
    detection = {field.name for field in dataclasses.fields(DetectionOptions)} & set(options)
    if options.get("catalog") and detection:
        raise ConfigError(
            f"survey option {min(detection)!r} is about sources that are detected, and catalog= "
            "says where the objects are; leave one of them out"
        )
    return parse_options(FieldOptions, options)
