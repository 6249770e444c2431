"""What is checked before a job reaches a cluster, and how its submission id is made."""

import asyncio
import dataclasses
import json
import logging
import shutil
import types
import zipfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from astroray import submission
from astroray.cli import cli
from astroray.errors import BackendError, ConfigError
from astroray.execution import structured_logs
from astroray.interrupts import Interrupted
from astroray.job_command import read_job
from astroray.submission import Job, JobServer

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "jobs").glob("*.py"))


def job(survey="s3://sky/Deep Field/*.fits?size=64", night="2026-11-28", script="jobs/scan.py"):
    arguments = ("--survey", survey, "--out", "s3://runs/x")
    return Job(
        script=ROOT / script, arguments=arguments, survey=survey, out="s3://runs/x", night=night
    )


def details(attempt, status, entrypoint, of=None):
    return types.SimpleNamespace(
        submission_id=f"{(of or job()).key}-a{attempt}",
        status=types.SimpleNamespace(value=status),
        entrypoint=entrypoint,
    )


class Client:
    """A job server that knows `jobs` and notes what is submitted."""

    def __init__(self, jobs):
        self.jobs = jobs
        self.submitted = []
        self.refusals = []

    def list_jobs(self):
        return self.jobs

    def submit_job(self, *, submission_id, runtime_env, metadata, **_):
        self.metadata = metadata
        if self.refusals:
            self.jobs.append(self.refusals.pop())
            raise RuntimeError("Request failed with status code 500: a job already exists.")
        folder = Path(runtime_env["working_dir"])
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.submitted.append((submission_id, sorted(path.name for path in files)))


class Followed:
    """A job server whose job runs; it is out of reach once for each error of `lost`, then ended."""

    def __init__(self, lost):
        self.lost = lost
        self.num_tails = 0

    async def tail_job_logs(self, _):
        self.num_tails += 1
        yield "all of "

    def get_job_info(self, _):
        if self.lost:
            raise self.lost.pop()
        ended = types.SimpleNamespace(value="SUCCEEDED", is_terminal=lambda: True)
        return types.SimpleNamespace(status=ended)

    def get_job_logs(self, _):
        return "all of it"


def server(*jobs):
    found = JobServer.__new__(JobServer)
    found._address, found._client = "http://head:8265", Client(list(jobs))
    return found


def test_an_id_is_made_of_job_survey_night_and_attempt():
    assert job().key.startswith("scan-Deep-Field-")
    assert job(survey="s3://sky/images").key.startswith("scan-images-")
    assert job(survey="sim:galaxies?count=9").key.startswith("scan-sim-galaxies-")
    assert job().key.endswith("-2026-11-28")
    assert job().key != job(survey="s3://sky/Deep_Field/*.fits?size=64").key
    assert job(script="jobs/train_encoder.py").key.startswith("train_encoder-")
    assert submission.re.fullmatch(r"[\w.-]+", job().key)


def test_a_head_node_that_takes_no_jobs_yet_is_told_from_a_refusal(monkeypatch):
    jobs = server()

    def no_agent(**_):
        raise RuntimeError(
            "Request failed with status code 500: No available agent to submit job, please try "
            "again later.."
        )

    monkeypatch.setattr(jobs._client, "submit_job", no_agent)
    with pytest.raises(BackendError, match="try again in a minute"):
        jobs.submit(job())


def test_a_night_of_odd_characters_is_refused():
    with pytest.raises(ConfigError, match="night is '28/11'"):
        job(night="28/11")


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_the_attempt_rises_when_the_last_one_failed_or_was_stopped(status):
    jobs = server(details(1, status, ""), details(2, status, ""), details(10, status, ""))
    submitted = jobs.submit(job())
    assert submitted.submission_id == f"{job().key}-a11"
    assert submitted.is_new
    assert jobs._client.submitted == [
        (submitted.submission_id, [script.name for script in SCRIPTS])
    ]


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED"])
def test_what_runs_or_has_succeeded_is_not_started_twice(status):
    jobs = server(details(1, "FAILED", ""), details(2, status, job().entrypoint))
    submitted = jobs.submit(job())
    assert (submitted.submission_id, submitted.is_new) == (f"{job().key}-a2", False)
    assert jobs._client.submitted == []


