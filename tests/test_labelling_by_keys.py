"""How a person labels by keys, in a browser, beside another person."""

import asyncio

import pytest

from astroray.catalog.versions import read_version
from astroray.labelling.labels import LabelLog, current_labels
from astroray.report.page import write_report
from tests.browser import open_page
from tests.labelling_page import serve_labelling
from tests.served_run import link_run, make_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("labelled"))


@pytest.fixture
def run_dir(whole_run, tmp_path):
    return link_run(whole_run, tmp_path / "run")


@pytest.fixture
def served(run_dir):
    """The page on a port of its own, with two people's addresses."""
    with serve_labelling(run_dir, ["ana", "bo"]) as (address, secret_of):
        login = f"{address}/ui/login#token="
        yield {name: login + secret for name, secret in secret_of.items()}


def test_a_person_labels_by_keys_undoes_reloads_and_another_one_is_not_in_the_way(
    served, run_dir, tmp_path
):
    ready = 'document.body.dataset.ready === "yes"'
    shown = 'document.getElementById("id").textContent'
    mine = 'document.querySelectorAll("#mine button").length'

    async def use():
        async with (
            open_page(tmp_path / "ana", served["ana"]) as ana,
            open_page(tmp_path / "bo", served["bo"]) as bo,
        ):
            await asyncio.gather(ana.until(ready), bo.until(ready))
            assert "token" not in await ana.value("location.href")
            first = await ana.value(shown)
            assert await bo.value(shown) == first
            await ana.press("5")
            await ana.until(f'{shown} !== "{first}"')
            await bo.press("2")
            await bo.until(f"{mine} === 1")
            await ana.press("1")
            await ana.until(f"{mine} === 2")
            await ana.press("u")
            await ana.until(f"{mine} === 1")
            await ana.press("j")
            await ana.press("k")
            await ana.call("Page.reload")
            await ana.until(f"{ready} && {mine} === 1")
            assert await ana.value(shown) != first  # what has a label is not asked again
            kept = await ana.value('document.querySelector("#mine button").dataset.interest')
            loaded = await ana.value(
                'performance.getEntriesByType("resource").every((e) => new URL(e.name).host'
                " === location.host)"
            )
            size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
            await ana.call("Emulation.setDeviceMetricsOverride", **size)
            large = 'document.getElementById("large").getBoundingClientRect()'
            tall = await ana.value(f"Math.round({large}.height - {large}.width)")
            wide = await ana.value("document.documentElement.scrollWidth")
            return first, kept, loaded, tall, wide

    first, kept, loaded, tall, wide = asyncio.run(use())
    assert (kept, loaded) == ("5", True)
    assert tall == 0  # on a phone a square picture is square
    assert wide <= 390  # and nothing sticks out
    standing = {(x.object_id, x.user): x.interest for x in current_labels(LabelLog(run_dir).read())}
    assert standing == {(first, "ana"): 5, (first, "bo"): 2}


def test_what_is_drawn_around_on_the_served_map_comes_next_and_its_labels_color_the_map(
    served, run_dir, tmp_path
):
    write_report(run_dir)
    ready = 'document.body.dataset.ready === "yes"'
    told = 'document.getElementById("source-told").textContent'
    color = """(() => {
        const one = document.getElementById("map-color"); one.value = "said-interest";
        one.dispatchEvent(new Event("change")); return one.value; })()"""
    legend = (
        '[...document.querySelectorAll("#map-legend .part")].map((one) => one.innerText).join()'
    )

    async def use():
        async with open_page(tmp_path / "ana", served["ana"]) as page:
            await page.until(ready)
            await page.value('location.assign("/ui/report")')
            await page.until('document.getElementById("map-canvas")?.dataset.view')
            first = await page.value('document.querySelector("#map-one .rank").textContent')
            await page.value("window.open = (path) => { location.assign(path); return window; }")
            await page.value('document.getElementById("map-canvas").focus()')
            for key in ("n", "n", " ", "n", " "):  # ranks 3 and 4, without the mouse
                await page.press(key)
            drawn = '[...document.querySelectorAll("#map-one img, #map-gallery img")]'
            await page.until(f"{drawn}.filter((one) => one.naturalWidth > 0).length === 3")
            await page.press("l")
            await page.until(f'location.pathname === "/ui" && {ready}')
            before = await page.value(told)
            await page.press("4")
            await page.until(f'{told}.includes("1 of 2")')
            await page.press("5")
            await page.until('document.getElementById("why").dataset.why !== "map"')
            gone = await page.value('document.getElementById("source").hidden')
            await page.value('location.assign("/ui/report")')
            await page.until('document.getElementById("map-canvas")?.dataset.view')
            assert await page.value(color) == "said-interest"
            await page.until(f'{legend}.includes("4 interesting")')
            return first, before, gone, await page.value(legend)

    first, before, gone, legend = asyncio.run(use())
    assert first == "1"
    assert before == "From the map, by likeness: 2 of 2 still to be labelled"
    assert gone
    assert "4 interesting\n1" in legend
    assert "5 follow up\n1" in legend
    rows = {row["rank"]: row["object_id"] for row in read_version(run_dir).to_pylist()}
    said = [(one.object_id, one.interest, one.why) for one in LabelLog(run_dir).read()]
    assert said == [(rows[3], 4, "map"), (rows[4], 5, "map")]
