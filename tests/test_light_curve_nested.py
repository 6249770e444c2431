"""Light curves nested in one column, as nested-pandas, LSDB and HATS catalogs have them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astroray import surveys
from astroray.errors import ConfigError
from astroray.surveys.light_curves import read_light_curves
from astroray.surveys.shards import Reject
from tests.light_curves_made import fluxes, read, shards_of

MJD = np.arange(50000.0, 50040.0)


def cadences(row):
    """Two bands by turns; the brightness differs by row and band."""
    band = np.where(np.arange(len(MJD)) % 2, "r", "g")
    mag = 18.0 + 0.1 * row + 0.01 * np.arange(len(MJD))
    return {"hmjd": MJD.tolist(), "mag": mag.tolist(), "magerr": [0.02] * len(MJD),
            "band": band.tolist(), "catflags": [0] * len(MJD)}  # fmt: skip


def struct_of_lists(rows):
    return pa.array(rows)


def list_of_structs(rows):
    return pa.array(
        [
            None
            if row is None
            else [dict(zip(row, values, strict=True)) for values in zip(*row.values(), strict=True)]
            for row in rows
        ]
    )


def write(path, nest=struct_of_lists, **changes):
    rows = [cadences(0), None, cadences(2), cadences(3)]
    table = {
        "objectid": pa.array([10**17 + row for row in range(4)]),
        "objra": [10.0, 11.0, 12.0, 13.0],
        "objdec": [-5.0] * 4,
        "lightcurve": nest(rows),
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {name: values for name, values in table.items() if values is not None}
    pq.write_table(pa.table(table), path, row_group_size=3)
    return path


@pytest.mark.parametrize("nest", [struct_of_lists, list_of_structs])
def test_a_nested_column_is_read_as_lists_of_its_own_are(tmp_path, nest):
    survey = f"{write(tmp_path / 'a.parquet', nest)}?format=light_curves&mag=true&band=r"
    (shard,) = shards_of(survey)
    assert shard.num_rows == 4
    found = list(read_light_curves(shard))
    assert [isinstance(item, Reject) for item in found] == [False, True, False, False]
    assert found[1].kind == "missing"
    for row in (0, 2, 3):
        curve = found[row]
        assert (curve.object_id, curve.ra_deg, curve.dec_deg) == (str(10**17 + row), 10.0 + row, -5)
        assert curve.time_zero == "MJD"
        np.testing.assert_array_equal(curve.time_d, MJD[1::2])
        mag = np.array(cadences(row)["mag"])[1::2]
        np.testing.assert_allclose(curve.flux, 10 ** (-0.4 * (mag - np.median(mag))), rtol=1e-12)
    (only,) = read_light_curves(shard, rows=[3])
    assert (only.row, only.object_id) == (3, str(10**17 + 3))


def test_several_nested_columns_are_told_apart_by_name(tmp_path):
    forced = {"midpointMjdTai": MJD.tolist(), "psfFlux": fluxes(len(MJD)).tolist()}
    path = write(tmp_path / "a.parquet", forced=pa.array([forced] * 4))
    with pytest.raises(ConfigError, match=r"columns lightcurve, forced, expected one.*curve=light"):
        shards_of(f"{path}?format=light_curves&mag=true")
    first = read(f"{path}?curve=forced")[0]
    np.testing.assert_array_equal(first.flux, fluxes(len(MJD)))
    with pytest.raises(ConfigError, match="curve is 'objra', expected a column of"):
        shards_of(f"{path}?curve=objra")


def test_lists_in_columns_of_their_own_go_before_nested_ones(tmp_path):
    own = pa.array([MJD[:10].tolist()] * 4)
    path = write(tmp_path / "a.parquet", mjd=own, flux=pa.array([fluxes(10).tolist()] * 4))
    assert [len(curve.time_d) for curve in read(str(path))] == [10] * 4


def test_of_a_hats_catalog_only_the_partitions_are_read(tmp_path):
    folder = tmp_path / "ztf"
    write(folder / "dataset/Norder=1/Dir=0/Npix=17.parquet")
    write(folder / "dataset/Norder=1/Dir=0/Npix=18.parquet", objectid=pa.array([1, 2, 3, 4]))
    write(folder / "dataset/data_thumbnail.parquet")
    (folder / "hats.properties").write_text("hats_col_ra=objra\nhats_col_dec=objdec\n")
    (folder / "partition_info.csv").write_text("Norder,Npix\n1,17\n1,18\n")
    survey = f"{folder}?format=light_curves&mag=true&band=g"
    listed = surveys.list_shards(survey).shards
    assert surveys.list_shards(survey, known=listed).shards == listed  # as a resume lists it
    names = [
        name
        for shard in listed
        for item in surveys.read_shard(shard)
        if not isinstance(item, Reject)
        for name in item.object_id_B
    ]
    assert len(names) == len(set(names)) == 6


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of pandas, about nested-pandas
def test_what_nested_pandas_writes_is_read(tmp_path):
    nested_pandas = pytest.importorskip("nested_pandas", reason="nested-pandas comes with lsdb")
    flat = {"id": np.repeat([7, 8], len(MJD)), "mjd": np.tile(MJD, 2)}
    flat["flux"] = np.concatenate([fluxes(len(MJD), seed=seed) for seed in (1, 2)])
    frame = nested_pandas.NestedFrame.from_flat(
        nested_pandas.NestedFrame(flat), base_columns=[], nested_columns=["mjd", "flux"],
        on="id", name="lc",
    )  # fmt: skip
    frame.reset_index().to_parquet(tmp_path / "a.parquet")
    first, second = read(f"{tmp_path}/a.parquet?format=light_curves")
    assert (first.object_id, second.object_id) == ("7", "8")
    np.testing.assert_array_equal(second.flux, fluxes(len(MJD), seed=2))
