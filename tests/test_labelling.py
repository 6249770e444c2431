"""The labelling page: what it asks for, what it takes, who may use it, and how by keys."""

import asyncio
import io
import socket
import threading
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from astroray.catalog.versions import read_version
from astroray.errors import ConfigError, StorageError
from astroray.labelling.label_server import export_labels, labelling_app
from astroray.labelling.labels import LabelLog, current_labels
from astroray.report.page import write_report
from astroray.web.listening import listen
from astroray.web.security import COOKIE
from tests.browser import open_page
from tests.labelling_page import serve_labelling
from tests.served_run import link_run, make_curve_run, make_run


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("labelled"))


@pytest.fixture
def run_dir(whole_run, tmp_path):
    return link_run(whole_run, tmp_path / "run")


@pytest.fixture
def clients(run_dir):
    """A client for each of two people."""
    with labelling_app(run_dir, ["ana", "bo"]) as (app, secret_of):
        yield {
            name: TestClient(app, headers={"Authorization": f"Bearer {secret}"})
            for name, secret in secret_of.items()
        }


def test_the_page_needs_a_token_and_its_login_page_does_not(clients):
    stranger = TestClient(clients["ana"].app)
    assert stranger.get("/ui").status_code == 401
    assert stranger.post("/ui/queue", json={}).status_code == 401
    login = stranger.get("/ui/login")
    assert login.status_code == 200
    assert "script-src 'nonce-" in login.headers["content-security-policy"]
    page = clients["ana"].get("/ui")
    assert "labelling as <b>ana</b>" in page.text
    assert "http://" not in page.text


def test_a_session_keeps_the_token_in_a_cookie_that_no_script_reads(clients):
    answer = clients["ana"].post("/ui/session")
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    stranger = TestClient(clients["ana"].app, cookies={COOKIE: answer.cookies[COOKIE]})
    assert stranger.get("/ui").status_code == 200
    ports = [TestClient(stranger.app, base_url=f"http://here:{port}") for port in (81, 82)]
    bearer = {"Authorization": clients["ana"].headers["Authorization"]}
    names = [list(one.post("/ui/session", headers=bearer).cookies) for one in ports]
    assert names == [[f"{COOKIE}_81"], [f"{COOKIE}_82"]]
    assert ports[0].get("/ui").status_code == 200


def test_a_page_does_not_label_in_the_name_of_who_logged_in_after_it(clients, run_dir):
    assert '"X-Astroray-User": "ana"' in clients["ana"].get("/ui").text
    bo = clients["bo"]
    said = {"object_id": bo.post("/ui/queue", json={}).json()["objects"][0]["object_id"]}
    for page, status in (("ana", 409), ("bo", 200)):
        headers = {"X-Astroray-User": page}
        answer = bo.post("/ui/labels", json=said | {"interest": 3}, headers=headers)
        assert answer.status_code == status
    assert [label.user for label in LabelLog(run_dir).read()] == ["bo"]


def test_a_log_that_cannot_be_read_or_written_is_said_in_json(clients, run_dir, monkeypatch):
    ana = clients["ana"]
    said = {"object_id": ana.post("/ui/queue", json={}).json()["objects"][0]["object_id"]}

    def fail(path, data):
        raise StorageError("no space left")

    with monkeypatch.context() as full:
        full.setattr("astroray.labelling.labels.storage.publish", fail)
        answers = [ana.post("/ui/labels", json=said | {"interest": 3})]
    (Path(run_dir) / "labels").mkdir(exist_ok=True)
    (Path(run_dir) / "labels" / "other-0000.jsonl").write_text("half a line")
    answers.append(ana.post("/ui/queue", json={}))
    for answer in answers:
        assert answer.status_code == 503
        assert answer.json() == {
            "detail": "the server cannot read or write its files now; its log says why"
        }


