"""S3 for real: a server on this machine, and a proxy before it that fails on purpose."""

import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import urllib3

from astroray import storage, surveys
from astroray.errors import ConfigError, FileError, LedgerError, StorageError
from astroray.neighbors.blocks import Block
from astroray.neighbors.partitions import Partition
from astroray.storage import object_store, remote, s3_failures
from astroray.storage.copying import copy_file

pytestmark = pytest.mark.s3


@pytest.fixture
def set_variables(monkeypatch):
    """Sets variables, which the next request goes by."""

    def apply(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return apply


def fill(prefix: str, *names: str) -> None:
    for name in names:
        storage.publish(f"{prefix}/{name}", name.encode())


def names_below(prefix: str, location: str) -> list[str]:
    return [file.path.removeprefix(f"{prefix}/") for file in storage.list_files(location)]


def test_what_is_published_is_read_back_and_counted(s3):
    path = f"{s3.new_prefix()}/a b+c/größe=1.bin"
    storage.publish(path, b"12345")
    before = storage.METER.bytes_read
    assert storage.read_bytes(path) == b"12345"
    assert storage.METER.bytes_read == before + 5
    with storage.local_copy(path) as copy:
        assert copy.name == "größe=1.bin"
        assert copy.read_bytes() == b"12345"
    assert not copy.exists()


def test_a_copy_between_disk_and_store_is_streamed_either_way(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "read_bytes", None)  # which hold the whole file
    monkeypatch.setattr(object_store, "put", None)
    prefix, data = s3.new_prefix(), bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    copy_file(str(tmp_path / "a"), f"{prefix}/a")
    copy_file(f"{prefix}/a", f"{prefix}/b")
    copy_file(f"{prefix}/b", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == data


def test_the_listing_and_a_look_at_one_file_agree_on_its_version(s3):
    prefix = s3.new_prefix()
    fill(prefix, "a.fits")
    [listed] = storage.list_files(prefix)
    assert listed == storage.describe(f"{prefix}/a.fits")
    storage.publish(f"{prefix}/a.fits", b"changed")
    assert storage.describe(f"{prefix}/a.fits").version != listed.version


def test_an_empty_object_is_a_file_too(s3):
    path = f"{s3.new_prefix()}/empty"
    storage.publish(path, b"")
    assert storage.read_bytes(path) == b""
    assert storage.describe(path).size_bytes == 0
    assert remote.get_range(path, 0, 10) == remote.get_range(path, -10, 10) == (b"", 0)


def test_a_folder_lists_all_below_it_sorted_without_hidden_names(s3):
    prefix = s3.new_prefix()
    fill(prefix, "b.fits", "a/z.fits", "a/.tmp-1", "_old/c.fits", "a-b/d.fits", ".x", "a/_SUCCESS")
    object_store.put(f"{prefix}/a/", b"")  # what consoles write for a folder
    expected = ["a-b/d.fits", "a/z.fits", "b.fits"]
    assert names_below(prefix, prefix) == expected
    assert names_below(prefix, f"{prefix}/") == expected
    assert names_below(prefix, f"{prefix}/_old") == ["_old/c.fits"]


def test_a_folder_is_not_its_longer_namesake(s3):
    prefix = s3.new_prefix()
    fill(prefix, "run/a", "run2/b")
    assert names_below(prefix, f"{prefix}/run") == ["run/a"]
    assert storage.list_names(f"{prefix}/run") == ["a"]
    assert storage.list_folders(prefix) == storage.list_folders(f"{prefix}/") == ["run", "run2"]
    assert storage.list_folders(f"{prefix}/run") == storage.list_folders(f"{prefix}/none") == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.fits", ["a.fits", "b.fits"]),
        ("?.fits", ["a.fits", "b.fits"]),
        ("[b-z].fits", ["b.fits"]),
        ("*/*.fits", ["n1/c.fits"]),
        ("n*/**/*.fits", ["n1/c.fits", "n1/deep/d.fits"]),
        ("**/*.fits", ["a.fits", "b.fits", "n1/c.fits", "n1/deep/d.fits"]),
        ("_n/*.fits", ["_n/e.fits"]),
        ("**/_n/*.fits", ["_n/e.fits"]),
        ("*/**", ["n1/c.fits", "n1/deep/d.fits"]),
        ("*.jpg", []),
    ],
)
def test_a_glob_means_the_same_on_s3_as_on_a_disk(s3, tmp_path, pattern, expected):
    names = ["a.fits", "b.fits", "_c.fits", "a.txt", "n1/c.fits", "n1/deep/d.fits", "_n/e.fits"]
    for root in (s3.new_prefix(), str(tmp_path)):
        fill(root, *names)
        assert names_below(root, f"{root}/{pattern}") == expected


