"""The report: whole without a network, complete, escaped, and small enough to be mailed."""

import base64
import dataclasses
import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from astroray import catalog, ledger, schema
from astroray.errors import LedgerError, StorageError
from astroray.report import rows as report_rows
from astroray.report.page import add_report, survey_name, write_report
from astroray.report.thumbnails import render_thumbnail
from astroray.run_record import Backends, Counts, RejectCount, RunRecord
from astroray.surveys.shards import Reject
from tests.browser import find_browser
from tests.runs_made import NUM_TOP, K, make_model, make_proof, make_run


class Page(html.parser.HTMLParser):
    """Elements of a page with their attributes; texts; and whether every tag is closed in turn."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str, css: str = "") -> list[dict[str, str]]:
        return [
            a for t, a in self.elements if t == tag and css in ["", *a.get("class", "").split()]
        ]


def test_outliers_stand_in_rank_order_with_their_nearest_neighbors(tmp_path):
    run = make_run(tmp_path, 40)
    page = Page(run.report())
    cards = page.all("article")
    assert [card["data-id"] for card in cards] == run.ids[:NUM_TOP]
    assert [card["data-rank"] for card in cards] == ["1", "2", "3", "4"]
    first = catalog.read_catalog(run.path).slice(0, 1).to_pylist()[0]
    near = [a["title"] for a in page.all("figure") if a.get("title", "").startswith("object")]
    assert near[:5] == first["neighbor_id"][:5]


def test_objects_drawn_at_random_are_neither_outliers_nor_their_neighbors(tmp_path):
    run = make_run(tmp_path, 60)
    text = run.report()
    rows = catalog.read_catalog(run.path).slice(0, NUM_TOP).to_pylist()
    shown = {row["object_id"] for row in rows} | {i for row in rows for i in row["neighbor_id"][:5]}
    section = text[text.index('<section id="random">') : text.index('<section id="figures">')]
    drawn = set(re.findall(r"rank \d+ · (object-\d+)", section))
    assert drawn == set(run.ids) - shown


def test_outliers_can_be_put_in_the_order_of_another_score_by_its_name(tmp_path):
    run = make_run(tmp_path, 40)
    page = Page(run.report())
    names = [field.name for field in schema.FURTHER_SCORES]
    offered = [option["value"] for option in page.all("option") if "data-score" in option]
    assert offered == [name for name in names if name != "kth_distance"]  # which ranks already
    assert "By another score, not proven" in {a["label"] for a in page.all("optgroup")}
    rows = catalog.read_catalog(run.path).to_pylist()
    for row, card in zip(rows, page.all("article"), strict=False):
        assert {name: float(card[f"data-{name}"]) for name in offered} == {
            name: row[name] for name in offered
        }


def test_a_further_score_that_is_not_known_is_not_offered(tmp_path):
    unknown = {"mahalanobis_distance": None, "local_outlier_factor": np.inf}
    page = Page(make_run(tmp_path, 40, further=unknown).report())
    offered = [option["value"] for option in page.all("option")]
    assert "mahalanobis_distance" not in offered
    assert {card["data-local_outlier_factor"] for card in page.all("article")} == {"Infinity"}


def test_the_certificate_is_stated_with_threshold_and_bound(tmp_path):
    run = make_run(tmp_path, 40)
    scores = catalog.read_catalog(run.path)["outlier_score"].to_pylist()
    text = Page(run.report()).text
    assert "exact: all re-scored" in text
    assert "exactly the 4 most unusual of 40 objects" in text
    assert f"Number 4 of the list has {scores[3]:.6g}" in text
    assert f"at or below {scores[4]:.6g}" in text


def test_a_bound_is_stated_of_those_alone_that_were_not_scored(tmp_path):
    proof = make_proof(4, num_objects=40, num_rescored=20, threshold=7.0, next_bound=2.0)
    text = Page(make_run(tmp_path, 40, proof=proof).report()).text
    assert "20 of 40 objects were scored exactly" in text
    assert "what was not scored exactly cannot exceed 2" in text
    assert "everything outside the list" not in text  # the fifth score is 6


def test_without_a_certificate_none_is_claimed(tmp_path):
    text = make_run(tmp_path, 40, proof=None).report()
    assert "this list carries no certificate" in text
    assert "What is proven" not in text


def test_each_picture_is_in_the_page_once_and_every_use_finds_it(tmp_path):
    page = Page(make_run(tmp_path, 40).report())
    stored = [image["id"] for image in page.all("image")]
    assert len(stored) == len(set(stored)) == 40
    uses = [use["href"].removeprefix("#") for use in page.all("use")]
    assert len(uses) > 40
    assert set(uses) == set(stored)
    assert all(image["href"].startswith("data:image/jpeg;base64,") for image in page.all("image"))
    base64.b64decode(page.all("image")[0]["href"].partition(",")[2], validate=True)


def test_every_picture_has_a_text_for_those_who_do_not_see_it(tmp_path):
    page = Page(make_run(tmp_path, 40).report())
    for element in page.all("svg", "picture") + page.all("svg", "figure"):
        assert element["role"] in ("img", "group")
        assert element["aria-label"]


@pytest.mark.parametrize("sky", ["none", "small", "wide"])
@pytest.mark.parametrize("num_objects", [0, 1, 2, 3, 5, 40])
def test_surveys_of_any_size_make_a_well_formed_page(tmp_path, num_objects, sky):
    page = Page(make_run(tmp_path, num_objects, sky=sky).report())
    assert len(page.all("article")) == min(num_objects, NUM_TOP)
    assert len({a["id"] for _, a in page.elements if "id" in a}) == len(
        [a for _, a in page.elements if "id" in a]
    )
    links = {a["href"] for a in page.all("a")}
    assert links <= {"#" + a["id"] for _, a in page.elements if "id" in a}
    assert not re.search(r"\b(nan|None|Undefined)\b", page.text)
    coordinates = [a[key] for tag, a in page.elements for key in ("d", "cx", "cy") if key in a]
    assert not any("nan" in value or "inf" in value for value in coordinates)


@pytest.mark.parametrize(("sky", "words"), [("small", "north up"), ("wide", "Mollweide")])
def test_positions_are_drawn_with_their_outliers(tmp_path, sky, words):
    page = Page(make_run(tmp_path, 60, sky=sky).report())
    titles = [a["aria-label"] for a in page.all("svg", "figure")]
    assert any(words in title for title in titles)
    assert len(page.all("circle", "outlier")) == 2 * NUM_TOP  # embedding and sky


def test_maps_of_a_large_survey_show_all_outliers_and_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(report_rows, "MAX_MAP_OBJECTS", 20)
    page = Page(make_run(tmp_path, 60, sky="small", num_pictures=NUM_TOP).report())
    assert len(page.all("circle", "outlier")) == 2 * NUM_TOP
    assert "20 of 60 objects" in page.text
    assert "20 of 60 positions" in page.text
    bulk = [path["d"].count("M") for path in page.all("path", "bulk")]
    neighbors_named = len(page.all("circle", "pictured"))
    assert sum(bulk) + neighbors_named + 2 * NUM_TOP == 40


def test_embeddings_that_are_gone_leave_only_their_map_out(tmp_path):
    run = make_run(tmp_path, 40)
    shutil.rmtree(Path(run.path) / "embeddings")
    text = Page(run.report()).text
    assert "As the model sees it" not in text
    assert "How unusual the objects are" in text


def test_without_pictures_the_neighbors_are_named(tmp_path):
    run = make_run(tmp_path, 40, num_pictures=0)
    page = Page(run.report())
    assert page.all("image") == page.all("svg", "picture") == []
    first = catalog.read_catalog(run.path).slice(0, 1).to_pylist()[0]
    assert all(object_id in page.text for object_id in first["neighbor_id"][:5])


def test_a_picture_that_is_missing_leaves_a_placeholder(tmp_path):
    page = Page(make_run(tmp_path, 40, num_pictures=2).report())
    assert len(page.all("image")) == 2
    assert "No picture of object-3" in {a["aria-label"] for a in page.all("span", "none")}


def test_text_of_the_survey_can_not_become_markup(tmp_path):
    evil = '"><script>alert(1)</script>&amp;'
    run = make_run(
        tmp_path,
        12,
        sky="small",
        first_id=evil,
        survey=evil,
        error=evil,
        state="failed",
        config={evil: evil},
        backends=Backends(device=evil),
        rejects=(RejectCount(stage="read", kind="shape", reason=evil, rows=1, shards=0),),
    )
    page = Page(run.report())
    assert len(page.all("script")) == 1
    assert page.all("article")[0]["data-id"] == evil
    assert f"Picture of {evil}" in {a.get("aria-label") for a in page.all("svg")}
    assert any(evil in a["data-label"] for a in page.all("circle"))


@pytest.mark.parametrize("sky", ["wide", "small"])
def test_the_page_asks_nothing_of_the_network(tmp_path, sky):
    text = make_run(tmp_path, 120, sky=sky).report()
    for tag, attributes in Page(text).elements:
        for name in ("src", "href", "srcset", "action", "poster", "data", "style"):
            value = attributes.get(name, "")
            assert not re.search(r"//|url\(", re.sub(r"^data:[^ ]*$", "", value)), (tag, name)
    code = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text)
    for word in ("url(", "@import", "http:", "https:", "fetch(", "XMLHttpRequest", "WebSocket"):
        assert word not in code


def test_shards_that_could_not_be_read_are_named_with_their_reason(tmp_path):
    counts = Counts(shards=3, shards_rejected=3)
    run = make_run(tmp_path, 0, counts=counts)
    reject = Reject(row=None, stage="read", kind="unreadable", reason="a.fits ends early")
    ledger.write_rejects(run.path, "a-shard", [reject], attempt=1)
    record = RunRecord.load(run.path)
    rejects = ledger.summarize_rejects(ledger.read_rejects(run.path))
    dataclasses.replace(record, rejects=rejects).publish(run.path)
    text = Page(run.report()).text
    assert "No object of this survey could be used" in text
    assert "3 of 3 shards could not be read" in text
    assert "a-shard" in text
    assert "a.fits ends early" in text


def test_rejects_and_their_reasons_are_tabled_with_counts(tmp_path):
    counts = Counts(shards=2, rows_read=1240, rows_embedded=40, rows_rejected=1200)
    reject = RejectCount(
        stage="prepare", kind="constant", reason="row 7 is blank", rows=1200, shards=0
    )
    text = Page(make_run(tmp_path, 40, counts=counts, rejects=(reject,)).report()).text
    assert "1,240 = 40 + 1,200" in text
    assert "constant 1,200 row 7 is blank" in text


def test_one_object_is_one_row(tmp_path):
    text = Page(make_run(tmp_path, 1).report()).text
    assert re.search(r"object ranked +1 .*shards read +2 +1 row +rows rejected +0", text)
    assert "1 rows" not in text


def test_the_run_is_described_so_that_it_can_be_repeated(tmp_path):
    run = make_run(tmp_path, 12)
    text = Page(run.report()).text
    assert "astroray scan 's3://sky/cutouts/*.fits?size_px=32' --out NEW_FOLDER" in text
    assert f"--encoder {run.path}/model/model.safetensors --k {K}" in text
    assert f"astroray export {run.path}" in text
    assert "search.k 6" in text
    assert "num_probes" not in text
    assert "few objects" in text
    assert "f00d" in text
    assert "embed 30 s 75 %" in text
    assert "The most unusual objects in sky cutouts" in text


def test_the_loss_is_drawn_where_there_was_a_fit_and_not_without(tmp_path):
    model = make_model("m0")
    fit = {"num_passes": 3, "seconds": 9.0, "num_rows": 12, "loss": [0.5, 0.2, 0.1]}
    fitted = dataclasses.replace(model, fit=fit)
    assert "How the encoder learned" in make_run(tmp_path / "a", 12, model=fitted).report()
    assert "How the encoder learned" not in make_run(tmp_path / "b", 12, model=model).report()


def noisy_thumbnail() -> bytes:
    noise_CYX = np.random.default_rng(0).random((3, 96, 96))  # nothing is harder to compress
    return render_thumbnail(noise_CYX, bands=["R", "G", "B"], pixels="display")


def test_a_thousand_pictures_of_noise_fit_ten_megabytes_and_outliers_come_first(tmp_path):
    run = make_run(tmp_path, 1000, picture=noisy_thumbnail(), proof=make_proof(100, 1000))
    text = run.report()
    assert len(text.encode()) < 10_000_000
    page = Page(text)
    assert len(page.all("article")) == 100
    assert len(page.all("image")) > 400
    missing = {a["aria-label"].removeprefix("No picture of ") for a in page.all("span", "none")}
    assert missing.isdisjoint(run.ids[:100])


def test_two_reports_of_a_run_are_the_same(tmp_path):
    run = make_run(tmp_path, 40, sky="small")
    assert run.report() == run.report()


def test_a_page_that_cannot_be_drawn_costs_no_catalog_and_leaves_no_older_page(
    tmp_path, monkeypatch, caplog
):
    run = make_run(tmp_path, 40)
    run.report()
    page = Path(run.path) / "report" / "index.html"
    assert page.exists()
    monkeypatch.setattr("astroray.report.page._render", lambda *args: 1 / 0)
    add_report(run.path)
    assert not page.exists()
    assert "ZeroDivisionError" in caplog.text
    assert "report" in caplog.messages[0]
    assert "--again" in caplog.messages[0]


def test_a_full_disk_costs_the_page_and_not_the_run(tmp_path, monkeypatch, caplog):
    run = make_run(tmp_path, 40)
    run.report()

    def full(*args: object) -> str:
        raise StorageError("the disk is full; free some space")

    monkeypatch.setattr("astroray.report.page._render", full)
    add_report(run.path)
    assert not (Path(run.path) / "report" / "index.html").exists()
    assert "the disk is full; free some space" in caplog.messages[0]
    assert "--again" in caplog.messages[0]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("survey", "name"),
    [
        ("/sky/efigi/images?table=t.csv", "efigi images"),
        ("efigi/images/*.jpg", "efigi images"),
        ("images", "images"),
        ("night/dr1.fits.fz?size=64", "dr1"),
    ],
)
def test_a_survey_whose_folder_says_nothing_is_named_with_the_one_above(survey, name):
    assert survey_name(survey) == name


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(LedgerError, match="no run record"):
        write_report(str(tmp_path))


@pytest.mark.browser
def test_a_browser_shows_the_page_without_errors_or_network(tmp_path):
    browser = find_browser()
    text = make_run(tmp_path, 60, sky="wide", picture=noisy_thumbnail()).report()
    watch = """<script>
      window.faults = [];
      addEventListener("error", (event) => faults.push(event.message));
      addEventListener("load", () => setTimeout(() => {
        const box = document.querySelector("use").getBoundingClientRect();
        document.querySelector("#filter").value = "object-2";
        document.querySelector("#filter").dispatchEvent(new Event("input"));
        const sort = document.querySelector("#sort");
        const order = (name) => {
          sort.value = name;
          sort.dispatchEvent(new Event("change"));
          return [...document.querySelectorAll(".card")].map((c) => c.dataset.rank).join(" ");
        };
        const circle = document.querySelector("circle.outlier");
        circle.closest("a").dispatchEvent(new PointerEvent("pointerenter"));
        Object.assign(document.body.dataset, {
          faults: faults.join("; "), width: Math.round(box.width),
          loaded: performance.getEntriesByType("resource").map((e) => e.name)
            .filter((name) => !name.startsWith("data:")).join(" "),
          shown: [...document.querySelectorAll(".card:not([hidden])")].map((c) => c.dataset.id),
          byScore: order("local_outlier_factor"),
          other: document.querySelector(".card .other").textContent,
          byRank: order("rank"), hidden: document.querySelector(".card .other").hidden,
          hover: document.querySelector("#hover").textContent,
        });
      }, 50));
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(text.replace("<head>", "<head>" + watch, 1), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--virtual-time-budget=2000", "--window-size=1280,2000", "--dump-dom"]
    done = subprocess.run(
        [browser, *flags, page.as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    body = next(a for tag, a in Page(done.stdout).elements if tag == "body")
    assert body["data-faults"] == ""
    assert body["data-loaded"] == ""
    assert body["data-shown"] == "object-2"
    assert body["data-by-score"] == "4 3 2 1"
    assert body["data-other"] == "local outlier factor 4.500"
    assert (body["data-by-rank"], body["data-hidden"]) == ("1 2 3 4", "true")
    assert "rank 1 · object-0" in body["data-hover"]
    assert int(body["data-width"]) > 90


def test_fewer_neighbors_than_k_are_counted_as_they_are(tmp_path):
    for count, neighbor in ((2, "1st"), (40, f"{K}th")):
        page = Page(make_run(tmp_path / str(count), count, model=make_model("m0", dim=1)).report())
        assert f"distance to its {neighbor} nearest" in page.text
        assert "pca, 1 dimension" in page.text
        assert "1 dimensions" not in page.text