def test_the_first_round_is_the_certified_list_and_labels_change_the_next(clients, run_dir):
    ana = clients["ana"]
    first = ana.post("/ui/queue", json={"size": 20}).json()
    by_rank = [one for one in first["objects"] if one["why"] != "audit"]
    assert [one["rank"] for one in by_rank] == list(range(1, 20))
    assert [one["why"] for one in by_rank] == ["certified"] * 5 + ["ranked"] * 14
    for number, one in enumerate(first["objects"]):
        said = {"object_id": one["object_id"], "interest": 5 if number < 3 else 1}
        answer = ana.post("/ui/labels", json=said)
        assert answer.json()["progress"]["mine"] == number + 1
    second = ana.post("/ui/queue", json={"size": 10}).json()
    assert "learnt" in {one["why"] for one in second["objects"]}
    seen = {one["object_id"] for one in first["objects"]}
    assert seen.isdisjoint(one["object_id"] for one in second["objects"])
    assert second["progress"]["interesting"] == 3
    others = clients["bo"].post("/ui/queue", json={"size": 100}).json()
    assert {one["object_id"] for one in others["objects"]} & seen  # bo has not seen them yet
    assert others["progress"] | {"mine": 0} == others["progress"]


def test_undo_takes_back_ones_own_last_label_alone(clients, run_dir):
    ana, bo = clients["ana"], clients["bo"]
    (one,) = ana.post("/ui/queue", json={"size": 1}).json()["objects"]
    for client, interest in ((ana, 2), (ana, 4), (bo, 5)):
        client.post("/ui/labels", json={"object_id": one["object_id"], "interest": interest})
    answer = ana.post("/ui/undo", json={}).json()
    assert answer["undone"]["interest"] == 4
    assert answer["object"]["object_id"] == one["object_id"]
    standing = {label.user: label.interest for label in current_labels(LabelLog(run_dir).read())}
    assert standing == {"ana": 2, "bo": 5}
    ana.post("/ui/undo", json={})
    assert ana.post("/ui/undo", json={}).status_code == 404
    assert [one["interest"] for one in bo.get("/ui/labelled").json()["objects"]] == [5]


def test_two_undos_at_once_take_back_two_labels(clients, run_dir, monkeypatch):
    ana = clients["ana"]
    (one,) = ana.post("/ui/queue", json={"size": 1}).json()["objects"]
    for interest in (2, 4):
        ana.post("/ui/labels", json={"object_id": one["object_id"], "interest": interest})
    append, undone = LabelLog.append, []

    def undo():
        undone.append(ana.post("/ui/undo", json={}).json()["undone"]["interest"])

    second = threading.Thread(target=undo)

    def slow(log, label):
        if second.ident is None:
            second.start()
            second.join(timeout=0.3)  # as far as it gets before this one is written
        return append(log, label)

    monkeypatch.setattr(LabelLog, "append", slow)
    undo()
    second.join()
    assert sorted(undone) == [2, 4]


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_listened_on_and_printed_in_brackets(host):
    try:
        with listen(host, 0) as (listening, address):
            assert listening.family == socket.AF_INET6
            assert address == f"http://[::1]:{listening.getsockname()[1]}"
    except ConfigError as error:
        pytest.skip(f"no IPv6 here: {error}")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"object_id": "nothing", "interest": 3}, 404),
        ({"object_id": "KNOWN", "interest": 9}, 422),
        ({"object_id": "KNOWN"}, 422),
        ({"object_id": "KNOWN", "kind": "a\x07b"}, 422),
        ({"interest": 3}, 422),
    ],
)
def test_what_is_no_label_is_refused_and_not_written(clients, run_dir, said, status):
    known = clients["ana"].post("/ui/queue", json={"size": 1}).json()["objects"][0]["object_id"]
    said = {key: known if value == "KNOWN" else value for key, value in said.items()}
    assert clients["ana"].post("/ui/labels", json=said).status_code == status
    assert LabelLog(run_dir).read() == []


def test_pictures_come_in_two_sizes_and_by_band(clients):
    ana = clients["ana"]
    name = ana.post("/ui/queue", json={"size": 1}).json()["objects"][0]["object_id"]
    for query, size_px in (("size=96", 96), ("size=480", 480), ("size=96&band=g", 96)):
        answer = ana.get(f"/ui/picture.png?object_id={name}&{query}")
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).size == (size_px, size_px)
    for query in (f"{name}&size=7", "nobody", f"{name}&band=none"):
        assert ana.get(f"/ui/picture.png?object_id={query}").status_code == 404


