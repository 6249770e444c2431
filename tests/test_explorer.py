"""The report as a notebook's widget: what is selected on its map, said by either side."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

import astroray
from astroray.errors import ConfigError
from astroray.explorer import Explorer
from tests.browser import open_page
from tests.runs_made import make_run

HOST = """<!doctype html><body style="margin:0"><div id="cell"></div><script>
const state = STATE, heard = [], listeners = new Set();
window.model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; for (const one of listeners) one(); },
  save_changes: () => heard.push(state.object_ids),
  on: (what, one) => listeners.add(one), off: (what, one) => listeners.delete(one),
};
window.heard = heard; window.listeners = listeners;
const code = new Blob([MODULE], { type: "text/javascript" });
import(URL.createObjectURL(code)).then(({ default: widget }) => {
  window.end = widget.render({ model, el: document.getElementById("cell") });
});
</script>"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("explorer"), 160, state="done")
    made.report()
    return astroray.open_run(made.path)


def test_what_is_selected_is_a_frame_by_rank_and_strangers_are_refused(run):
    view = run.explore(height_px=500)
    assert "height:500px" in view.frame
    assert len(view.selected) == 0
    ids = list(run.to_pandas()["object_id"])
    view.select([ids[5], ids[2]])
    assert view.object_ids == [ids[2], ids[5]]
    view.object_ids = [ids[9], ids[1]]  # as the page says it
    assert list(view.selected["rank"]) == [2, 10]
    assert view.selected.equals(run.to_pandas().iloc[[1, 9]].reset_index(drop=True))
    with pytest.raises(ConfigError, match="no object 'nobody' in"):
        view.select(["nobody"])


def test_what_is_missing_for_a_widget_is_said(run, tmp_path, monkeypatch):
    made = make_run(tmp_path, 30, state="done")
    page = Path(made.path) / "report" / "index.html"
    made.report()
    page.write_text(page.read_text("utf-8").replace("hearHost", "other"), "utf-8")
    with pytest.raises(ConfigError, match=r"write it with `astroray report .* --again`"):
        astroray.open_run(made.path).explore()
    monkeypatch.delitem(sys.modules, "astroray.explorer")
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ConfigError, match=r"anywidget .*pip install 'astroray\[notebook\]'"):
        run.explore()


@pytest.mark.browser
def test_the_page_and_the_notebook_tell_each_other_what_is_selected(run, tmp_path):
    ids = list(run.to_pandas()["object_id"])
    state = {"frame": run.explore(height_px=900).frame, "object_ids": [ids[7]]}
    module = Explorer._esm if isinstance(Explorer._esm, str) else str(Explorer._esm)
    text = HOST.replace("MODULE", json.dumps(module)).replace("STATE", json.dumps(state), 1)
    host = tmp_path / "host.html"
    host.write_text(text.replace("</script>", "<\\/script>", text.count("</script>") - 1), "utf-8")

    async def act(page):
        await page.until("window.end")
        asked = json.dumps([ids[3], "stranger", ids[5]])
        await page.value(f"model.set('object_ids', {asked})")
        await page.until("heard.length")
        told = await page.value("heard.at(-1)")
        while await page.value("heard.length") < 2:  # until the frame has the focus
            await page.drag((60, 760), (60, 760))  # a corner of the map, where the page goes
            await page.press("a")
        everything = await page.value("heard.at(-1)")
        await page.press("Escape")
        await page.until("heard.length > 2")
        nothing = await page.value("heard.at(-1)")
        await page.value("end()")
        return told, everything, nothing, await page.value("listeners.size")

    async def drive():
        still = "--force-prefers-reduced-motion"
        async with open_page(tmp_path / "profile", host.as_uri(), still) as page:
            return await act(page)

    told, everything, nothing, num_listeners = asyncio.run(drive())
    assert told == [ids[3], ids[5]]
    assert everything == ids
    assert nothing == []
    assert num_listeners == 0