def test_a_name_with_brackets_is_itself_before_it_is_a_glob(s3):
    prefix = s3.new_prefix()
    fill(prefix, "img[1].fits", "img1.fits", "set[1]/a.fits")
    assert names_below(prefix, f"{prefix}/img[1].fits") == ["img[1].fits"]
    assert names_below(prefix, f"{prefix}/set[1]") == ["set[1]/a.fits"]


def test_nothing_there_lists_as_nothing(s3):
    prefix = s3.new_prefix()
    assert storage.list_files(prefix) == []
    assert storage.list_files(f"{prefix}/*.fits") == []
    assert storage.list_names(prefix) == []
    assert not storage.exists(f"{prefix}/a")


def test_a_listing_of_several_pages_is_whole(s3):
    prefix = s3.new_prefix()
    fill(prefix, "a", "b", "c", "d/e", "f")

    def two_a_page(params, **_):
        params["MaxKeys"] = 2

    events = object_store._client().meta.events
    events.register("provide-client-params.s3.ListObjectsV2", two_a_page)
    try:
        assert names_below(prefix, prefix) == ["a", "b", "c", "d/e", "f"]
        assert storage.list_names(prefix) == ["a", "b", "c", "f"]
    finally:
        events.unregister("provide-client-params.s3.ListObjectsV2", two_a_page)


def test_a_new_file_is_written_once_and_an_old_one_stays(s3):
    path = f"{s3.new_prefix()}/lock"
    assert storage.publish_new(path, b"first") is True
    assert storage.publish_new(path, b"second") is False
    assert storage.read_bytes(path) == b"first"


def test_of_many_that_write_a_new_file_at_once_one_does(s3):
    path = f"{s3.new_prefix()}/lock"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.publish_new(path, b"%d" % i), range(8)))
    assert won.count(True) == 1
    assert storage.read_bytes(path) == b"%d" % won.index(True)


def test_deleting_twice_is_no_error(s3):
    path = f"{s3.new_prefix()}/a"
    storage.publish(path, b"1")
    storage.delete(path)
    storage.delete(path)
    assert not storage.exists(path)


@pytest.mark.parametrize("look", [storage.read_bytes, storage.describe])
def test_a_missing_input_is_the_file_s_own_trouble(s3, look):
    with pytest.raises(FileError, match=r"gone\.fits is missing"):
        look(f"{s3.new_prefix()}/gone.fits")


def test_a_missing_bucket_stops_and_names_the_bucket(s3):
    for act in (
        lambda: storage.publish("s3://nosuchbucket/a", b"1"),
        lambda: storage.list_files("s3://nosuchbucket/a"),
        lambda: storage.read_bytes("s3://nosuchbucket/a"),
    ):
        with pytest.raises(StorageError, match="no bucket 'nosuchbucket'; create it"):
            act()


def test_what_may_not_be_read_is_rejected_and_what_may_not_be_written_stops(s3, set_variables):
    path = f"{s3.new_prefix()}/a.fits"
    storage.publish(path, b"1")
    set_variables(AWS_ACCESS_KEY_ID="readonly")  # a user that may read another folder only
    for look in (storage.read_bytes, storage.describe):
        with pytest.raises(FileError, match=r"forbids it.*AWS_PROFILE"):
            look(path)
    with pytest.raises(StorageError, match=r"cannot write .* forbids it"):
        storage.publish(path, b"2")
    with pytest.raises(StorageError, match="cannot look for"):
        storage.exists(path)
    with pytest.raises(StorageError, match="cannot list"):
        storage.list_files(path)


