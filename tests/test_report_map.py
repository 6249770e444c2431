"""The map of a report: who is on it, what the page is told, and how a person uses it."""

import asyncio
import csv
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import astroray
from astroray import catalog, schema
from astroray.report import map as report_map
from astroray.report import rows as report_rows
from astroray.report.groups import read_groups
from astroray.report.map import layouts, read_map
from astroray.report.sky_view import SkyView
from astroray.run_record import RunRecord
from tests.browser import open_page
from tests.runs_made import NUM_TOP, make_night, make_run


def told(text):
    """What the page's script knows of the map."""
    return json.loads(re.search(r"^const MAP = (\{.*\});$", text, re.MULTILINE)[1])


def test_the_objects_of_the_map_are_in_order_of_rank_with_positions_and_scores(tmp_path):
    run = make_run(tmp_path, 120, sky="small")
    placed = read_map(run.path)
    assert placed.schema.equals(schema.MAP)
    rows = catalog.read_catalog(run.path)
    for name in ("object_id", "rank", "ra", "dec", "outlier_score", "local_outlier_factor"):
        assert placed[name].to_pylist() == rows[name].to_pylist()
    assert len(np.unique(placed["map_x"].to_numpy())) == 120


def test_few_objects_are_placed_in_the_principal_plane_alone(tmp_path):
    placed = read_map(make_run(tmp_path, 40).path)
    assert placed["map_x"].equals(placed["plane_x"])
    assert list(layouts(placed)) == ["plane"]


@pytest.mark.parametrize("broken", ["neighbor_map", "principal_plane"])
def test_a_map_that_is_not_finite_is_left_out_and_the_page_says_so(broken, tmp_path, monkeypatch):
    def diverge(*_):
        raise FloatingPointError("a position on the map of neighbors is not finite")

    monkeypatch.setattr(report_map, broken, diverge)
    run = make_run(tmp_path, 120, sky="small", state="done")
    text = run.report()
    assert "no map" in re.sub(r"\s+", " ", text)
    assert f'id="rank-{NUM_TOP}"' in text
    assert np.isnan(read_map(run.path)["map_x"].to_numpy()).all()
    if broken == "neighbor_map":
        assert list(told(text)["layouts"]) == ["plane", "sky"]
    else:
        assert "const MAP" not in text


def test_the_page_draws_what_a_notebook_gets(tmp_path):
    run = make_run(tmp_path, 120, sky="wide", state="done")
    page = told(run.report())
    frame = astroray.open_run(run.path).map()
    assert page["object_id"] == list(frame["object_id"])
    np.testing.assert_allclose(page["ra"], frame["ra"], atol=1e-8)
    places_M2 = np.stack([page["layouts"]["likeness"][axis] for axis in "xy"], axis=1)
    expected_M2 = frame[["map_x", "map_y"]].to_numpy()
    expected_M2 = expected_M2 - expected_M2.min(axis=0)
    expected_M2 *= 10_000 / expected_M2.max()
    np.testing.assert_allclose(places_M2, expected_M2, atol=0.51)
    assert list(page["layouts"]) == ["likeness", "plane", "sky"]


def test_a_sample_says_of_how_many_it_is_and_keeps_the_outliers(tmp_path, monkeypatch):
    monkeypatch.setattr(report_rows, "MAX_MAP_OBJECTS", 30)
    text = make_run(tmp_path, 160, num_pictures=10).report()
    assert "30 of 160 objects" in text
    assert told(text)["rank"][:NUM_TOP] == list(range(1, NUM_TOP + 1))
    assert len(told(text)["object_id"]) == 30


def test_east_is_left_on_the_map_of_the_sky_and_an_unknown_position_is_nowhere(tmp_path):
    run = make_run(tmp_path, 120, sky="small")
    placed = read_map(run.path)
    x_M, y_M = layouts(placed)["sky"].T
    offset_M = (placed["ra"].to_numpy() + 180) % 360  # across right ascension 0
    assert np.corrcoef(x_M, offset_M)[0, 1] < -0.999
    assert np.corrcoef(y_M, placed["dec"].to_numpy())[0, 1] > 0.999
    page = told(make_run(tmp_path / "none", 120).report())
    assert "sky" not in page["layouts"]
    assert set(page["ra"]) == {None}


