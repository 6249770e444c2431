"""The command line: messages and exit codes, without starting Ray."""

import signal
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from astroray import __version__
from astroray.cli import cli
from astroray.errors import BackendError
from astroray.evaluation.protocols import PROTOCOLS
from astroray.interrupts import Interrupted, raise_on_signals
from astroray.run_record import RunRecord


def run(*arguments):
    return CliRunner().invoke(cli, list(arguments))


def test_help_names_every_verb():
    text = run("--help").output
    assert cli.commands.keys() <= set(text.split())
    assert {"scan", "status", "verify", "train", "evaluate", "doctor"} <= cli.commands.keys()


@pytest.mark.parametrize("group", ["", "evaluate", "flares", "token", "train"])
def test_what_a_verb_does_is_said_whole_in_one_line(group):
    listed = run(*group.split(), "--help").output.partition("Commands:")[2].strip().splitlines()
    assert len(listed) >= 2
    for line in listed:
        assert line.endswith("."), line
        assert not line.endswith("..."), line


def test_help_names_every_protocol():
    words = run("evaluate", "outliers", "--help").output.replace(",", " ").split()
    assert set(PROTOCOLS) <= set(words)


@pytest.mark.parametrize(
    ("words", "kind"),
    [(["report"], "file"), (["scan"], "file"), (["scan", "a", "--out"], "file"), ([], "plain")],
)
def test_tab_completes_verbs_and_paths(words, kind):
    found = ShellComplete(cli, {}, "astroray", "_ASTRORAY_COMPLETE").get_completions(words, "st")
    assert {(item.value, item.type) for item in found} == {
        ("status" if kind == "plain" else "st", kind)
    }


def test_bytes_that_are_no_text_are_refused_by_name():
    """As a terminal of Latin-1 sends them, and as any text is in a locale that is not UTF-8."""
    for word in (b"G\xf6tz 7", "Götz 7".encode()):
        ended = run("explain", "x", word.decode("ascii", "surrogateescape"))
        assert ended.exit_code == 2
        assert "G\\x" in ended.output
        assert "expected UTF-8" in ended.output


def test_version_is_the_package_s():
    assert __version__ in run("--version").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan", "hdf", "--out", "x", "--set", "k"], "expected KEY=VALUE"),
        (
            ["scan", "hdf", "--out", "x", "--set", "search.kk=3"],
            "search.kk in the flags is unknown",
        ),
        (["scan", "hdf", "--out", "x", "--config", "missing.yaml"], "missing.yaml is missing"),
        (["scan", "hdf", "--out", ""], "out is empty"),
        (["simulate", "sim:galaxies?count=-1", "--out", "x"], "count"),
        (["bench", "nothing"], "no benchmarks/nothing.py"),
        (["scan", "hdf", "--out", "x", "--set", "k=3"], "; did you mean search.k?"),
        (["scan", "hdf", "--out", "x", "--set", "serach.k=3"], "; did you mean search?"),
        (["scan", "hdf", "--out", "x", "--set", "fit.num_pass=3"], "did you mean fit.num_passes?"),
        (
            ["scan", "a/1.fits", "a/2.fits", "a/3.fits", "--out", "x"],
            "the next is a/2.fits. A glob",
        ),
        (["scan", "gs://sky/a.fits", "--out", "x"], "gs:// is not read: download"),
        (["scan", "hdf?treshold=4", "--out", "x"], "; did you mean threshold=?"),
        (["scan", "sim:galaxie?count=9", "--out", "x"], "; did you mean sim:galaxies?"),
        (["scan", "hdf", "--out", "x", "--set", "=3"], "expected KEY=VALUE"),
        (["scan", "hdf", "--out", "x", "--set", "search.k=["], "whose value is not YAML"),
        (["scan", "hdf", "--out", "x", "--set", "workers=abc"], "workers is 'abc', expected auto"),
        (["scan", "hdf", "--out", "x", "--set", "wrokers=3"], "; did you mean workers?"),
        (["scan", "hdf", "--out", "x", "--set", "out=y"], "expected it to be named by the command"),
        (
            ["nightly", "--survey", "a", "--reference", "b", "--out", "c", "--workers", "3..1"],
            "workers is '3..1', expected auto, N, or MIN..MAX",
        ),
        (["flares", "forecast", "a", "--model", "none", "--out", "x"], "none is missing; check"),
        (["flares", "find", "a", "--out", "x", "--workers", "some"], "workers is 'some', expected"),
        (["evaluate", "flares", "--data", "none"], "is not there; --data DIR must hold"),
        (["evaluate", "flares", "--track", "light-curves", "--data", "none"], "is not there; --da"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_exit_code_2(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_benchmark_may_start_processes_that_find_its_functions(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "probe.py").write_text(
        "import multiprocessing, sys\n"
        "def work(queue):\n"
        "    queue.put(7)\n"
        "if __name__ == '__main__':\n"
        "    spawn = multiprocessing.get_context('spawn')\n"
        "    queue = spawn.Queue()\n"
        "    spawn.Process(target=work, args=(queue,)).start()\n"
        "    sys.exit(queue.get(timeout=60) + len(sys.argv[1:]))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run("bench", "probe", "--quick").exit_code == 8


@pytest.mark.parametrize(
    "command",
    [
        "status RUN",
        "verify RUN",
        "retry-rejects RUN",
        "similar RUN m31",
        "explain RUN m31",
        "report RUN --again",
        "label RUN",
        "label RUN --export labels.csv",
        "serve RUN",
        "export RUN --format csv --out rows.csv",
        "export RUN --self-contained --out whole",
        "prune RUN --keep RUN/newer",
        "nightly --survey hdf --reference RUN --out night",
    ],
)
def test_a_folder_without_a_run_is_said_to_be_one(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*command.replace("RUN", str(tmp_path / "runs")).split())
    assert result.exit_code == 2, result.output
    assert "runs holds no run.json, expected the --out of a " in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_says_what_there_is():
    result = run("doctor")
    names = ("processor", "memory", "temporary files", "FAISS", "exact neighbors", "GPU", "S3")
    for name in names:
        assert f"{name} " in result.output
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (
            "astroray, astroray.cli, astroray.surveys, astroray.catalog, astroray.ledger",
            ("torch", "ray", "faiss"),
        ),
        (
            "astroray.pipeline",
            ("torch", "ray", "faiss", "astropy", "boto3", "requests", "scipy.stats"),
        ),
        (
            "astroray.inspection, astroray.explain, astroray.submission",
            ("torch", "ray", "faiss", "astropy", "boto3", "requests", "scipy", "pandas"),
        ),
        ("astroray.evaluation.own_labels, astroray.evaluation.own_page", ("torch", "ray", "faiss")),
    ],
    ids=["command", "driver", "look", "labels"],
)
def test_importing_astroray_loads_neither_torch_nor_ray_and_help_neither(modules, unwanted):
    code = f"import sys, {modules}\nprint([name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_simulate_writes_shards_and_truth(tmp_path):
    result = run("simulate", "sim:galaxies?count=30&size=16&shard_rows=20", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "shards").iterdir())) == 2
    assert (tmp_path / "truth.parquet").is_file()


