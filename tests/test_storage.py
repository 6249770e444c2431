"""Local disks: files are whole or absent, and a disk in trouble says what to do."""

import errno
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from astroray import storage
from astroray.errors import FileError, StorageError
from astroray.storage import copying
from astroray.storage.copying import copy_file


def names_below(folder: Path, location: str | None = None) -> list[str]:
    found = storage.list_files(location or str(folder))
    return [os.path.relpath(file.path, folder) for file in found]


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def everything_in(folder: Path) -> list[str]:
    """Hidden names and leftovers too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_published_file_holds_the_bytes_and_nothing_is_left_beside_it(tmp_path):
    path = str(tmp_path / "ledger" / "a.json")
    storage.publish(path, b"old")
    storage.publish(path, b"new")
    assert storage.read_bytes(path) == b"new"
    assert everything_in(tmp_path) == ["ledger", "ledger/a.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o027, 0o640)])
def test_who_may_read_a_file_is_what_the_umask_says_but_for_secrets(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        storage.publish(str(tmp_path / "a"), b"1")
        storage.publish_new(str(tmp_path / "b"), b"2")
        storage.publish(str(tmp_path / "secret"), b"3", is_secret=True)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a": mode, "b": mode, "secret": 0o600}


def test_a_relative_path_is_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.publish("a", b"1")
    assert storage.publish_new("b", b"2")
    assert everything_in(tmp_path) == ["a", "b"]


STEPS = ["fsync", "replace"]


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_on_the_way_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    path = str(tmp_path / "a.parquet")
    storage.publish(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(StorageError, match="the disk reports an error"):
        storage.publish(path, b"new")
    assert storage.read_bytes(path) == b"old"
    assert everything_in(tmp_path) == ["a.parquet"]


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_dies_on_the_way_leaves_no_name_that_counts(tmp_path, monkeypatch, step):
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(os, step, die)
    monkeypatch.setattr(os, "unlink", die)  # the dead do not clear up
    with pytest.raises(Killed):
        storage.publish(str(tmp_path / "a.parquet"), b"new")
    assert len(everything_in(tmp_path)) == 1
    assert storage.list_names(str(tmp_path)) == []
    assert storage.list_files(str(tmp_path)) == []


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    for step in ("fsync", "replace", "link"):
        real = getattr(os, step)
        monkeypatch.setattr(
            os, step, lambda *a, step=step, real=real: (order.append(step), real(*a))[1]
        )
    storage.publish(str(tmp_path / "a"), b"1")
    assert order == ["fsync", "replace", "fsync"]  # the last one is of the folder
    order.clear()
    storage.publish_new(str(tmp_path / "b"), b"1")
    assert order == ["fsync", "link", "fsync"]


def test_a_copy_holds_a_piece_at_a_time_and_is_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "PIECE_BYTES", 4)
    (tmp_path / "a").write_bytes(b"0123456789")
    before = storage.METER.bytes_read
    copy_file(str(tmp_path / "a"), str(tmp_path / "copy" / "a"))
    assert (tmp_path / "copy" / "a").read_bytes() == b"0123456789"
    assert storage.METER.bytes_read == before + 10
    with pytest.raises(FileError, match="is missing"):
        copy_file(str(tmp_path / "b"), str(tmp_path / "copy" / "b"))
    assert everything_in(tmp_path / "copy") == ["a"]


def test_a_pipe_in_a_listed_folder_is_no_file_and_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"1")
    listed = [storage.list_files(str(tmp_path)), storage.list_files(f"{tmp_path}/*.jpg")]
    assert [[file.path for file in files] for files in listed] == 2 * [[str(tmp_path / "b.jpg")]]
    with pytest.raises(FileError, match="a device, a pipe or a socket, expected a file"):
        storage.describe(str(tmp_path / "a.jpg"))


def test_a_new_file_never_replaces_one(tmp_path):
    path = str(tmp_path / "lock")
    assert storage.publish_new(path, b"first") is True
    assert storage.publish_new(path, b"second") is False
    assert storage.read_bytes(path) == b"first"
    assert everything_in(tmp_path) == ["lock"]


@pytest.mark.parametrize("write", [storage.publish, storage.publish_new])
@pytest.mark.parametrize("below", ["out/run.json", "out/ledger/run.json"])
def test_a_file_where_a_folder_should_be_is_no_bug_and_no_lost_race(tmp_path, write, below):
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(StorageError, match=r"a part of the path is a file.*another --out"):
        write(str(tmp_path / below), b"1")


def test_a_folder_where_a_file_should_be_is_said_so(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(StorageError, match="a folder has that name"):
        storage.publish(str(tmp_path / "run.json"), b"1")
    assert everything_in(tmp_path) == ["run.json"]


def test_a_name_that_is_too_long_is_said_in_the_system_s_words(tmp_path):
    with pytest.raises(StorageError, match="File name too long; choose another --out"):
        storage.publish(str(tmp_path / ("a" * 300) / "b"), b"1")


def test_deleting_twice_is_no_error(tmp_path):
    storage.publish(str(tmp_path / "a"), b"1")
    storage.delete(str(tmp_path / "a"))
    storage.delete(str(tmp_path / "a"))
    assert not storage.exists(str(tmp_path / "a"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=60)


@pytest.mark.faults
@pytest.mark.parametrize("write", [storage.publish, storage.publish_new])
def test_a_full_disk_keeps_what_was_published_and_asks_for_space(small_disk, write):
    storage.publish(str(small_disk / "a"), b"old")
    with pytest.raises(StorageError, match="the disk is full; free some space and run"):
        write(str(small_disk / "b"), bytes(100_000))
    with pytest.raises(StorageError, match="the disk is full"):
        storage.publish(str(small_disk / "a"), bytes(100_000))
    assert storage.read_bytes(str(small_disk / "a")) == b"old"
    assert everything_in(small_disk) == ["a"]


@pytest.mark.faults
@pytest.mark.parametrize("write", [storage.publish, storage.publish_new])
def test_a_read_only_disk_asks_for_another_one(small_disk, write):
    storage.publish(str(small_disk / "a"), b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=60)
    for path in (small_disk / "b", small_disk / "new" / "b"):
        with pytest.raises(StorageError, match="read-only; choose another --out"):
            write(str(path), b"new")
    with pytest.raises(StorageError, match="read-only"):
        storage.delete(str(small_disk / "a"))
    assert storage.read_bytes(str(small_disk / "a")) == b"old"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_what_the_system_refuses_is_said_with_advice(tmp_path, monkeypatch, number, advice):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=rf"cannot write {tmp_path}/a: {advice}"):
        storage.publish(str(tmp_path / "a"), b"1")
    assert everything_in(tmp_path) == []


def test_a_folder_lists_all_below_it_sorted_without_hidden_names(tmp_path):
    fill(tmp_path, "b.fits", "a/z.fits", "a/.tmp-1", "_old/c.fits", "a-b/d.fits", ".x/y", "_SUM")
    fill(tmp_path, "a-b.fits", "a.fits", "a0/e.fits")
    expected = ["a-b.fits", "a-b/d.fits", "a.fits", "a/z.fits", "a0/e.fits", "b.fits"]
    assert names_below(tmp_path) == expected
    assert names_below(tmp_path, f"{tmp_path}/_old") == ["_old/c.fits"]


def test_a_file_lists_as_itself_with_size_and_version(tmp_path):
    fill(tmp_path, "a.fits")
    [found] = storage.list_files(str(tmp_path / "a.fits"))
    assert found == storage.describe(str(tmp_path / "a.fits"))
    assert found.size_bytes == 6
    os.utime(tmp_path / "a.fits", ns=(1, 1))
    assert storage.describe(found.path).version == "1" != found.version


def test_a_path_has_one_name_however_it_is_reached(tmp_path, monkeypatch):
    fill(tmp_path, "survey/a.fits")
    (tmp_path / "link").symlink_to("survey")
    monkeypatch.chdir(tmp_path)
    for path in ("survey", "link/", "./survey/../link", str(tmp_path / "link")):
        assert storage.resolve(path) == os.path.realpath(tmp_path / "survey")
    assert storage.resolve("s3://bucket/run/") == "s3://bucket/run"


def test_a_relative_location_lists_absolute_paths(tmp_path, monkeypatch):
    fill(tmp_path, "survey/a.fits")
    monkeypatch.chdir(tmp_path)
    for location in ("survey", "survey/*.fits", "survey/a.fits", "./survey/"):
        assert names_below(tmp_path, location) == ["survey/a.fits"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.fits", ["a.fits", "b.fits"]),
        ("[b-z].fits", ["b.fits"]),
        ("**/*.fits", ["a.fits", "b.fits", "n/c.fits", "n/m/d.fits"]),
        ("*/*.fits", ["n/c.fits"]),
        ("_n/*.fits", ["_n/e.fits"]),
        ("*", ["a.fits", "b.fits"]),
    ],
)
def test_a_glob_lists_files_and_leaves_hidden_names_out(tmp_path, pattern, expected):
    names = ["a.fits", "b.fits", "_c.fits", ".d.fits", "n/c.fits", "n/m/d.fits", "_n/e.fits"]
    fill(tmp_path, *names)
    assert names_below(tmp_path, f"{tmp_path}/{pattern}") == expected


def test_a_name_with_brackets_is_itself_before_it_is_a_glob(tmp_path):
    fill(tmp_path, "img[1].fits", "img1.fits", "set[1]/a.fits")
    assert names_below(tmp_path, f"{tmp_path}/img[1].fits") == ["img[1].fits"]
    assert names_below(tmp_path, f"{tmp_path}/set[1]") == ["set[1]/a.fits"]

    assert names_below(tmp_path, f"{tmp_path}/set[1]/*.fits") == ["set[1]/a.fits"]


@pytest.mark.parametrize("pattern", ["**/*.fits", "**", "**/**/*.fits"])
def test_a_glob_too_follows_a_circle_of_links_once(tmp_path, pattern):
    fill(tmp_path, "a.fits", "n/b.fits")
    (tmp_path / "up").symlink_to(tmp_path)
    assert names_below(tmp_path, f"{tmp_path}/{pattern}") == ["a.fits", "n/b.fits"]


def test_a_glob_does_not_leave_out_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    fill(tmp_path, "a/b.fits", "c/d.fits")
    for step in ("scandir", "listdir"):
        look = getattr(os, step)

        def forbid(path: str, look=look):  # as root, no permission would
            if path == str(tmp_path / "a"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return look(path)

        monkeypatch.setattr(os, step, forbid)
    for pattern in ("*/*.fits", "**/*.fits"):
        with pytest.raises(FileError, match=rf"{tmp_path}/a cannot be read: Permission denied"):
            storage.list_files(f"{tmp_path}/{pattern}")
    assert names_below(tmp_path, f"{tmp_path}/c*/*.fits") == ["c/d.fits"]


def test_nothing_there_lists_as_nothing(tmp_path):
    assert storage.list_files(str(tmp_path / "none")) == []
    assert storage.list_files(str(tmp_path / "*.fits")) == []
    assert storage.list_names(str(tmp_path / "none")) == []


@pytest.mark.parametrize("name", ["", "*.fits", "**/*.fits", "b.fits"])
def test_a_link_that_leads_nowhere_does_not_pass_for_no_file(tmp_path, name):
    fill(tmp_path, "a.fits")
    (tmp_path / "b.fits").symlink_to("c.fits")
    with pytest.raises(FileError, match=r"b\.fits is a link that leads nowhere"):
        storage.list_files(f"{tmp_path}/{name}")


def test_a_file_that_is_renamed_while_the_folder_is_listed_is_left_out(tmp_path, monkeypatch):
    fill(tmp_path, "a.fits", "b.part")
    found = list(storage.find_files(str(tmp_path)))
    (tmp_path / "b.part").rename(tmp_path / "b.fits")
    monkeypatch.setattr(storage, "find_files", lambda location: found)
    assert names_below(tmp_path) == ["a.fits"]


def test_linked_folders_are_followed_once_even_in_a_circle(tmp_path):
    fill(tmp_path, "elsewhere/b.fits", "survey/a.fits")
    (tmp_path / "survey" / "night").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "survey" / "up").symlink_to(tmp_path / "survey")
    survey = tmp_path / "survey"
    assert names_below(survey) == ["a.fits", "night/b.fits"]


def test_a_folder_that_may_not_be_listed_does_not_pass_for_an_empty_one(tmp_path, monkeypatch):
    fill(tmp_path, "a/b.fits", "c.fits")
    scandir = os.scandir

    def forbid(path: str):  # as root, no permission would
        if path == str(tmp_path / "a"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbid)
    with pytest.raises(FileError, match=rf"{tmp_path}/a cannot be read: Permission denied"):
        storage.list_files(str(tmp_path))


def test_names_are_those_of_files_directly_in_the_folder(tmp_path):
    fill(tmp_path, "b.done", "a.done", "_c", "deep/d.done", ".tmp-x")
    assert storage.list_names(str(tmp_path)) == ["_c", "a.done", "b.done"]


def test_folders_and_versions_are_those_directly_in_it_without_unfinished_files(tmp_path):
    fill(tmp_path, "b.json", "a.json", "_c", ".tmp-x", "deep/d.json", "an/e", "_hidden/f", ".g/h")
    assert storage.list_folders(str(tmp_path)) == ["an", "deep"]
    expected = [storage.describe(f"{tmp_path}/{name}") for name in ("_c", "a.json", "b.json")]
    assert storage.list_versions(str(tmp_path)) == expected
    for look in (storage.list_folders, storage.list_versions):
        assert look(str(tmp_path / "none")) == []


def test_many_files_are_read_in_their_order_and_one_that_is_gone_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_FILES_AT_ONCE", 2)
    fill(tmp_path, "a", "b", "c")
    paths = [f"{tmp_path}/{name}" for name in ("c", "gone", "b", "a", "b")]
    assert list(storage.read_each(paths)) == [b"c", None, b"b", b"a", b"b"]


@pytest.mark.parametrize("name", ["gone.fits", "file/below.fits"])
def test_a_missing_input_is_the_file_s_own_trouble(tmp_path, name):
    fill(tmp_path, "file")
    path = str(tmp_path / name)
    assert not storage.exists(path)
    for look in (storage.read_bytes, storage.describe):
        with pytest.raises(FileError, match=rf"{path} is missing"):
            look(path)
    with pytest.raises(FileError, match="is missing"), storage.local_copy(path):
        pass


def test_an_input_that_cannot_be_read_is_the_file_s_own_trouble(tmp_path):
    for look in (storage.read_bytes, lambda path: storage.local_copy(path).__enter__()):
        with pytest.raises(FileError, match="cannot be read: Is a directory"):
            look(str(tmp_path))
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(FileError, match="cannot be read: Too many levels of symbolic links"):
        storage.read_bytes(str(tmp_path / "round"))


def test_the_local_copy_of_a_local_file_is_the_file_and_its_bytes_are_counted(tmp_path):
    fill(tmp_path, "a.fits")
    before = storage.METER.bytes_read
    with storage.local_copy(str(tmp_path / "a.fits")) as copy:
        assert copy == tmp_path / "a.fits"
    assert copy.exists()
    storage.read_bytes(str(tmp_path / "a.fits"))
    assert storage.METER.bytes_read == before + 12


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b.fits", "b"),
        ("s3://bucket/a/b.c.fits.gz", "b.c"),
        ("b.fits.fz", "b"),
        ("b.fits.bz2", "b"),
        ("night/b.d/", "b"),
        ("noext", "noext"),
    ],
)
def test_the_stem_is_the_name_without_the_suffixes_of_data_files(path, expected):
    assert storage.stem(path) == expected


def test_half_written_files_of_a_killed_writer_are_removed_on_a_linked_disk_too(tmp_path):
    run_dir, other_disk = tmp_path / "run", tmp_path / "disk"
    fill(tmp_path, "run/a/whole", "disk/whole", "disk/.tmp-somebody-elses")
    (run_dir / "embeddings").symlink_to(other_disk)
    for folder in (run_dir / "a", other_disk):
        (folder / f".tmp-{uuid.uuid4().hex}").write_bytes(b"half")
    storage.remove_temporaries(str(run_dir))
    assert os.listdir(run_dir / "a") == ["whole"]
    assert sorted(os.listdir(other_disk)) == [".tmp-somebody-elses", "whole"]


def test_a_file_whose_name_is_no_text_is_refused_by_name(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"1")
    with pytest.raises(FileError, match=r"caf\\xe9.png is not UTF-8, .* rename the file"):
        storage.list_files(str(tmp_path))


@pytest.mark.parametrize("folder", ["s3://bucket", "s3://bucket/", "s3://bucket/folder/"])
def test_a_bucket_and_a_folder_of_it_are_no_files_and_nobody_is_asked(folder):
    assert not storage.exists(folder)
