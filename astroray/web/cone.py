"""The answer of a VO Simple Cone Search (version 1.03), as TOPCAT and others read it."""

import io
from typing import Any

import pyarrow as pa
from astropy.io.votable.tree import Info, Resource, VOTableFile

from astroray.catalog.exports import to_astropy
from astroray.catalog.votable import to_votable

__all__ = ["MEDIA_TYPE", "cone_error", "cone_table"]

MEDIA_TYPE = "application/x-votable+xml"
_OLD_UCDS = {"object_id": "ID_MAIN", "ra": "POS_EQ_RA_MAIN", "dec": "POS_EQ_DEC_MAIN"}
"""The standard asks for these three by their names of 1999; all others are of today."""


def cone_table(rows: pa.Table, *, overflow: bool, facts: dict[str, str]) -> bytes:
    """A VOTable of CATALOG rows; `overflow` says that there are more, `facts` stand as INFO."""
    votable = to_votable(to_astropy(rows))
    resource = votable.resources[0]
    resource.type = "results"
    for field in resource.tables[0].fields:
        field.ucd = _OLD_UCDS.get(field.name, field.ucd)
    status = "OVERFLOW" if overflow else "OK"
    resource.infos.extend(_infos({"QUERY_STATUS": status, **facts}))
    return _to_xml(votable)


def cone_error(reason: str) -> bytes:
    """A VOTable that says why there is no answer; the standard sends it with status 200."""
    votable = VOTableFile()
    resource = Resource(type="results")
    votable.resources.append(resource)
    votable.infos.extend(_infos({"Error": reason}))
    return _to_xml(votable)


def _infos(facts: dict[str, str]) -> list[Any]:
    return [Info(ID=name, name=name, value=value) for name, value in facts.items()]


def _to_xml(votable: Any) -> bytes:
    sink = io.BytesIO()
    votable.version = "1.1"  # the last in which the standard's own UCDs are valid
    votable.to_xml(sink)
    return sink.getvalue()