def test_another_survey_s_attempts_do_not_count():
    other = job(survey="s3://sky/other")
    jobs = server(details(1, "RUNNING", other.entrypoint, of=other))
    assert jobs.submit(job()).submission_id.endswith("-a1")


def test_of_two_that_submit_at_once_one_finds_the_other_s_job():
    jobs = server()
    jobs._client.refusals = [details(1, "PENDING", job().entrypoint)]
    submitted = jobs.submit(job())
    assert (submitted.submission_id, submitted.is_new) == (f"{job().key}-a1", False)


def test_a_script_that_is_named_without_its_folder_is_found_in_the_package(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/look.py").touch()
    monkeypatch.chdir(tmp_path / "mine")
    alone = dataclasses.replace(job(), script=Path("look.py"))
    assert alone.entrypoint.startswith("python mine/look.py --survey ")
    jobs = server()
    jobs.submit(alone)
    assert jobs._client.submitted[0][1] == ["look.py"]


def test_a_job_says_where_to_look_for_its_run_only_where_that_is_elsewhere(tmp_path):
    (tmp_path / "model").touch()
    for out, words in (
        ("s3://runs/x", ""),
        (str(tmp_path / "model"), ""),
        (str(tmp_path / "none"), "none is not on this machine"),
    ):
        assert words in submission._unseen(out)
        assert bool(submission._unseen(out)) == bool(words)


def test_a_job_is_followed_though_its_cluster_is_out_of_reach_for_a_moment(monkeypatch):
    monkeypatch.setattr(submission, "POLL_S", 0.0)
    jobs, lost = server(), [ConnectionError("gone"), ConnectionError("gone")]
    jobs._client = Followed(lost)
    written: list[str] = []
    assert jobs.follow("scan-a1", written.append) == 0
    assert ("".join(written), lost) == ("all of it", [])
    assert jobs._client.num_tails == 2


def test_the_log_of_a_job_that_has_ended_is_handed_out_at_once():
    jobs = server()
    jobs._client = Followed([])
    written: list[str] = []
    assert jobs.follow("scan-a1", written.append) == 0
    assert (written, jobs._client.num_tails) == (["all of it"], 0)


def test_ctrl_c_ends_the_following_of_a_job_that_says_nothing_for_long():
    class Silent:
        async def tail_job_logs(self, _):
            asyncio.get_running_loop().call_soon(self.interrupt)
            await asyncio.sleep(60)
            yield ""

        def interrupt(self):
            raise Interrupted

        def get_job_info(self, _):
            runs = types.SimpleNamespace(value="RUNNING", is_terminal=lambda: False)
            return types.SimpleNamespace(status=runs)

    jobs = server()
    jobs._client = Silent()
    with pytest.raises(Interrupted):
        jobs.follow("scan-a1", print)


def test_a_cluster_that_stays_out_of_reach_ends_the_following(monkeypatch):
    monkeypatch.setattr(submission, "LOST_TIMEOUT_S", -1.0)
    jobs = server()
    jobs._client = Followed([ConnectionError("gone")])
    with pytest.raises(BackendError, match="no Ray cluster answers at http://head:8265: gone"):
        jobs.follow("scan-a1", print)


def test_a_package_that_is_too_large_names_its_largest_file(tmp_path):
    (tmp_path / "scan.py").touch()
    (tmp_path / "weights.py").write_bytes(bytes(submission.MAX_PACKAGE_BYTES + 1))
    (tmp_path / "weights.safetensors").write_bytes(bytes(2 * submission.MAX_PACKAGE_BYTES))
    with pytest.raises(ConfigError, match=r"the largest is weights\.py"):
        server().submit(job(script=str(tmp_path / "scan.py")))
    (tmp_path / "weights.py").unlink()
    server().submit(job(script=str(tmp_path / "scan.py")))


STRAYS = ("tokens.json", ".env", "id_rsa", "table.csv", "settings.yaml", "old/secret.json")
"""What lies about in a folder, and never goes to a cluster."""


def put_strays(folder):
    for name in STRAYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret")


def test_only_code_goes_to_the_cluster(tmp_path):
    put_strays(tmp_path)
    for name in ("scan.py", "readers.py"):
        (tmp_path / name).touch()
    jobs = server()
    jobs.submit(job(script=str(tmp_path / "scan.py")))
    assert jobs._client.submitted[0][1] == ["readers.py", "scan.py"]


def test_the_package_of_ray_s_own_command_is_the_code_of_the_jobs_and_nothing_else(tmp_path):
    from ray._private.runtime_env.packaging import create_package

    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "jobs", checkout / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".rayignore", ".gitignore"):
        shutil.copy(ROOT / name, checkout)
    put_strays(checkout)
    put_strays(checkout / "jobs")
    create_package(str(checkout), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        names = {name for name in package.namelist() if not name.endswith("/")}
    assert names == {f"jobs/{script.name}" for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_job_has_a_configuration_that_can_be_looked_at_without_running_it(script):
    setting, value = ("top", 3) if script.stem == "nightly" else ("seed", 3)
    arguments = ["--survey", "sim:galaxies?count=10", "--out", "s3://runs/x"]
    config, out = read_job(script, [*arguments, f"--set={setting}={value}"])
    assert (getattr(config, setting), out) == (value, "s3://runs/x")
    with pytest.raises(ConfigError, match=r"setting typo in the flags is unknown|typo is no"):
        read_job(script, [*arguments, "--set=typo=1"])
    with pytest.raises(click.UsageError, match="survey"):
        read_job(script, ["--out", "x"])


def test_a_script_that_is_no_job_is_said_to_be_none(tmp_path):
    (tmp_path / "x.py").write_text("main = print\n")
    with pytest.raises(ConfigError, match="is no job"):
        read_job(tmp_path / "x.py", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no jobs/nothing.py, expected one of nightly, scan, train_"),
        (["scan", "--survey", "hdf", "--out", "/x", "--set", "search.kk=3"], "search.kk"),
        (["scan", "--survey", "hdf", "--out", "/x", "--typo"], "--typo"),
        (["scan", "--survey", "hdf", "--out", "/x", "--set", "k"], "expected KEY=VALUE"),
        (["scan", "--survey", "hdf", "--out", "runs/x"], "out is 'runs/x'"),
        (["nightly", "--survey", "x", "--out", "/x", "--set", "night=a/b"], "night is 'a/b'"),
        (["nightly", "--survey", "x", "--out", "/x", "--set", "finish_by=6"], "expected HH:MM"),
        (["train_flares", "--survey", "x", "--out", "/x", "--set", "method=lore"], "is 'lore'"),
    ],
)
def test_a_mistake_is_found_before_the_cluster_is_asked(arguments, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    result = CliRunner().invoke(cli, ["submit", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_a_night_that_the_job_is_told_tells_its_submissions_apart_too(monkeypatch):
    monkeypatch.chdir(ROOT)
    jobs = server()
    monkeypatch.setattr(submission, "JobServer", lambda address: jobs)
    command = ["submit", "nightly", "--survey", "s3://sky/n", "--out", "s3://runs/n"]
    for night in ("2026-11-27", "2026-11-28"):
        result = CliRunner().invoke(cli, [*command, "--set", f"night={night}"])
        assert result.exit_code == 0, result.output
        assert jobs._client.submitted[-1][0].endswith(f"-{night}-a1")
        assert jobs._client.metadata["out"] == f"s3://runs/n/{night}", "what `status` looks at"


def test_a_job_s_log_is_one_json_object_a_line(capsys, monkeypatch):
    metadata = {"metadata": {"job_submission_id": "scan-x-a1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(metadata))
    logger = logging.getLogger("astroray")
    before = logger.handlers[:], logger.level, logger.propagate
    monkeypatch.setattr(structured_logs, "_context", {})
    try:
        structured_logs.log_as_json()
        structured_logs.log_context(run="20261128T120000Z-1f3a9c02")
        logging.getLogger("astroray.pipeline").info("shard %s", "s1", extra={"facts": {"rows": 3}})
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "astroray.pipeline",
        "message": "shard s1",
        "job": "scan-x-a1",
        "run": "20261128T120000Z-1f3a9c02",
        "rows": 3,
    }


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8")
    with pytest.raises(BackendError, match=r"no Ray cluster answers at http://127\.0\.0\.1:9"):
        JobServer("http://127.0.0.1:9")
