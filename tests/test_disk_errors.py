"""What a disk, near or far, may answer: what it cannot tell is not nothing, and a lost answer."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from astroray import catalog, ledger, storage
from astroray.errors import ConfigError, StorageError
from astroray.run_record import RunRecord
from astroray.storage import leases
from tests.catalogs_made import make_catalog
from tests.runs_made import make_record


def failing(monkeypatch, step: str, number: int, path: object = None) -> None:
    """Lets a call of the system fail, all of them or those of one path."""
    real = getattr(os, step)

    def fail(first: object, *rest: object, **named: object) -> object:
        if path is None or str(first) == str(path):
            raise OSError(number, os.strerror(number), str(first))
        return real(first, *rest, **named)

    monkeypatch.setattr(os, step, fail)


def sync_files_alone(monkeypatch, number: int) -> None:
    """Makes each sync of a folder fail."""
    fsync = os.fsync

    def sync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", sync)


def test_a_folder_that_a_broken_disk_does_not_keep_is_an_error(tmp_path, monkeypatch):
    sync_files_alone(monkeypatch, errno.EIO)
    for write in (storage.publish, storage.publish_new):
        with pytest.raises(StorageError, match="the disk reports an error"):
            write(str(tmp_path / write.__name__), b"1")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.ENOSYS])
def test_a_file_system_whose_folders_cannot_be_synced_is_written_to(tmp_path, monkeypatch, number):
    sync_files_alone(monkeypatch, number)
    storage.publish(str(tmp_path / "a"), b"1")
    assert storage.publish_new(str(tmp_path / "b"), b"2")
    storage.delete(str(tmp_path / "a"))
    assert storage.list_names(str(tmp_path)) == ["b"]


def test_a_deleted_file_is_gone_from_the_disk_before_anything_else_is_written(
    tmp_path, monkeypatch
):
    path = str(tmp_path / "hats.properties")
    storage.publish(path, b"1")
    fsync, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda h: (synced.append(os.fstat(h).st_ino), fsync(h))[1])
    storage.delete(path)
    assert synced == [tmp_path.stat().st_ino]
    storage.delete(path)
    assert len(synced) == 1


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_record_that_cannot_be_looked_at_is_not_taken_for_none(tmp_path, monkeypatch, number):
    run_dir = str(tmp_path)
    make_record(3, [1.0, 2.0, 3.0]).publish(run_dir)
    failing(monkeypatch, "stat", number, tmp_path / "run.json")
    with pytest.raises(StorageError, match=r"cannot look for .*run\.json"):
        ledger.open_run(run_dir, make_record(3, [1.0], fingerprint="another"))
    monkeypatch.undo()
    assert RunRecord.load(run_dir).fingerprint == "f00d"


@pytest.mark.parametrize("look", [storage.list_names, storage.list_folders])
def test_a_folder_that_cannot_be_looked_into_is_not_taken_for_an_empty_one(
    tmp_path, monkeypatch, look
):
    storage.publish(str(tmp_path / "a" / "b"), b"1")
    failing(monkeypatch, "scandir", errno.ESTALE)
    with pytest.raises(StorageError, match=f"cannot look for {tmp_path}: Stale file handle"):
        look(str(tmp_path))


def test_a_survey_that_cannot_be_looked_at_is_not_taken_for_none(tmp_path, monkeypatch):
    failing(monkeypatch, "stat", errno.EIO, tmp_path)
    with pytest.raises(StorageError, match="cannot look for"):
        storage.list_files(str(tmp_path))


@pytest.mark.parametrize("name", ["none", "file/below", "round", "n" * 300])
def test_what_is_not_there_is_nothing(tmp_path, name):
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "round").symlink_to("round")
    path = str(tmp_path / name)
    assert not storage.exists(path)
    assert storage.list_names(path) == storage.list_folders(path) == []


def test_a_lease_that_the_disk_hides_for_a_moment_is_not_lost(tmp_path, monkeypatch):
    with leases.hold_lease(str(tmp_path), renew_s=3600) as lease:
        failing(monkeypatch, "scandir", errno.ESTALE)
        with pytest.raises(StorageError, match="cannot look for"):
            lease.check()
        monkeypatch.undo()
        lease.check()


def test_a_link_whose_answer_nfs_lost_counts_as_made(tmp_path, monkeypatch):
    link = os.link

    def made_twice(source: str, path: str) -> None:
        link(source, path)
        link(source, path)

    monkeypatch.setattr(os, "link", made_twice)
    assert storage.publish_new(str(tmp_path / "lock"), b"mine") is True
    assert storage.publish_new(str(tmp_path / "lock"), b"mine") is False
    assert os.listdir(tmp_path) == ["lock"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_links_is_said_to_be_one(tmp_path, monkeypatch, number):
    failing(monkeypatch, "link", number)
    with pytest.raises(StorageError, match="the file system has no hard links"):
        storage.publish_new(str(tmp_path / "a"), b"1")
    assert os.listdir(tmp_path) == []


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "out")
    with pytest.raises(StorageError, match="it is a device or a pipe"):
        storage.publish(str(tmp_path / "out"), b"1")
    assert stat.S_ISFIFO((tmp_path / "out").stat().st_mode)


@pytest.mark.parametrize("address", ["gs://sky/run", "S3://sky/run", "ftp://sky.org/run"])
def test_an_address_of_another_kind_is_not_taken_for_a_folder(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    for act in (
        lambda: storage.absolute(address),
        lambda: storage.publish(f"{address}/run.json", b"1"),
        lambda: storage.exists(address),
    ):
        with pytest.raises(
            ConfigError, match=r":// is not read: .*expected a path of this machine"
        ):
            act()
    assert os.listdir(tmp_path) == []


def test_a_full_folder_for_temporary_files_is_named_where_the_result_goes_to_s3(monkeypatch):
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    where = "cannot write a temporary file: the disk is full"
    with pytest.raises(StorageError, match=where), storage.publishing("s3://sky/a") as file:
        file.write(b"1")


def test_a_folder_for_temporary_files_that_is_not_there_is_named_by_its_variable(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    where = "cannot write a temporary folder: No such file or directory; choose another TMPDIR"
    with pytest.raises(StorageError, match=where), storage.scratch_folder():
        pass


def test_a_disk_that_is_full_when_hats_writes_is_named(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hats.io.skymap.write_skymap", full)
    with pytest.raises(StorageError, match="the disk is full"):
        catalog.write_catalog(make_catalog(3), str(tmp_path), name="n", created="c")
    assert not storage.exists(str(tmp_path / "catalog" / "hats.properties"))


def test_bytes_that_are_counted_are_those_that_are_read(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"12345")
    before = storage.METER.bytes_read
    storage.checksum(str(tmp_path / "a"))
    assert storage.METER.bytes_read == before + 5