def test_a_picture_is_that_of_the_object_where_another_version_ranks_it_elsewhere(
    whole_run, tmp_path
):
    """A page that is open while a server goes over to the next night asks of the new one."""
    other = make_run(tmp_path, k=20)
    ranked = [read_version(path)["object_id"].to_pylist() for path in (whole_run, other)]
    name = next(one for one, another in zip(*ranked, strict=True) if one != another)
    shown = set()
    for path in (whole_run, other):
        with labelling_app(path, ["ana"]) as (app, secret_of):
            ana = TestClient(app, headers={"Authorization": f"Bearer {secret_of['ana']}"})
            shown.add(ana.get("/ui/picture.png", params={"object_id": name}).content)
    assert len(shown) == 1


def test_light_curves_are_labelled_by_their_plots_without_stretch_and_bands(tmp_path):
    with labelling_app(make_curve_run(tmp_path), ["ana"]) as (app, secret_of):
        ana = TestClient(app, headers={"Authorization": f"Bearer {secret_of['ana']}"})
        page = ana.get("/ui").text
        assert 'id="gamma"' not in page
        assert 'id="band"' not in page
        (one,) = ana.post("/ui/queue", json={"size": 1}).json()["objects"]
        assert one["object_id"] == "KIC 3 Q2"
        said = {"object_id": one["object_id"], "interest": 5, "kind": "eclipses"}
        assert ana.post("/ui/labels", json=said).json()["progress"]["interesting"] == 1
        for query, size in (("size=96", (96, 96)), ("size=480", (480, 480)),
                            ("size=480&wide=true", (960, 480))):  # fmt: skip
            answer = ana.get(f"/ui/picture.png?object_id={one['object_id']}&{query}")
            assert Image.open(io.BytesIO(answer.content)).size == size


def test_a_run_that_takes_no_labels_is_refused_before_its_page_opens(run_dir):
    (Path(run_dir) / "labels").write_text("where a folder would have to be")
    with (
        pytest.raises(StorageError, match=r"/labels: .* --self-contained --out DIR` makes a copy"),
        labelling_app(run_dir, ["ana"]),
    ):
        pass


def test_labels_are_exported_and_a_run_that_is_not_done_is_refused(clients, run_dir, tmp_path):
    (one,) = clients["ana"].post("/ui/queue", json={"size": 1}).json()["objects"]
    clients["ana"].post("/ui/labels", json={"object_id": one["object_id"], "kind": "ring"})
    out = tmp_path / "labels.csv"
    assert export_labels(run_dir, str(out), "csv") == 1
    head, row = out.read_text().splitlines()
    assert '"class"' in head
    assert '"ring"' in row
    with pytest.raises(ConfigError, match=r"already there; choose another name, or --overwrite"):
        export_labels(run_dir, str(out), "csv")
    # a folder of one version
    assert export_labels(str(tmp_path), str(out), "csv", overwrite=True) == 1
    with pytest.raises(ConfigError, match="expected the --out of a scan or night"):
        export_labels(str(tmp_path / "none"), str(out), "csv")


def test_what_was_chosen_on_the_map_comes_first_but_for_what_has_a_label(clients, run_dir):
    ana = clients["ana"]
    rows = read_version(run_dir)["object_id"].to_pylist()
    chosen = [rows[90], rows[7], "of another run", rows[50], rows[7], rows[30]]
    ana.post("/ui/labels", json={"object_id": rows[7], "interest": 2})
    asked = {"size": 2, "first": chosen, "shown": [rows[30]]}
    answer = ana.post("/ui/queue", json=asked).json()
    assert [(one["object_id"], one["why"]) for one in answer["objects"]] == [
        (rows[90], "map"), (rows[50], "map"),
    ]  # fmt: skip
    assert answer["left"] == 0
    assert ana.post("/ui/queue", json=asked | {"size": 1}).json()["left"] == 1
    done = ana.post("/ui/queue", json={"size": 3, "first": [rows[7]]}).json()
    assert "map" not in {one["why"] for one in done["objects"]}


