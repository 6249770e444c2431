"""The line of long work: rewritten where somebody looks, few lines with their times in a log."""

import io
import re
import sys
import types

import pytest
from PIL import Image

from astroray import terminal
from astroray.config import load_config
from astroray.console import show_scan
from astroray.errors import AstrorayError
from astroray.execution.progress import Progress
from astroray.preview import look
from astroray.run_folders import record_of
from astroray.run_record import Counts, RejectCount
from astroray.surveys.shards import REST
from tests.runs_made import make_proof, make_record, make_run


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = types.SimpleNamespace(s=1000.0)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now.s)
    return now


def shown(clock, capsys, *, seconds: int) -> str:
    with terminal.status_line() as show:
        show("list", "list")
        for second in range(seconds):
            show("embed", f"embed {second} objects")
            clock.s += 1.0
    said = capsys.readouterr()
    return said.err or said.out


def test_a_log_has_the_time_of_each_line_and_the_last_state_of_each_stage(clock, capsys):
    lines = shown(clock, capsys, seconds=8).splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in lines)
    said = [line.partition(" ")[2] for line in lines]
    assert said == ["list", "embed 0 objects", "embed 5 objects", "embed 7 objects"]


def test_the_last_state_of_a_stage_has_the_time_at_which_it_was_reached(clock, capsys, monkeypatch):
    said_at = iter(["01:00", "02:00", "03:00"])
    monkeypatch.setattr(terminal.moments, "now", lambda: next(said_at))
    with terminal.status_line() as show:
        show("fit", "fit")
        show("fit", "fit  drawing the sample")  # too soon to be shown
        show("embed", "embed")
    said = capsys.readouterr().err.splitlines()
    assert said == ["01:00 fit", "02:00 fit  drawing the sample", "03:00 embed"]


def test_a_log_of_many_hours_has_about_a_line_a_minute(clock, capsys):
    lines = shown(clock, capsys, seconds=12 * 3600).splitlines()
    assert 12 * 60 < len(lines) < 12 * 60 + 150


def test_a_notebook_has_one_line_a_stage_that_is_written_over(clock, capsys, monkeypatch):
    kernel = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    text = shown(clock, capsys, seconds=3)
    assert text.count("\n") == 2, "a line each of list and embed"
    assert text.splitlines()[-1].split("\r")[-1] == "embed 2 objects"


def test_what_is_shorter_covers_what_it_is_written_over(clock, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "in_notebook", lambda: True)
    with terminal.status_line() as show:
        show("fit", "fit with a long note")
        clock.s += 5.0
        show("fit", "fit")
    assert capsys.readouterr().out.endswith("\r" + "fit".ljust(len("fit with a long note")) + "\n")


def test_a_terminal_shows_each_state(clock, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    with terminal.status_line() as show:
        for number in range(3):
            show("embed", f"embed {number}")
    assert re.findall(r"embed (\d)", stream.getvalue()) == ["0", "1", "2"]


def test_rests_of_windows_are_counted_but_not_held_against_the_share_that_may_be_rejected(tmp_path):
    counts = Counts(shards=1, rows_read=100, rows_embedded=89, rows_rejected=11)
    rests = RejectCount(stage="read", kind=REST, reason="window 8 has 9 of 512", rows=10, shards=0)
    empty = RejectCount(stage="read", kind="empty", reason="no flux", rows=1, shards=0)
    run = make_run(tmp_path, 3, counts=counts, rejects=(rests, empty))
    record = record_of(run.path)
    terminal.check_rejects(record, 0.01, rows="rows", result="catalog is")
    with pytest.raises(AstrorayError, match=r"^1\.0% of the rows and 0\.0% of the shards"):
        terminal.check_rejects(record, 0.005, rows="rows", result="catalog is")


@pytest.mark.parametrize(("rate", "said"), [(0.0, "0/s"), (0.34, "0.3/s"), (9.96, "10/s")])
def test_slow_work_has_a_rate_that_is_not_zero(clock, capsys, rate, said):
    progress = Progress(stage="flares", objects=7, objects_per_s=rate, shards_total=3)
    with terminal.progress_line("light curves") as show:
        show(progress)
    assert f"7 light curves  {said}  shards 0/3" in capsys.readouterr().err


def test_names_of_a_survey_neither_end_a_line_nor_steer_the_terminal(tmp_path, capsys):
    assert terminal.one_line("größe 1 \t\x1b[2J") == r"größe 1 \t\x1b[2J"
    for name in ("new\nline", "\x1b[2J"):
        Image.new("L", (32, 32)).save(tmp_path / f"{name}.png")
    assert r"2: \x1b[2J, new\nline" in str(look(str(tmp_path)))
    reject = RejectCount(stage="read", kind="corrupt", rows=1, shards=0, reason="a\nb")
    terminal.echo_rejects([reject])
    assert capsys.readouterr().out == "  corrupt: 1 rows, 0 shards; e.g. a\\nb\n"


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_a_list_that_ends_among_equal_vectors_is_noted(monkeypatch, capsys, tmp_path, threshold):
    record = make_record(
        40,
        [1.0] * 40,
        counts=Counts(shards=2, rows_read=40, rows_embedded=40, catalog=40),
        proof=make_proof(4, 40, threshold=threshold, next_bound=0.0),
    )
    monkeypatch.setattr("astroray.pipeline.scan", lambda config, show: record)
    show_scan(load_config("hdf", str(tmp_path / "run"), None, {}))
    noted = "note     the list ends with score 0: its last object and k=10 others"
    assert (noted in capsys.readouterr().out) == (threshold == 0)
