"""The page of a result: where it is found, how it is opened, and how a notebook has it."""

import html
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

import astroray
from astroray import pages
from astroray.cli import cli
from astroray.errors import ConfigError, StorageError
from astroray.labelling.labels import Label, LabelLog
from astroray.notebook import Framed
from astroray.run_record import RunRecord
from tests.runs_made import make_run


@pytest.fixture
def opened(monkeypatch):
    """Addresses that a browser was asked to open, on a machine with a display."""
    asked: list[str] = []
    monkeypatch.setenv("DISPLAY", ":9")
    monkeypatch.setattr(pages.webbrowser, "open", lambda address: not asked.append(address))
    return asked


@pytest.fixture
def run(tmp_path):
    made = make_run(tmp_path, 120, state="done")
    made.report()
    return made


def test_the_page_of_a_run_of_a_folder_of_runs_and_of_other_results_is_opened(
    run, tmp_path, opened
):
    page = Path(run.path) / "report" / "index.html"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text("an evaluation")
    (tmp_path / "q.safetensors.html").write_text("a model")
    for name, expected in (
        (run.path, page),
        (str(tmp_path), page),  # which holds one version
        (f"{tmp_path}/other", tmp_path / "other" / "index.html"),
        (f"{tmp_path}/q.safetensors", tmp_path / "q.safetensors.html"),
    ):
        answer = CliRunner().invoke(cli, ["report", name])
        assert answer.output == f"page  {expected}\n", answer.output
        assert opened.pop() == expected.as_uri()


def test_without_a_display_the_page_is_named_and_no_terminal_browser_starts(
    run, opened, monkeypatch
):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    answer = CliRunner().invoke(cli, ["report", run.path])
    assert answer.exit_code == 0
    assert "copy the page to a machine that has one" in answer.output
    assert not opened
    with pytest.warns(UserWarning, match="no browser can be opened here"):
        astroray.open_run(run.path).show()


def test_a_page_is_written_again_and_what_has_none_says_what_was_expected(run, tmp_path, opened):
    page = Path(run.path) / "report" / "index.html"
    page.write_text("of another version")
    answer = CliRunner().invoke(cli, ["report", run.path, "--again", "--no-browser"])
    assert answer.exit_code == 0, answer.output
    assert "const MAP" in page.read_text()
    assert not opened
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=r"has no page, expected .*report/index.html or"):
        pages.find_page(f"{tmp_path}/none")
    with pytest.raises(ConfigError, match="expected the --out of a scan or night"):
        pages.rewrite_page(f"{tmp_path}/none")
    shutil.rmtree(page.parent)
    page.parent.write_text("where a folder would have to be")
    with pytest.raises(StorageError, match=r"/report: .* --self-contained --out DIR` makes a copy"):
        pages.rewrite_page(run.path)


def test_the_page_of_flares_is_written_by_its_own_command_which_is_said(tmp_path):
    record = RunRecord(
        survey="k2", fingerprint="f", config={"rule": {}}, created="2026-01-01T00:00:00Z",
        state="done",
    )  # fmt: skip
    record.publish(str(tmp_path))
    answer = CliRunner().invoke(cli, ["report", str(tmp_path), "--again"])
    assert answer.exit_code == 2
    assert "the command that began the run writes its page anew" in answer.output


def test_a_notebook_has_the_page_in_a_frame_that_reaches_nothing_else(run, opened, monkeypatch):
    kernel = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    shown = astroray.open_run(run.path).show(height_px=500)
    assert isinstance(shown, Framed)
    assert not opened
    frame = shown._repr_html_()
    page = re.search(r'srcdoc="([^"]*)"', frame)[1]
    assert html.unescape(page) == Path(run.path, "report", "index.html").read_text("utf-8")
    assert "height:500px" in frame
    assert "allow-same-origin" not in frame
    assert len(repr(shown)) < 100


def test_labels_are_a_frame_beside_the_catalog(run):
    log = LabelLog(run.path)
    log.append(Label(object_id="object-7", user="ana", model_id="m0", interest=4, why="map"))
    frame = astroray.open_run(run.path).labels()
    assert frame[["object_id", "rank", "interest", "why"]].to_numpy().tolist() == [
        ["object-7", 8, 4, "map"]
    ]