@pytest.mark.parametrize("file", ["a.png", "a.fits", "a.fits?format=light_curves"])
def test_a_file_that_may_not_be_read_is_a_row_that_was_rejected(s3, set_variables, file):
    survey = f"{s3.new_prefix()}/{file}"
    storage.publish(survey.partition("?")[0], b"1")
    (shard,) = surveys.list_shards(survey).shards
    set_variables(AWS_ACCESS_KEY_ID="readonly")
    (reject,) = surveys.read_shard(shard)
    assert (reject.row, reject.kind) == (0, "unreadable")


def test_a_single_file_that_may_be_listed_but_not_read_is_named(s3, flaky_s3):
    path = f"{s3.new_prefix()}/a.fits"
    storage.publish(path, b"1")
    flaky_s3.faults[:] = [403]  # the look at the file; the listing below it passes
    with pytest.raises(FileError, match=rf"{path}: the store forbids it"):
        storage.list_files(path)


@pytest.mark.parametrize(
    ("variables", "advice"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret key is wrong"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "does not know the access key"),
    ],
)
def test_wrong_keys_stop_the_run_instead_of_rejecting_each_file(
    s3, set_variables, variables, advice
):
    path = f"{s3.new_prefix()}/a.fits"
    storage.publish(path, b"1")
    set_variables(**variables)
    for act in (storage.read_bytes, storage.list_files):
        with pytest.raises(StorageError, match=advice):
            act(path)


