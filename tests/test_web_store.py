"""Surveys behind HTTP: a server on this machine, which fails on purpose."""

import gzip
import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hats
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from astroray import storage, surveys
from astroray.cli import cli
from astroray.errors import ConfigError, FileError, StorageError
from astroray.storage import ahead, remote
from astroray.storage.ranges import Ranges
from astroray.surveys import hats_catalogs


def grey_png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), value).save(out, "PNG")
    return out.getvalue()


def names_below(address: str, location: str) -> list[str]:
    return [file.path.removeprefix(f"{address}/") for file in storage.list_files(location)]


def test_a_file_is_found_described_and_read(web):
    path = web.put("a/b.bin", b"0123456789")
    assert storage.exists(path)
    assert storage.describe(path) == storage.InputFile(
        path=path, size_bytes=10, version=web.last_modified
    )
    assert storage.list_files(path) == [storage.describe(path)]
    before = storage.METER.bytes_read
    assert storage.read_bytes(path) == b"0123456789"
    assert storage.METER.bytes_read == before + 10
    with storage.local_copy(path) as copy:
        assert copy.read_bytes() == b"0123456789"
    assert list(storage.read_each([path, f"{path}x"])) == [b"0123456789", None]


def test_what_is_missing_is_none_or_an_error_of_the_file(web):
    path = f"{web.address}/none.bin"
    assert not storage.exists(path)
    assert not storage.exists(f"{web.address}/")
    assert storage.list_files(path) == []
    for act in (storage.read_bytes, storage.describe):
        with pytest.raises(FileError, match=r"none\.bin is missing; check the address"):
            act(path)


def test_a_folder_is_listed_by_its_pages(web):
    for name in ("s/b.fits", "s/n 1/ä.fits", "s/_hidden/c.fits", "s/.d.fits", "other/e.fits"):
        web.put(name, b"1")
    there = ["s/b.fits", "s/n 1/ä.fits"]
    assert names_below(web.address, f"{web.address}/s") == there
    assert names_below(web.address, f"{web.address}/s/") == there
    assert storage.read_bytes(f"{web.address}/{there[1]}") == b"1"
    assert storage.read_bytes(f"{web.address}/s/n%201/%C3%A4.fits") == b"1"
    assert storage.list_folders(f"{web.address}/s") == ["n 1"]
    assert storage.list_names(f"{web.address}/s/n 1") == ["ä.fits"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("s/*.fits", ["s/a.fits", "s/b.fits"]),
        ("s/*/*.fits", ["s/n/c.fits"]),
        ("s/**/*.fits", ["s/a.fits", "s/b.fits", "s/n/c.fits", "s/n/m/d.fits"]),
        ("*/n/[cd].fits", ["s/n/c.fits"]),
    ],
)
def test_a_glob_is_looked_up_in_the_pages(web, pattern, expected):
    for name in ("s/a.fits", "s/b.fits", "s/b.txt", "s/n/c.fits", "s/n/m/d.fits"):
        web.put(name, b"1")
    assert names_below(web.address, f"{web.address}/{pattern}") == expected


def test_names_are_plain_unless_an_address_would_mean_something_else_by_them(web):
    names = ["J1234+0567 (1).fits", "50%.fits", "a#1.fits", "[OIII].fits", "a&b;c=d@e.fits"]
    for name in names:
        web.put(f"s/{name}", name.encode())
    found = storage.list_files(f"{web.address}/s/")
    assert sorted(storage.read_bytes(file.path).decode() for file in found) == sorted(names)
    assert [file.path.rpartition("/")[2] for file in found] == sorted(
        ["J1234+0567 (1).fits", "50%25.fits", "a%231.fits", "[OIII].fits", "a&b;c=d@e.fits"]
    )


