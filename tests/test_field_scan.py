"""A scan of the objects of a catalog from end to end."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import inspection
from astroray.catalog import read_catalog
from tests import scans
from tests.tiles_made import make_sky, write_sky


def test_a_scan_of_a_catalog_has_each_object_once_and_says_what_it_has_not(tmp_path):
    ids, ra_N, dec_N = make_sky(40)
    ra_N[0], ra_N[1] = np.nan, 20.0
    write_sky(tmp_path / "tiles", ra_N[2:], dec_N[2:])
    table = pa.table({"object_id": ids, "ra": ra_N, "dec": dec_N})
    pq.write_table(table, tmp_path / "objects.parquet")
    survey = f"{tmp_path}/tiles/*.fits?format=fields&bands=g,r&size=16&catalog=../objects.parquet"
    run = tmp_path / "run"
    record = scans.scan_here(survey, run)
    counts = record.counts
    assert counts.outside + counts.rows_read == len(ids)
    assert [row.kind for row in record.rejects] == ["position"]
    assert counts.duplicates == 0
    catalog = read_catalog(str(run))
    place = {name: (ra, dec) for name, ra, dec in zip(ids, ra_N, dec_N, strict=True)}
    rows = catalog.select(["object_id", "ra", "dec"]).to_pylist()
    assert len(rows) == counts.catalog > 30
    assert all((row["ra"], row["dec"]) == place[row["object_id"]] for row in rows)
    page = (run / "report" / "index.html").read_text()
    assert f"{counts.outside} objects of the catalog lie on none of the images" in page
    assert inspection.verify_run(str(run)) == []
