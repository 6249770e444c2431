"""Ray Data's messages reach the log of their run, and no file of theirs stays open."""

import errno
import io
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

from astroray.errors import StorageError
from astroray.execution import ray_logs, workers


def open_logs():
    paths = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    opened = [os.readlink(path) for path in paths if path.is_symlink()]  # one was the listing's
    return [file for file in opened if "ray-data" in Path(file).name]


@pytest.mark.ray
def test_data_sets_that_overlap_write_to_the_log_of_the_run_and_leave_no_file_open(
    ray_cluster, tmp_path
):
    import ray.data
    from ray.data._internal.logging import get_log_directory

    with workers.cluster(log_dir=str(tmp_path)):
        first = iter(ray.data.range(4).iter_batches(batch_size=1))
        next(first)
        ray.data.range(4).map_batches(lambda batch: batch).take_all()
        list(first)
        assert not list(Path(get_log_directory()).glob("ray-data-*")), "a file for each data set"
    text = (tmp_path / "ray-data.log").read_text(encoding="utf-8")
    assert text.count("execution finished") == 2
    assert open_logs() == []


def test_a_data_set_that_outlives_another_one_opens_no_file_for_itself(tmp_path, monkeypatch):
    from ray.data._internal import logging as ray_data_logging

    handlers = []
    plain = ray_data_logging._create_dataset_log_handler

    def recorded(name):
        handlers.append(plain(name))
        handlers[-1]._get_log_directory = lambda: str(tmp_path / "session")
        return handlers[-1]

    monkeypatch.setattr(ray_data_logging, "_create_dataset_log_handler", recorded)
    with ray_logs.ray_data_to(str(tmp_path)):
        ray_data_logging.register_dataset_logger("one")
        ray_data_logging.register_dataset_logger("two")
        logging.getLogger("ray.data").warning("both run")
        ray_data_logging.unregister_dataset_logger("one")
        ray_data_logging.unregister_dataset_logger("two")
    assert len(handlers) == 3  # Ray makes one of `two` anew, and forgets the one that it had
    assert not (tmp_path / "session").exists(), "one of them was opened"
    assert (tmp_path / "ray-data.log").read_text(encoding="utf-8") == "both run\n"


def test_a_thread_that_logs_too_late_opens_nothing(tmp_path):
    with ray_logs.ray_data_to(str(tmp_path)):
        (handler,) = logging.getLogger("ray.data").handlers
        logging.getLogger("ray.data").info("in time")
    handler.handle(logging.makeLogRecord({"msg": "too late"}))
    assert (tmp_path / "ray-data.log").read_text(encoding="utf-8") == "in time\n"
    assert open_logs() == []


def test_a_stream_that_leads_elsewhere_keeps_its_place_while_ray_is_noisy(tmp_path, monkeypatch):
    ours = io.StringIO()  # as a notebook's, it has no descriptor
    monkeypatch.setattr(sys, "stderr", ours)
    with ray_logs.noise_to(str(tmp_path)):
        sys.stderr.write("progress\n")
        os.write(2, b"noise\n")
    assert sys.stderr is ours
    assert ours.getvalue() == "progress\n"
    assert (tmp_path / "ray.log").read_text(encoding="utf-8") == "noise\n"


def test_afterwards_ray_data_logs_as_it_did_before(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_DATA_LOGGING_CONFIG", "/the/user's/own.yaml")
    logger = logging.getLogger("ray.data")
    before = (logger.level, logger.handlers[:], logger.propagate)
    with ray_logs.ray_data_to(str(tmp_path)):
        assert Path(os.environ["RAY_DATA_LOGGING_CONFIG"]).is_file()
        assert logger.handlers != before[1]
    assert os.environ["RAY_DATA_LOGGING_CONFIG"] == "/the/user's/own.yaml"
    assert (logger.level, logger.handlers, logger.propagate) == before
    monkeypatch.delenv("RAY_DATA_LOGGING_CONFIG")
    with ray_logs.ray_data_to(""):
        pass
    assert "RAY_DATA_LOGGING_CONFIG" not in os.environ


def test_a_full_disk_neither_hides_its_error_nor_takes_standard_error_away(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = tmp_path / "session_2" / "logs" / "worker-1.err"
    log.parent.mkdir(parents=True)
    log.write_text("why")
    monkeypatch.setattr(shutil, "copy", full)
    ray_logs.keep_worker_logs(str(tmp_path), str(tmp_path / "logs"))
    with pytest.raises(StorageError, match="cannot write"), ray_logs.noise_to("/no/such/folder"):
        pass
    assert not sys.stderr.closed


@pytest.mark.ray
def test_what_workers_of_a_cluster_that_was_joined_wrote_is_brought_here(ray_cluster, tmp_path):
    import ray

    ray.get(ray.remote(num_cpus=0.1)(lambda: os.write(2, b"why I died\n")).remote())
    ray_logs.fetch_worker_logs(str(tmp_path))
    said = [path.read_text() for path in (tmp_path / "workers").iterdir()]
    assert any("why I died" in text for text in said)