def test_what_stands_of_all_people_is_told_once(clients):
    ana, bo = clients["ana"], clients["bo"]
    one, two = (x["object_id"] for x in ana.post("/ui/queue", json={"size": 2}).json()["objects"])
    ana.post("/ui/labels", json={"object_id": one, "interest": 5, "kind": "ring"})
    bo.post("/ui/labels", json={"object_id": one, "interest": 2, "kind": "lens"})
    bo.post("/ui/labels", json={"object_id": two, "kind": "lens"})
    said = ana.get("/ui/said").json()
    assert said == {"num_lines": 3, "objects": [[one, 3.5, "lens"], [two, None, "lens"]]}
    assert ana.get("/ui/said?known=3").json() == {"num_lines": 3, "objects": None}
    bo.post("/ui/undo", json={})
    assert bo.get("/ui/said?known=3").json()["objects"] == [[one, 3.5, "lens"]]


def test_the_report_is_served_with_no_script_but_its_own(clients, run_dir):
    assert clients["ana"].get("/ui/report").status_code == 404
    assert "/ui/report" not in clients["ana"].get("/ui").text
    write_report(run_dir)
    assert TestClient(clients["ana"].app).get("/ui/report").status_code == 401
    answer = clients["ana"].get("/ui/report")
    assert "const MAP" in answer.text
    assert "'sha256-" in answer.headers["content-security-policy"]
    assert "style-src 'unsafe-inline';" in answer.headers["content-security-policy"]
    assert 'href="/ui/report#map"' in clients["ana"].get("/ui").text


def test_only_a_report_of_this_version_may_ask_the_server(clients, run_dir):
    path = Path(write_report(run_dir))
    assert "Label these" not in path.read_text()
    answer = clients["ana"].get("/ui/report")
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert "Label these" in answer.text
    whole = path.read_text()
    for changed in (
        whole.replace("const SHOWN_ROWS", "fetch('/ui/undo'); const SHOWN_ROWS"),
        whole.replace("const MAP = {", "const MAP = (() => fetch('/ui/undo'))() || {"),
    ):
        assert changed != whole
        path.write_text(changed)
        answer = clients["ana"].get("/ui/report")
        assert "img-src data:; connect-src 'none';" in answer.headers["content-security-policy"]
        assert "Label these" not in answer.text
        assert "Another version of astroray wrote this report" in answer.text


def test_an_address_that_was_printed_may_be_opened_before_the_server_answers():
    with listen("127.0.0.1", 0) as (listening, _):
        socket.create_connection(listening.getsockname(), 5).close()


@pytest.fixture
def served(run_dir):
    """The page on a port of its own, with two people's addresses."""
    with serve_labelling(run_dir, ["ana", "bo"]) as (address, secret_of):
        login = f"{address}/ui/login#token="
        yield {name: login + secret for name, secret in secret_of.items()}


@pytest.mark.browser
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
            for undo in ('document.querySelector("#undo").click()', ""):
                await ana.press("1")
                await ana.until(f"{mine} === 2")
                if undo:  # as by touch
                    await ana.value(undo)
                    await ana.until(f"{mine} === 1")
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
            before = await ana.value(shown)
            await ana.value('document.querySelector("#next").click()')
            await ana.until(f'{shown} !== "{before}"')
            return first, kept, loaded, tall, wide, await ana.value("scrollY")

    first, kept, loaded, tall, wide, scrolled = asyncio.run(use())
    assert (kept, loaded) == ("5", True)
    assert tall == 0  # on a phone a square picture is square
    assert wide <= 390  # and nothing sticks out
    assert scrolled == 0  # the next picture is in sight as a whole
    standing = {(x.object_id, x.user): x.interest for x in current_labels(LabelLog(run_dir).read())}
    assert standing == {(first, "ana"): 5, (first, "bo"): 2}


@pytest.mark.browser
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
            await page.until(f'{legend}.includes("5 follow up\\n1")')
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
