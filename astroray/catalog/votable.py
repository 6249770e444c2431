"""What a table says of itself as a VOTable: names, units, UCDs and the frame of its positions."""

from typing import Any

__all__ = ["to_votable"]

_FRAME = "icrs"


def to_votable(columns: Any) -> Any:
    """An astropy Table of `catalog.exports.to_astropy` as an astropy VOTableFile.

    Its positions refer to a COOSYS of ICRS, so that Aladin and TOPCAT need not guess their frame.
    """
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import CooSys

    votable = from_table(columns)
    (resource,) = votable.resources
    (table,) = resource.tables
    positions = [field for field in table.fields if field.name in ("ra", "dec")]
    if positions:
        resource.coordinate_systems.append(CooSys(ID=_FRAME, system="ICRS"))
    for field in positions:
        field.ref = _FRAME
    return votable