def test_no_keys_at_all_are_the_user_s_to_set(s3, set_variables):
    set_variables(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    with pytest.raises(ConfigError, match="no credentials for S3; check AWS_ACCESS_KEY_ID"):
        storage.list_files(s3.new_prefix())


@pytest.mark.parametrize(
    ("variables", "location", "advice"),
    [
        ({"AWS_ENDPOINT_URL": "127.0.0.1:1"}, "s3://sky/a", "check AWS_ENDPOINT_URL"),
        ({"AWS_PROFILE": "nobody"}, "s3://sky/a", "profile .*nobody.* could not be found"),
        ({}, "s3://Not A Bucket/a", "Invalid bucket name"),
        ({}, "s3:///a", "names no bucket"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_tried(
    s3, set_variables, variables, location, advice
):
    set_variables(**variables)
    with pytest.raises(ConfigError, match=advice):
        storage.list_files(location)


def test_the_bucket_stands_in_the_path_with_a_named_host_too(s3, set_variables):
    set_variables(AWS_ENDPOINT_URL=s3.endpoint.replace("127.0.0.1", "localhost"))
    path = f"{s3.new_prefix()}/a"
    storage.publish(path, b"1")
    assert storage.read_bytes(path) == b"1"


def test_endpoint_and_keys_may_come_from_a_profile(s3, set_variables, tmp_path):
    config = tmp_path / "config"
    config.write_text(
        f"[profile sky]\nregion = us-east-1\nendpoint_url = {s3.endpoint}\n"
        f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    )
    set_variables(
        AWS_CONFIG_FILE=str(config),
        AWS_PROFILE="sky",
        AWS_ENDPOINT_URL=None,
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
    )
    path = f"{s3.new_prefix()}/a"
    storage.publish(path, b"1")
    assert storage.exists(path)


ACTIONS = {
    "put": lambda path: storage.publish(path, b"1"),
    "put_new": lambda path: storage.publish_new(f"{path}-new", b"1"),
    "get": storage.read_bytes,
    "head": storage.describe,
    "exists": storage.exists,
    "list": storage.list_files,
    "delete": storage.delete,
}


@pytest.mark.parametrize("fault", [503, 500, "drop"])
@pytest.mark.parametrize("action", ACTIONS)
def test_a_store_that_is_busy_twice_is_asked_a_third_time(s3, flaky_s3, action, fault):
    path = f"{s3.new_prefix()}/a"
    storage.publish(path, b"1")
    flaky_s3.requests.clear()
    flaky_s3.faults[:] = [fault, fault]
    ACTIONS[action](path)
    assert len(flaky_s3.requests) == 3
    assert len(set(flaky_s3.requests)) == 1


@pytest.mark.parametrize("action", ACTIONS)
def test_a_store_that_stays_busy_stops_the_run_and_says_how_often_it_was_tried(
    s3, flaky_s3, action
):
    path = f"{s3.new_prefix()}/a"
    flaky_s3.faults[:] = [503] * 50
    with pytest.raises(StorageError, match=r"the store answers 503 .* after 3 tries; wait"):
        ACTIONS[action](path)
    assert len(flaky_s3.requests) == 3


@pytest.mark.parametrize("action", ACTIONS)
def test_a_store_that_is_down_stops_the_run_and_says_where_it_should_be(flaky_s3, s3, action):
    flaky_s3.faults[:] = ["drop"] * 50
    with pytest.raises(StorageError, match=r"127\.0\.0\.1.*tried up to 3 times.*AWS_ENDPOINT_URL"):
        ACTIONS[action](f"{s3.new_prefix()}/a")
    assert len(flaky_s3.requests) == 3


def test_a_port_that_nobody_listens_on_stops_the_run(flaky_s3, set_variables):
    set_variables(AWS_ENDPOINT_URL="http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"Could not connect.*run the same command again"):
        storage.publish("s3://sky/a", b"1")


def test_a_download_that_breaks_off_is_begun_again(s3, flaky_s3):
    path = f"{s3.new_prefix()}/a"
    data = bytes(range(256)) * 4000
    storage.publish(path, data)
    flaky_s3.faults[:] = ["cut"]
    assert storage.read_bytes(path) == data


def test_a_download_that_always_breaks_off_stops_the_run(s3, flaky_s3, monkeypatch):
    path = f"{s3.new_prefix()}/a"
    storage.publish(path, b"12345678")
    monkeypatch.setattr(object_store.time, "sleep", lambda seconds: None)
    flaky_s3.faults[:] = ["cut"] * 50
    with pytest.raises(StorageError, match=r"cannot read .*tried up to 3 times"):
        storage.read_bytes(path)


def test_a_download_that_tls_breaks_off_is_begun_again_too(monkeypatch):
    class Torn(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise urllib3.exceptions.SSLError("bad record mac")

    def client_of(*bodies: io.BytesIO) -> Callable[[], object]:
        left = iter(bodies)
        client = SimpleNamespace(
            get_object=lambda **_: {"Body": next(left), "ContentLength": 5, "ContentRange": ""}
        )
        return lambda: client

    monkeypatch.setattr(s3_failures, "MAX_ATTEMPTS", 2)
    monkeypatch.setattr(object_store, "_client", client_of(Torn(), io.BytesIO(b"12345")))
    assert storage.read_bytes("s3://sky/a") == b"12345"
    monkeypatch.setattr(object_store, "_client", client_of(Torn(), Torn()))
    with pytest.raises(StorageError, match=r"bad record mac .*; check the network"):
        storage.read_bytes("s3://sky/a")


def test_a_new_file_whose_answer_was_lost_counts_as_written(s3, flaky_s3):
    path = f"{s3.new_prefix()}/lock"
    flaky_s3.faults[:] = ["lose"]
    assert storage.publish_new(path, b"mine") is True


def test_a_new_file_that_another_wrote_is_not_taken_for_one_s_own_after_a_retry(s3, flaky_s3):
    path = f"{s3.new_prefix()}/lock"
    storage.publish(path, b"theirs")
    flaky_s3.faults[:] = [503]
    assert storage.publish_new(path, b"mine") is False


def test_a_conflict_under_way_is_asked_again_until_it_is_decided(s3, flaky_s3):
    path = f"{s3.new_prefix()}/lock"
    flaky_s3.faults[:] = [409, 409]
    assert storage.publish_new(path, b"mine") is True
    flaky_s3.faults[:] = [409]
    assert storage.publish_new(path, b"another's") is False


@pytest.fixture
def small_requests(monkeypatch) -> bytes:
    """What takes three parts, since S3 has at least 5 MiB in all but the last."""
    monkeypatch.setattr(object_store, "MAX_PUT_BYTES", 3)
    monkeypatch.setattr(object_store, "MIN_PART_BYTES", 5 * 2**20)
    return bytes(range(256)) * (11 * 2**12)


def test_what_one_request_cannot_take_goes_up_in_parts(s3, small_requests):
    folder = s3.new_prefix()
    storage.publish(f"{folder}/data", small_requests)
    with storage.publishing(f"{folder}/file") as file:
        file.write(small_requests)
    for name in ("data", "file"):
        assert storage.read_bytes(f"{folder}/{name}") == small_requests
        assert storage.describe(f"{folder}/{name}").version.endswith("-3")


def test_parts_that_the_store_refuses_leave_the_older_object_and_nothing_else(
    s3, flaky_s3, small_requests
):
    path = f"{s3.new_prefix()}/a"
    object_store._client().put_object(Bucket=s3.bucket, Key=path.split("/", 3)[3], Body=b"old")
    flaky_s3.faults[:] = ["pass", "pass", 403]  # the begin and the first part go through
    with pytest.raises(StorageError, match="forbids"):
        storage.publish(path, small_requests)
    assert storage.read_bytes(path) == b"old"
    left = object_store._client().list_multipart_uploads(Bucket=s3.bucket)
    assert not left.get("Uploads")


@pytest.mark.parametrize(
    ("value", "is_sent"), [(None, False), ("WHEN_REQUIRED", False), ("when_supported", True)]
)
def test_checksums_that_some_stores_do_not_know_are_sent_where_they_are_wanted(
    s3, set_variables, value, is_sent
):
    set_variables(AWS_REQUEST_CHECKSUM_CALCULATION=value)
    sent: list[str] = []
    client = object_store._client()
    client.meta.events.register_first(
        "before-send.s3.PutObject", lambda request, **_: sent.extend(request.headers)
    )
    storage.publish(f"{s3.new_prefix()}/a", b"1")
    assert sent
    assert any("checksum" in name.lower() for name in sent) is is_sent


def test_each_process_has_a_client_of_its_own(s3, monkeypatch):
    first = object_store._client()
    assert object_store._client() is first
    monkeypatch.setattr(object_store.os, "getpid", lambda: -1)
    assert object_store._client() is not first


def test_storage_is_imported_without_boto3():
    code = "import sys, astroray.storage; sys.exit('boto3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_of_a_file_of_which_little_is_wanted_little_is_read(s3):
    path = f"{s3.new_prefix()}/index/partition.arrow"
    vector_VD = np.arange(64_000, dtype=np.float32).reshape(1000, 64)
    number_V = np.arange(1000)
    block = Block(
        vector_UD=vector_VD, member_N=number_V, count_U=np.ones(1000, np.int64),
        cell_U=np.zeros(1000, np.int32),
    )  # fmt: skip
    Partition.write(path, np.zeros(1000, np.float32), block)
    before = storage.METER.bytes_read
    partition = Partition(path)
    np.testing.assert_array_equal(partition.member_N, number_V)
    assert storage.METER.bytes_read - before < 200_000 < vector_VD.nbytes
    np.testing.assert_array_equal(partition.vector_VD, vector_VD)
    between = storage.METER.bytes_read
    np.testing.assert_array_equal(partition.block(slice(3, 5)).vector_UD, vector_VD[3:5])
    assert storage.METER.bytes_read == between
    storage.publish(f"{path}.empty", b"")
    for name in ("gone", "empty"):
        with pytest.raises(LedgerError, match="is missing or damaged"):
            Partition(f"{path}.{name}").member_N.sum()
