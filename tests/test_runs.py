"""What is alike for every run directory: where its logs go, and what its encoder is called."""

import os
import stat

import pytest

from astroray import runs
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


def test_the_encoder_that_is_chosen_by_the_survey_is_called_by_its_name():
    shards = list_shards("sim:galaxies?count=3").shards
    assert runs.encoder_of("auto", shards) == "rings"
    assert runs.encoder_of("mine.safetensors", shards) == "mine.safetensors"