def test_links_that_lead_elsewhere_are_no_files(web):
    page = (
        '<a href="?C=N;O=D">Name</a> <a href="../">up</a> <a href="http://elsewhere/x.fits">x</a>'
        '<a href="/s/a.fits">a</a> <a href="a.fits#top">a</a> <a href="http://[">bad</a><a>none</a>'
        '<A HREF="b.fits">b</A> <a href="deep/c.fits">c</a>'
    )
    web.put("s/index.html", page.encode())
    assert storage.list_names(f"{web.address}/s") == ["a.fits", "b.fits"]


def test_a_busy_server_is_asked_again(web):
    path = web.put("a.bin", b"0123456789")
    web.statuses["/a.bin"] = [503, 429, 500]
    assert storage.read_bytes(path) == b"0123456789"
    web.statuses["/a.bin"] = [503] * 50
    with pytest.raises(StorageError, match=r"answers 503 .* after 8 tries; wait"):
        storage.read_bytes(path)
    with pytest.raises(StorageError, match="answers 503"):
        storage.exists(path)


def test_a_body_that_breaks_off_is_asked_for_again(web):
    path = web.put("a.bin", b"0123456789" * 1000)
    web.cuts["/a.bin"] = [0, 17, 9999]
    assert storage.read_bytes(path) == b"0123456789" * 1000
    web.cuts["/a.bin"] = [5] * 50
    with pytest.raises(StorageError, match=r"cannot read .*a\.bin.*tried up to 8 times"):
        storage.read_bytes(path)


def test_small_files_of_a_shard_are_fetched_several_at_a_time_and_once_each(web):
    for number in range(8):
        web.put(f"s/{number}.png", b"no picture" if number == 3 else grey_png(20 * number))
    (shard,) = surveys.list_shards(f"{web.address}/s/?bands=L").shards
    web.asked.clear()
    web.together = threading.Barrier(2)  # a file at a time would wait in vain
    before = storage.METER.bytes_read
    found = list(surveys.read_shard(shard))
    slices = [rows for rows in found if isinstance(rows, surveys.Cutouts)]
    assert [row for rows in slices for row in rows.row_B] == [0, 1, 2, 4, 5, 6, 7]
    grey_N = np.concatenate([rows.image_BCYX.max(axis=(1, 2, 3)) for rows in slices])
    np.testing.assert_allclose(grey_N * 255, [0, 20, 40, 80, 100, 120, 140], atol=0.01)
    assert [one.row for one in found if isinstance(one, surveys.Reject)] == [3]
    assert sorted(web.asked) == [f"GET /s/{number}.png" for number in range(8)]
    assert storage.METER.bytes_read - before == shard.size_bytes


def test_what_is_fetched_ahead_and_not_asked_for_is_given_up(web):
    files = [(web.put(f"{number}.bin", b"%d" % number), 1) for number in range(40)]
    files[1] = (f"{web.address}/none.bin", 1)
    with ahead.fetching(files):
        assert storage.read_bytes(files[30][0]) == b"30", "beyond what is on its way"
        with pytest.raises(FileError, match=r"none\.bin is missing"):
            storage.read_bytes(files[1][0])
        assert storage.read_bytes(files[0][0]) == b"0"
    assert len(web.asked) < 40
    assert storage.read_bytes(files[2][0]) == b"2"


def test_a_shard_that_ends_takes_no_file_from_who_reads_another(web, monkeypatch):
    files = [(web.put(f"{number}.bin", b"%d" % number), 1) for number in range(ahead.NUM_AHEAD)]
    goes_on = threading.Event()
    monkeypatch.setattr(ahead, "get", lambda path: goes_on.wait(60) and remote.get(path))
    with ThreadPoolExecutor(1) as other:
        with ahead.fetching(files):
            (shard,) = ahead._UNDER_WAY
            last = other.submit(storage.read_bytes, files[-1][0])
            while files[-1][0] in shard.held:
                time.sleep(0.001)
        goes_on.set()
        assert last.result() == b"%d" % (len(files) - 1)
        assert shard.take(files[0][0]) is None, "as a thread asks that saw it just before the end"


