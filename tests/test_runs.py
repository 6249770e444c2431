"""What is alike for every run directory: where its logs go, and what its encoder is called."""

import contextlib
import os
import stat
from pathlib import Path

import pytest

from astroray import runs
from astroray.errors import StorageError
from astroray.surveys import list_shards


def test_the_logs_of_a_run_on_a_disk_lie_in_it(tmp_path):
    assert runs.log_folder(str(tmp_path)) == str(tmp_path / "logs")


def test_the_logs_of_a_run_on_s3_have_a_new_folder_each_time_that_its_owner_alone_may_enter(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = (runs.log_folder("s3://runs/images") for _ in range(2))
    assert first != second
    for folder in (first, second):
        assert os.path.dirname(folder) == str(tmp_path)
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_the_logs_of_a_run_that_may_only_be_read_have_a_new_folder_too(tmp_path, monkeypatch):
    """As where `astroray serve` shows the run of somebody else; here by the words of the disk."""
    run_dir, elsewhere = tmp_path / "run", tmp_path / "temporary"
    (run_dir / "logs").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(run_dir)))
    with runs.logs_of(str(run_dir)) as folder:
        assert os.path.dirname(folder) == str(elsewhere)
    assert not os.path.exists(folder)
    assert (run_dir / "logs").is_dir()
    (run_dir / "logs").rmdir()
    assert os.path.dirname(runs.log_folder(str(run_dir))) == str(elsewhere)


def test_a_run_that_takes_no_labels_and_no_page_says_how_to_have_one_that_does(tmp_path):
    for folder in ("labels", "report"):
        (tmp_path / folder).write_text("where a folder would have to be")
        with pytest.raises(StorageError) as refused:
            runs.check_takes(str(tmp_path), folder)
        assert str(refused.value) == (
            f"cannot write {tmp_path}/{folder}: a part of the path is a file, expected a folder; "
            f"`astroray export {tmp_path} --self-contained --out DIR` makes a copy of the run that "
            "is yours"
        )
    runs.check_takes(str(tmp_path), "logs")
    assert os.listdir(tmp_path / "logs") == []


def test_the_logs_of_a_run_on_s3_stay_where_it_failed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with runs.logs_of("s3://runs/images") as folder:
        assert os.path.isdir(folder)
    assert not os.path.exists(folder)
    with pytest.raises(KeyError), runs.logs_of("s3://runs/images") as folder:
        raise KeyError
    assert os.path.isdir(folder)
    local = tmp_path / "logs"
    local.mkdir()
    with runs.logs_of(str(tmp_path)) as folder:
        pass
    assert os.path.isdir(folder)


def test_what_the_workers_of_a_run_on_s3_wrote_is_kept_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    published = {}
    monkeypatch.setattr(runs.storage, "publish", published.__setitem__)
    for error in (None, KeyError):  # a done run has rejects that refer to it
        with contextlib.suppress(KeyError), runs.logs_of("s3://runs/images") as folder:
            Path(folder, "workers").mkdir()
            Path(folder, "workers", "worker-1-01000000-7.err").write_text("why")
            if error:
                raise error
        assert published == {"s3://runs/images/logs/workers/worker-1-01000000-7.err": b"why"}
        published.clear()


def test_the_encoder_that_is_chosen_by_the_survey_is_called_by_its_name():
    shards = list_shards("sim:galaxies?count=3").shards
    assert runs.encoder_of("auto", shards) == "rings"
    assert runs.encoder_of("mine.safetensors", shards) == "mine.safetensors"