def test_objects_are_told_apart_by_detector_and_by_what_a_night_changed(tmp_path):
    run = make_run(tmp_path, 120, night=make_night("none"))
    for name, shard in (("east", "ccd 12"), ("west", None)):
        path = Path(run.path) / "embeddings" / f"{name}.parquet"
        table = pq.read_table(path)
        column = pa.array([shard] * len(table), pa.string())
        pq.write_table(table.drop_columns("detector").append_column("detector", column), path)
    changes = {"object-3": "entered", "object-70": "left"}
    pq.write_table(
        pa.table({"object_id": list(changes), "change": list(changes.values())}),
        Path(run.path) / "changes.parquet",
    )
    placed, record = read_map(run.path), RunRecord.load(run.path)
    assert placed["detector"].to_pylist() == ["ccd 12", None] * 60
    change, detector = read_groups(run.path, record, placed)
    assert detector.values == ["ccd 12"]
    assert detector.value_of == [0, None] * 60
    assert change.values == ["entered the list", "left the list", "known before"]
    assert [i for i, value in enumerate(change.value_of) if value != 2] == [3, 70]
    record = dataclasses.replace(record, night=None)
    assert [group.name for group in read_groups(run.path, record, placed)] == ["detector"]


@pytest.mark.parametrize(("kind", "dec_deg"), [("MOL", 0.0), ("TAN", 88.0), ("TAN", -30.0)])
def test_a_place_on_the_sky_and_its_position_are_the_same(kind, dec_deg):
    view = SkyView(kind=kind, ra_deg=350.0, dec_deg=dec_deg)
    ra_deg_N, dec_deg_N = np.array([340.0, 359.0, 10.0]), np.array([dec_deg, dec_deg + 1, 20.0])
    found = view.positions(view.places(ra_deg_N, dec_deg_N))
    np.testing.assert_allclose(found, [ra_deg_N, dec_deg_N], atol=1e-9)
    ((_, line_P2),) = view.lines("dec", [dec_deg], along_deg=(345.0, 365.0))  # across 0
    assert (np.diff(line_P2[:, 0]) < 0).all()  # east is left


def test_text_of_the_survey_can_not_end_the_script(tmp_path):
    evil = "</script><b>\u2028'"
    text = make_run(tmp_path, 120, first_id=evil).report()
    assert told(text)["object_id"][0] == evil
    assert text.count("</script>") == 1


