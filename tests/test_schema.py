"""Columns and tables: units that astropy parses, promised columns, positions null together."""

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.io.votable.ucd import check_ucd

from astroray import schema
from astroray.errors import SchemaError

TABLES = {
    "embeddings": schema.embeddings(4),
    "neighbors": schema.NEIGHBORS,
    "catalog": schema.CATALOG,
    "rejects": schema.REJECTS,
    "thumbnails": schema.THUMBNAILS,
    "forecasts": schema.FORECASTS,
}
ALL_TABLES = {name: found for name, found in vars(schema).items() if isinstance(found, pa.Schema)}


@pytest.mark.parametrize("name", ALL_TABLES)
def test_every_column_has_a_meaning_a_unit_and_a_ucd_of_the_vocabulary(name):
    for field in ALL_TABLES[name]:
        assert field.metadata[b"doc"], field.name
        u.Unit(field.metadata[b"unit"].decode())
        ucd = field.metadata[b"ucd"].decode()
        assert ucd, field.name
        assert check_ucd(ucd, check_controlled_vocabulary=True), field.name


@pytest.mark.parametrize("name", ["embeddings", "neighbors", "catalog", "forecasts"])
def test_every_table_of_objects_begins_with_the_identity(name):
    assert TABLES[name].names[:4] == ["object_id", "ra", "dec", "_healpix_29"]


def test_positions_are_null_together():
    columns = schema.identity(
        ["a", "b", "c"], np.array([10.0, np.nan, 3.0]), np.array([1, 2, np.nan])
    )
    for name in ("ra", "dec", "_healpix_29"):
        assert [value is None for value in columns[name].to_pylist()] == [False, True, True]


def test_a_missing_column_is_named_with_what_was_got():
    table = pa.table({"object_id": ["a"]})
    with pytest.raises(SchemaError, match="'neighbor_id' is missing in neighbors"):
        schema.conform(
            schema.NEIGHBORS.empty_table().drop(["neighbor_id"]), schema.NEIGHBORS, "neighbors"
        )
    with pytest.raises(SchemaError, match="'ra' is missing"):
        schema.conform(table, schema.NEIGHBORS, "neighbors")


def test_a_column_of_another_type_is_refused_rather_than_cast():
    wrong = schema.REJECTS.empty_table().set_column(1, "row", pa.array([], pa.int32()))
    with pytest.raises(SchemaError, match="type int32, expected int64"):
        schema.conform(wrong, schema.REJECTS, "rejects")


def test_conform_orders_columns_and_keeps_their_units():
    shuffled = schema.CATALOG.empty_table().select(list(reversed(schema.CATALOG.names)))
    table = schema.conform(shuffled, schema.CATALOG, "catalog")
    assert table.schema.equals(schema.CATALOG, check_metadata=True)
