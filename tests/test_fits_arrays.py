"""Images in a column of a FITS table are read as those of an npz file are."""

import gzip

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import Table

from astroray import surveys
from astroray.errors import ConfigError, ShardError
from astroray.surveys.array_files import open_arrays

RNG = np.random.default_rng(8)
NUM = 5
"""Fewer objects than an array has bands at most: an axis of a table's rows is never one of them."""
PLACES_DEG = np.arange(5.0), np.arange(5.0) - 4


def noise(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def read(survey):
    shards = surveys.list_shards(str(survey)).shards
    return [item for shard in shards for item in surveys.read_shard(shard)]


def test_a_table_is_read_as_an_npz_file_with_weights_names_and_places(tmp_path):
    stack, ivar = noise(NUM, 2, 7, 8), np.ones((NUM, 2, 7, 8), np.float32)
    ivar[3, 1, 2, 2] = 0
    ra_deg, dec_deg = PLACES_DEG
    names = [f"J{row}" for row in range(NUM)]
    np.savez(tmp_path / "b.npz", image=stack, weight=ivar, ra=ra_deg, dec=dec_deg, id=names)
    columns = {
        "FLUXES": noise(NUM, 3), "Object_ID": names, "STAMP": stack, "IVAR": ivar,
        "RA": np.radians(ra_deg) * units.rad, "DEC": dec_deg * units.deg,
    }  # fmt: skip
    Table(columns).write(tmp_path / "a.fits")
    (tmp_path / "c.fits.gz").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    (same,) = read(tmp_path / "b.npz")
    for name in ("a.fits", "c.fits.gz"):
        (ours,) = read(tmp_path / name)
        np.testing.assert_array_equal(ours.image_BCYX, same.image_BCYX)
        assert (ours.object_id_B, ours.pixels) == (names, "flux")
        np.testing.assert_allclose(ours.ra_deg_B, ra_deg)
        np.testing.assert_allclose(ours.dec_deg_B, dec_deg)
    assert np.isnan(ours.image_BCYX[3, 1, 2, 2])


def test_a_plain_file_is_split_and_any_rows_are_read(tmp_path):
    stack = noise(30, 7, 8)
    Table({"image": stack, "id": np.arange(10**17, 10**17 + 30)}).write(tmp_path / "a.fits")
    shards = surveys.list_shards(f"{tmp_path}/a.fits?shard_rows=20").shards
    assert [shard.num_rows for shard in shards] == [20, 10]
    some = list(surveys.read_shard(shards[1], rows=[0, 7]))
    assert [name for item in some for name in item.object_id_B] == [
        "100000000000000020", "100000000000000027",
    ]  # fmt: skip
    np.testing.assert_array_equal(some[1].image_BCYX[0, 0], stack[27])


def test_numbers_are_as_the_header_scales_them_and_nulls_are_missing(tmp_path):
    stored = np.arange(2 * 4 * 4, dtype=np.int16).reshape(2, 4, 4)
    column = fits.Column("image", "16I", dim="(4,4)", null=7, array=stored)
    table = fits.BinTableHDU.from_columns([column])
    table.header["TSCAL1"], table.header["TZERO1"] = 0.5, 3.0
    table.writeto(tmp_path / "a.fits")
    Table({"image": stored.astype(np.uint16) + 40000}).write(tmp_path / "b.fits")
    (scaled,), (unsigned,) = read(tmp_path / "a.fits"), read(tmp_path / "b.fits")
    expected = np.where(stored == 7, np.nan, stored * 0.5 + 3)
    np.testing.assert_array_equal(scaled.image_BCYX[:, 0], expected)
    np.testing.assert_array_equal(unsigned.image_BCYX[:, 0], stored + 40000.0)


def test_a_column_of_several_bands_may_name_its_axes(tmp_path):
    Table({"cut": noise(NUM, 4, 4, 3)}).write(tmp_path / "a.fits")
    (found,) = read(f"{tmp_path}/a.fits?layout=NYXC&bands=g,r,i")
    assert (found.image_BCYX.shape, found.bands) == ((NUM, 3, 4, 4), ("g", "r", "i"))
    with pytest.raises(ConfigError, match="layout=CYX does not fit"):
        read(f"{tmp_path}/a.fits?image=cut&layout=CYX")


def test_vectors_and_lists_of_any_length_are_no_images(tmp_path):
    lists = np.array([np.zeros(3), np.zeros(4)], object)
    fits.BinTableHDU.from_columns([
        fits.Column("vector", "16E", array=np.zeros((2, 16))),
        fits.Column("list", "PE()", array=lists),
    ]).writeto(tmp_path / "a.fits")  # fmt: skip
    with pytest.raises(ConfigError, match="holds only tables, expected images, or a table"):
        read(tmp_path / "a.fits")
    expected = r"got 1 columns, those with several numbers a row {'vector': \[16\]}"
    with pytest.raises(ShardError, match=expected), open_arrays(str(tmp_path / "a.fits")):
        pass


def test_a_truncated_table_is_one_unreadable_shard(tmp_path):
    Table({"image": noise(90, 7, 8)}).write(tmp_path / "a.fits")
    path = tmp_path / "b.fits"
    path.write_bytes((tmp_path / "a.fits").read_bytes()[:9000])
    shards = surveys.list_shards(f"{tmp_path}/*.fits").shards
    assert [shard.num_rows for shard in shards] == [90, None]
    with pytest.raises(ShardError, match=r"b\.fits is truncated"):
        list(surveys.read_shard(shards[1]))