def test_without_embeddings_there_is_no_map_and_no_script_of_it(tmp_path):
    run = make_run(tmp_path, 120)
    shutil.rmtree(Path(run.path) / "embeddings")
    text = run.report()
    assert "const MAP" not in text
    assert 'id="map"' not in text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose page tells of its faults, and keeps what it would save."""
    made = make_run(tmp_path_factory.mktemp("map"), 160, sky="small")
    watch = """<head><script>
      window.faults = [];
      addEventListener("error", (event) => faults.push(event.message));
      URL.createObjectURL = (blob) => { window.kept = blob; return "data:,"; };
    </script>"""
    page = Path(made.path) / "page.html"
    page.write_text(made.report().replace("<head>", watch, 1), "utf-8")
    return made


def use(run, folder, act):
    """What `act` gives of the opened page, and the places of all objects in the window, [M, 2]."""

    async def drive():
        async with open_page(folder, (Path(run.path) / "page.html").as_uri()) as page:
            await page.until("document.getElementById('map-canvas')?.dataset.view")
            await page.value("document.documentElement.style.scrollBehavior = 'auto'")
            await page.value("document.getElementById('map').scrollIntoView()")
            result = await act(page)
            assert await page.value("faults.join()") == ""
            return result

    return asyncio.run(drive())


async def places(page, layout="likeness"):
    """Where the objects are in the window, from what the page says of its view."""
    await page.until("document.getElementById('map-canvas').dataset.moves === ''")
    await page.value("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")
    canvas = "document.getElementById('map-canvas')"
    view = json.loads(await page.value(f"{canvas}.dataset.view"))
    box = await page.value(f"{canvas}.getBoundingClientRect().toJSON()")
    data = told(Path(await page.value("decodeURI(location.pathname)")).read_text("utf-8"))
    x_M, y_M = (np.array(data["layouts"][layout][axis], float) for axis in "xy")
    across_M = box["left"] + view["w"] / 2 + (x_M - view["x"]) * view["scale"]
    down_M = box["top"] + view["h"] / 2 - (y_M - view["y"]) * view["scale"]
    return np.stack([across_M, down_M], axis=1), data["object_id"]


async def check_grid(page):
    """The names of the sky's lines stand where astropy puts such positions."""
    canvas = "document.getElementById('map-canvas')"
    names = json.loads(await page.value(f"{canvas}.dataset.sky"))
    assert {name["kind"] for name in names} == {"ra", "dec"}
    view = json.loads(await page.value(f"{canvas}.dataset.view"))
    data = told(Path(await page.value("decodeURI(location.pathname)")).read_text("utf-8"))
    sky = data["sky"]
    projection = SkyView(kind=sky["kind"], ra_deg=sky["ra_deg"], dec_deg=sky["dec_deg"])
    for name in names:
        x = ((name["x"] - view["w"] / 2) / view["scale"] + view["x"]) / sky["unit"] + sky["low"][0]
        y = ((view["h"] / 2 - name["y"]) / view["scale"] + view["y"]) / sky["unit"] + sky["low"][1]
        found = dict(zip(("ra", "dec"), projection.positions(np.array([[x, y]])), strict=True))
        away_deg = (found[name["kind"]][0] - name["deg"] + 180) % 360 - 180
        assert abs(away_deg) < 1e-6


def click(name):
    return f"document.querySelector('{name}').click()"


@pytest.mark.browser
def test_a_box_selects_what_lies_in_it_and_its_csv_has_the_catalogs_positions(run, tmp_path):
    async def act(page):
        await page.value(click("#map-pictures"))
        await page.value(click("[data-drag=box]"))
        at_M2, ids = await places(page)
        low_2, high_2 = np.quantile(at_M2, 0.3, axis=0), np.quantile(at_M2, 0.8, axis=0)
        await page.drag(tuple(low_2), tuple(high_2))
        is_in_M = ((at_M2 > low_2) & (at_M2 < high_2)).all(axis=1)
        expected = [name for name, is_in in zip(ids, is_in_M, strict=True) if is_in]
        await page.until(f"document.getElementById('map-count').textContent === '{len(expected)}'")
        listed = await page.value(
            "[...document.querySelectorAll('#map-rows button')].map((b) => b.textContent)"
        )
        shown = "[...document.querySelectorAll('#map-gallery img')].map((one) => one.alt)"
        assert await page.value(shown) == [f"Picture of {name}" for name in expected]
        await page.value(click("#map-save"))
        saved = await page.value("kept.text()")
        await page.value("document.getElementById('map-canvas').focus()")
        await page.press("Escape")
        is_hidden = await page.value("document.getElementById('map-selected').hidden")
        return expected, listed, saved, is_hidden

    expected, listed, saved, is_hidden = use(run, tmp_path, act)
    assert 10 < len(expected) < 100
    assert listed == expected
    assert is_hidden
    rows = {row["object_id"]: row for row in catalog.read_catalog(run.path).to_pylist()}
    found = list(csv.DictReader(io.StringIO(saved)))
    assert [row["object_id"] for row in found] == expected
    for row in found:
        truth = rows[row["object_id"]]
        assert float(row["ra"]) == pytest.approx(truth["ra"], abs=1e-8)
        assert float(row["dec"]) == pytest.approx(truth["dec"], abs=1e-8)
        assert int(row["rank"]) == truth["rank"]
        assert float(row["outlier_score"]) == pytest.approx(truth["outlier_score"], rel=1e-6)