def test_nobody_answers(web):
    with pytest.raises(
        StorageError, match=r"cannot read http://127\.0\.0\.1:9/a.*check the network"
    ):
        storage.exists("http://127.0.0.1:9/a")
    with pytest.raises(ConfigError, match="names no server"):
        storage.exists("https:///a")


@pytest.mark.parametrize(("code", "tries"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 8)])
def test_a_name_that_is_no_server_s_is_looked_up_once(web, monkeypatch, code, tries):
    asked, others = [], socket.getaddrinfo

    def resolve(host, *rest):
        if host != "nowhere.example":  # which threads of other tests may still ask for
            return others(host, *rest)
        asked.append(host)
        raise socket.gaierror(code, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(StorageError, match=r"cannot read http://nowhere.example/a"):
        storage.exists("http://nowhere.example/a")
    assert asked == ["nowhere.example"] * tries


def test_what_the_server_forbids_is_the_files_trouble(web):
    path = web.put("a.bin", b"1")
    web.statuses["/a.bin"] = [401, 403]
    for status in (401, 403):
        with pytest.raises(FileError, match=rf"forbids it \({status} .*~/\.netrc"):
            storage.read_bytes(path)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_parts_of_a_file_are_read(web, has_ranges):
    data = np.random.default_rng(1).bytes(300_000)
    path = web.put("a.bin", data)
    web.has_ranges = has_ranges
    assert remote.get_range(path, 5, 7) == (data[5:12], len(data))
    assert remote.get_range(path, -3, 3) == (data[-3:], len(data))
    assert remote.get_range(path, 299_999, 10) == (data[-1:], len(data))
    assert remote.get_range(path, 300_000, 10)[0] == b""
    file = Ranges(path)
    file.seek(100_000)
    assert file.read(50) == data[100_000:100_050]
    assert file.read() == data[100_050:]
    file.seek(400_000)
    assert file.read(8) == b""
    assert remote.get_range(web.put("empty", b""), 0, 10)[0] == b""


def test_a_server_that_knows_no_head_is_asked_for_a_byte(web):
    web.has_head = False
    path = web.put("a.bin", b"0123456789")
    assert storage.describe(path).size_bytes == 10
    assert not storage.exists(f"{path}x")


def test_a_packed_file_stays_as_it_lies_there(web):
    data = gzip.compress(b"SIMPLE")
    path = web.put("a.fits.gz", data)
    web.headers["Content-Encoding"] = "gzip"
    assert storage.read_bytes(path) == data
    assert storage.read_bytes(web.put("a.csv", gzip.compress(b"id,ra"))) == b"id,ra"


def test_an_etag_is_the_version_where_no_time_is_said(web):
    path = web.put("a.bin", b"1")
    web.headers["ETag"] = 'W/"abc"'
    assert storage.describe(path).version == web.last_modified
    web.last_modified = ""
    assert storage.describe(path).version == "abc"


def test_nothing_is_written_to_a_web_server(web, tmp_path):
    path = f"{web.address}/runs/a"
    for act in (
        lambda: storage.publish(path, b"1"),
        lambda: storage.publish_new(path, b"1"),
        lambda: storage.delete(path),
    ):
        with pytest.raises(ConfigError, match="a web server is only read; choose a folder"):
            act()
    done = CliRunner().invoke(cli, ["scan", "sim:galaxies?count=20", "--out", path])
    assert done.exit_code == 2
    assert "a web server is only read" in done.output


def test_pictures_and_their_table_are_read_as_from_a_folder(web):
    rng = np.random.default_rng(0)
    for name in ("x", "y"):
        picture = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
        (web.folder / "s").mkdir(exist_ok=True)
        picture.save(web.folder / "s" / f"{name}.png")
    web.put("s/labels.csv", b"name,ra,dec\nx,10.5,-3\ny,11,4\n")
    options = "?table=labels.csv&id=name"
    here, there = (
        [row for shard in surveys.list_shards(f"{place}{options}").shards
         for row in surveys.read_shard(shard)]
        for place in (web.folder / "s", f"{web.address}/s")
    )  # fmt: skip
    assert [list(rows.object_id_B) for rows in there] == [["x", "y"]]
    np.testing.assert_array_equal(there[0].ra_deg_B, [10.5, 11])
    np.testing.assert_array_equal(there[0].image_BCYX, here[0].image_BCYX)


def make_catalog(folder: Path, name: str) -> None:
    """A HATS catalog of 40 stamps whose partitions have two orders."""
    rng = np.random.default_rng(3)
    stamps = rng.random((40, 64)).astype(np.float32)
    catalog = folder / name
    for order, pixel in ((0, 4), (1, 23), (5, 12_287)):
        path = catalog / "dataset" / f"Norder={order}" / f"Dir={pixel // 10_000 * 10_000}"
        path.mkdir(parents=True, exist_ok=True)
        table = pa.table(
            {
                "name": [f"{order}-{i}" for i in range(40)],
                "ra": rng.uniform(0, 10, 40),
                "dec": rng.uniform(0, 10, 40),
                "image": pa.FixedSizeListArray.from_arrays(stamps.ravel(), 64),
            }
        )
        pq.write_table(table, path / f"Npix={pixel}.parquet")
    (catalog / "hats.properties").write_text(
        "obs_collection=stamps\nhats_nrows=120\nhats_col_ra=ra\nhats_col_dec=dec\n"
    )
    info = pd.DataFrame({"Norder": [0, 1, 5], "Npix": [4, 23, 12_287]})
    info.to_csv(catalog / "partition_info.csv", index=False)


@pytest.mark.parametrize("is_collection", [False, True])
def test_a_hats_catalog_is_listed_by_its_partitions_where_no_folder_has_a_page(web, is_collection):
    web.has_pages = False
    folder = web.folder / "c" if is_collection else web.folder
    make_catalog(folder, "stamps")
    place = "stamps"
    if is_collection:
        web.put("c/collection.properties", b"hats_primary_table_url=stamps\n")
        place = "c"
    here, there = (
        surveys.list_shards(f"{where}/{place}?image=image&id=name&shape=1,8,8").shards
        for where in (web.folder, web.address)
    )
    assert [shard.inputs[0].path.rpartition("dataset/")[2] for shard in there] == [
        shard.inputs[0].path.rpartition("dataset/")[2] for shard in here
    ]
    for one, other in zip(here, there, strict=True):
        rows, same = next(surveys.read_shard(one)), next(surveys.read_shard(other))
        assert list(rows.object_id_B) == list(same.object_id_B)
        np.testing.assert_array_equal(rows.image_BCYX, same.image_BCYX)


def test_paths_of_partitions_are_those_of_hats(web):
    make_catalog(web.folder, "stamps")
    base = f"{web.address}/stamps"
    pixels = [hats.HealpixPixel(0, 4), hats.HealpixPixel(1, 23), hats.HealpixPixel(5, 12_287)]
    expected = [str(hats.io.paths.pixel_catalog_file(base, pixel)) for pixel in pixels]
    assert [file.path for file in hats_catalogs.list_files(base)] == expected


def test_a_partition_that_is_missing_is_named(web):
    make_catalog(web.folder, "stamps")
    (web.folder / "stamps/dataset/Norder=1/Dir=0/Npix=23.parquet").unlink()
    with pytest.raises(FileError, match=r"Npix=23\.parquet is missing"):
        hats_catalogs.list_files(f"{web.address}/stamps")
    web.put("stamps/partition_info.csv", b"Norder,Pixel\n1,x\n")
    with pytest.raises(FileError, match=r"partition_info\.csv is no list of partitions"):
        hats_catalogs.list_files(f"{web.address}/stamps")
