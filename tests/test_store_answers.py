"""Answers of an object store that mean more than they say: lost, forbidden, refused for good."""

import socket
import tracemalloc

import pytest
from botocore.retries.standard import ExponentialBackoff

from astroray import storage, surveys
from astroray.errors import StorageError
from astroray.storage import s3_failures
from tests.s3_server import set_environment

pytestmark = pytest.mark.s3


@pytest.mark.parametrize("faults", [["lose", 409], ["lose", 409, 409], [409, "lose"]])
def test_a_new_file_is_one_s_own_where_a_conflict_hides_the_lost_answer(s3, flaky_s3, faults):
    path = f"{s3.new_prefix()}/lock"
    flaky_s3.faults[:] = faults
    assert storage.publish_new(path, b"mine") is True


def test_a_refusal_is_not_a_store_to_wait_for(s3):
    with pytest.raises(StorageError, match=r"after 1 try; check the address") as caught:
        storage.publish(f"{s3.new_prefix()}/{'k' * 2000}", b"1")
    assert "wait" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "faults", "reason"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, [], "the store does not know the access key"),
        ({"AWS_SECRET_ACCESS_KEY": "x"}, [], "the secret key is wrong"),
        ({}, [400] * 3, r"in another region; set AWS_DEFAULT_REGION to it \(on purpose\)"),
    ],
)
def test_a_refused_look_at_a_file_says_why_though_such_an_answer_has_no_body(
    flaky_s3, monkeypatch, wrong, faults, reason
):
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    flaky_s3.faults[:] = faults
    with pytest.raises(StorageError, match=rf"cannot look for s3://sky/a: .*{reason}"):
        storage.exists("s3://sky/a")


def test_what_is_waited_for_is_said_after_some_tries_and_not_by_every_request(
    flaky_s3, monkeypatch, caplog
):
    monkeypatch.setattr(s3_failures, "SILENT_ATTEMPTS", 2)
    monkeypatch.setattr(s3_failures, "_silence", {"end": 0.0})
    for faults in ([503], [503, 503], [503, 503]):
        flaky_s3.faults[:] = faults
        storage.exists("s3://sky/a")
    (said,) = caplog.messages
    assert said.startswith("waiting for S3, try 2 of 3: it answers 503; if that is not your store")


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_host_that_does_not_exist_is_looked_up_once(flaky_s3, monkeypatch, code):
    asked, others = [], socket.getaddrinfo

    def resolve(host, *rest):
        if host != "nowhere.example":
            return others(host, *rest)
        asked.append(host)
        raise socket.gaierror(code, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    set_environment(monkeypatch, {"AWS_ENDPOINT_URL": "http://nowhere.example"})
    with pytest.raises(StorageError, match=r"nowhere.example.*AWS_ENDPOINT_URL") as caught:
        storage.exists("s3://sky/a")
    tries = 1 if code == socket.EAI_NONAME else 3
    assert len(asked) == tries
    assert ("tried up to 3 times" in str(caught.value)) == (tries == 3)


def test_a_store_without_tls_is_not_asked_again_for_it(s3, flaky_s3, monkeypatch):
    delays = []
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: delays.append(0) or 0)
    secure = s3.endpoint.replace("http:", "https:")
    set_environment(monkeypatch, {"AWS_ENDPOINT_URL": secure})
    with pytest.raises(StorageError, match=r"SSL validation failed for .*; check the network"):
        storage.exists("s3://sky/a")
    assert not delays


def test_one_file_of_a_bucket_that_may_not_be_looked_through_is_a_survey(s3, flaky_s3):
    path = f"{s3.new_prefix()}/a.jpg"
    storage.publish(path, b"1")
    flaky_s3.faults[:] = [403]  # what S3 says of a missing key to those who may not list
    (shard,) = surveys.list_shards(path).shards
    assert [file.path for file in shard.inputs] == [path]


def test_a_local_copy_and_a_checksum_hold_no_more_than_a_piece_of_the_object(s3):
    path = f"{s3.new_prefix()}/large"
    storage.publish(path, bytes(24_000_000))
    storage.describe(path)  # loads what is loaded once
    tracemalloc.start()
    with storage.local_copy(path) as copy:
        assert copy.stat().st_size == 24_000_000
    storage.checksum(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000


def test_a_copy_that_breaks_off_is_begun_again_from_nothing(s3, flaky_s3):
    path = f"{s3.new_prefix()}/a"
    data = bytes(range(256)) * 20_000
    storage.publish(path, data)
    before = storage.METER.bytes_read
    flaky_s3.faults[:] = ["cut"]
    with storage.local_copy(path) as copy:
        assert copy.read_bytes() == data
    assert storage.METER.bytes_read == before + len(data)


def test_a_key_longer_than_a_file_s_name_has_a_local_copy(s3):
    path = f"{s3.new_prefix()}/{'ü' * 120}.fits"  # 245 bytes; with more, this store refuses it
    storage.publish(path, b"1")
    with storage.local_copy(path) as copy:
        assert len(copy.name.encode()) < 200
        assert copy.suffix == ".fits"
        assert copy.read_bytes() == b"1"