@pytest.mark.browser
def test_the_map_is_used_by_keys_alone_and_leads_to_the_cards_and_back(run, tmp_path):
    shown = "document.querySelector('#map-one .id').textContent"
    count = "document.getElementById('map-count').textContent"

    async def act(page):
        await page.value("document.getElementById('map-canvas').focus()")
        await page.press("p")
        await page.until(f"{shown} === 'object-{NUM_TOP - 1}'")
        await page.press("n")
        await page.until(f"{shown} === 'object-0'")
        await page.press(" ")
        await page.until(f"{count} === '1'")
        await page.press("0")
        await page.press("a")
        await page.until(f"{count} === '160'")
        await page.press("+")
        await page.press("+")
        await page.press("ArrowLeft")
        await page.press("a")
        await page.until(f"{count} !== '160'")
        await page.press("Enter")
        await page.until("location.hash === '#rank-1'")
        await page.value(click("#rank-3 .on-map"))
        await page.until(f"{shown} === 'object-2'")
        return await page.value("document.activeElement.id")

    assert use(run, tmp_path, act) == "map-canvas"


@pytest.mark.browser
def test_an_object_is_found_by_id_clicked_and_followed_to_the_sky(run, tmp_path):
    shown = "document.querySelector('#map-one .id').textContent"
    words = "document.getElementById('map-told').textContent"

    def choose(name, value):
        return (
            f"(() => {{ const one = document.getElementById('{name}'); one.value = '{value}'; "
            "one.dispatchEvent(new Event(one.tagName === 'SELECT' ? 'change' : 'input')); })()"
        )

    async def act(page):
        await page.value(click("#map-pictures"))
        await page.value(choose("map-find", "object-77"))
        assert await page.value(shown) == "object-77"
        await page.value(choose("map-find", "nobody"))
        assert "none of the 160 objects" in await page.value(words)
        at_M2, ids = await places(page)
        near_M = np.linalg.norm(at_M2 - at_M2[77], axis=1)
        middle = await page.value(
            "(({ left, top, width, height }) => [left + width / 2, top + height / 2])"
            "(document.getElementById('map-canvas').getBoundingClientRect())"
        )
        np.testing.assert_allclose(at_M2[77], middle, atol=0.5)  # it was brought to the middle
        other = int(near_M.argsort()[1])
        await page.drag(tuple(at_M2[other]), tuple(at_M2[other]))
        await page.until(f"{shown} === '{ids[other]}'")
        await page.value(choose("map-color", "mahalanobis_distance"))
        assert "Mahalanobis" in await page.value("document.getElementById('map-legend').innerText")
        await page.value(choose("map-layout", "sky"))
        at_M2, ids = await places(page, "sky")
        await check_grid(page)
        box = await page.value(
            "document.getElementById('map-canvas').getBoundingClientRect().toJSON()"
        )
        assert box["left"] < at_M2[:, 0].min()
        assert at_M2[:, 0].max() < box["right"]
        await page.value(choose("map-layout", "plane"))
        await page.value(choose("map-layout", "sky"))
        await page.value(choose("map-find", "object-9"))  # while all are on their way
        went_M2, _ = await places(page, "sky")
        np.testing.assert_allclose(went_M2[9], middle, atol=0.5)
        await page.value(click('[data-zoom="0"]'))
        at_M2, ids = await places(page, "sky")
        alone = int(np.sort(np.linalg.norm(at_M2[:, None] - at_M2, axis=2))[:, 1].argmax())
        await page.drag(tuple(at_M2[alone]), tuple(at_M2[alone]))
        await page.until(f"{shown} === '{ids[alone]}'")
        size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        await page.call("Emulation.setDeviceMetricsOverride", **size)
        return await page.value("document.documentElement.scrollWidth")

    assert use(run, tmp_path, act) <= 390