def test_ctrl_c_says_that_the_same_command_goes_on(monkeypatch, tmp_path):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setattr("astroray.cli.show_scan", interrupt)
    result = run("scan", "hdf", "--out", str(tmp_path / "run"))
    assert result.exit_code == 130
    assert "interrupted; what is done stays, the same command goes on" in result.output


INTERRUPTED_TWICE = """
import os, signal, sys
from astroray.job_command import one_line_errors
number = signal.Signals[sys.argv[1]]
usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
signal.signal(number, usual)  # under nohup, or behind an &, it would be ignored
with one_line_errors():
    try:
        os.kill(os.getpid(), number)
    finally:
        os.kill(os.getpid(), number)
        print("put away", flush=True)
        for _ in sys.argv[2:]:
            os.kill(os.getpid(), number)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "again"),
    [
        (["SIGINT"], 130, "press Ctrl-C once more to leave at once"),
        (["SIGTERM"], 143, "send it once more to leave at once"),
        (["SIGHUP", "once more"], -1, "send it once more to leave at once"),
    ],
)
def test_a_second_signal_does_not_tear_what_the_first_one_ends_and_a_third_does(
    arguments, code, again
):
    command = [sys.executable, "-c", INTERRUPTED_TWICE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "put away\n"), done.stderr
    assert again in done.stderr
    assert ("the same command goes on" in done.stderr) == (code > 0)
    assert "Traceback" not in done.stderr


def test_a_signal_is_named_where_ray_raises_its_own_error_for_it():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's, once a test has started it
    try:
        with pytest.raises(KeyboardInterrupt), raise_on_signals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Interrupted().exit_code == 143
    assert str(Interrupted()).startswith("interrupted by SIGTERM; what is done stays")
    with raise_on_signals():
        assert Interrupted().exit_code == 130  # of a later command


def test_a_module_of_an_extra_that_is_missing_is_named_with_its_extra(tmp_path):
    without = "import sys; sys.modules['fastapi'] = None; from astroray.cli import cli; cli()"
    command = [sys.executable, "-c", without, "token", "list", "--tokens", tmp_path / "tokens.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "astroray: fastapi is not installed, and this needs it; pip install 'astroray[serve]'\n"
    )


def test_a_sound_run_that_did_not_end_is_not_called_done(tmp_path):
    RunRecord(
        survey="made", fingerprint="f", config={}, created="2026", state="failed"
    ).publish(str(tmp_path))  # fmt: skip
    result = run("verify", str(tmp_path))
    assert "the run is failed, not done" in result.output


def no_cluster(address):
    raise BackendError("no Ray cluster answers")


def test_a_status_of_no_folder_says_so_before_it_speaks_of_a_cluster(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    result = run("status", "nihgt-1")
    assert result.exit_code == 1
    assert "nihgt-1 is no folder here, and as a submission id" in result.output
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("astroray.submission.JobServer", no_cluster)
    for verb in ("status", "cancel"):  # one code for one cause, whichever verb meets it
        assert run(verb, "nihgt-1").exit_code == 1
