"""The endpoints of a run: what they answer, and what they refuse."""

import html
import io
import math

import numpy as np
import pyarrow as pa
import pytest
from astropy.io.votable import parse
from PIL import Image
from starlette.testclient import TestClient

from astroray import schema, sky, surveys
from astroray.archive import Archive
from astroray.errors import ConfigError
from astroray.surveys.shards import Cutouts
from astroray.web.app import build_app
from astroray.web.guard import AuditLog, Limits
from astroray.web.routes import BusyError
from astroray.web.security import Tokens
from benchmarks.bad_uploads import fits_bytes
from tests.served_run import SURVEY, PlainEncoder, make_run


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return Archive(make_run(tmp_path_factory.mktemp("served")))


@pytest.fixture(scope="module")
def encoder(archive):
    return PlainEncoder(archive.model)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return Tokens(str(tmp_path_factory.mktemp("tokens") / "tokens.json"))


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return AuditLog(str(tmp_path_factory.mktemp("audit") / "audit.jsonl"))


@pytest.fixture(scope="module")
def app(archive, encoder, tokens, audit):
    return build_app(archive, encoder, tokens=tokens, limits=Limits(), routers=[], audit=audit)


@pytest.fixture(scope="module")
def client(app, tokens):
    headers = {"Authorization": f"Bearer {tokens.issue('reader', ['read'])}"}
    return TestClient(app, headers=headers)


@pytest.fixture(scope="module")
def cutouts():
    shard = surveys.list_shards(SURVEY).shards[0]
    return next(item for item in surveys.read_shard(shard) if isinstance(item, Cutouts))


def test_a_run_that_is_not_done_is_not_served(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no run.json, expected the --out of a scan"):
        Archive(str(tmp_path))


def test_the_rank_of_an_upload_is_behind_objects_whose_bound_is_infinite(archive, monkeypatch):
    table = archive.table  # as of a night that the clock stopped: what is new was not searched
    score_N = table["outlier_score"].to_numpy().copy()
    score_N[:3] = np.inf
    place = table.column_names.index("outlier_score")
    stopped = table.set_column(place, table.schema.field(place), pa.array(score_N))
    monkeypatch.setattr("astroray.archive.versions.read_version", lambda run_dir: stopped)
    assert Archive(archive.run_dir).rank_of(1e9) == 4


def test_every_answer_names_its_run_and_model(client, archive):
    for path in ("/v1/run", "/v1/catalog", "/v1/cone?RA=1&DEC=1&SR=1", "/healthz", "/v1/nothing"):
        answer = client.get(path)
        assert answer.headers["x-astroray-run"] == archive.run_id == "f00d-20260101T000000Z"
        assert answer.headers["x-astroray-model"] == archive.model_id
    answer = client.get("/v1/run").json()
    assert (answer["run_id"], answer["model_id"]) == (archive.run_id, archive.model_id)
    assert answer["numbers"] == "float32"
    assert answer["proof"].startswith("exact:")


def test_pages_of_the_catalog_are_all_of_it_once_in_order_of_rank(client, archive):
    path, seen = "/v1/catalog?limit=70", []
    while path:
        page = client.get(path).json()
        assert page["total"] == len(archive.table)
        seen += page["objects"]
        path = page["next"]
    wanted = archive.table.to_pylist()
    assert [row["rank"] for row in seen] == list(range(1, len(wanted) + 1))
    for got, row in zip(seen, wanted, strict=True):
        known = {k: v for k, v in row.items() if not k.startswith("_")}
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v
                  for k, v in known.items()}  # fmt: skip
        assert got == finite


@pytest.mark.parametrize("radius", [0.0, 0.02, 0.3, 180.0])
def test_a_cone_holds_what_brute_force_finds_in_it(client, archive, radius):
    ra, dec = (archive.table[name].to_numpy() for name in ("ra", "dec"))
    row = 17
    inside = sky.separation_arcsec(ra, dec, ra[row], dec[row]) <= radius * 3600
    page = client.get(
        "/v1/catalog", params={"ra": ra[row], "dec": dec[row], "radius": radius, "limit": 1000}
    ).json()
    assert [one["rank"] - 1 for one in page["objects"]] == np.flatnonzero(inside).tolist()
    assert page["total"] == inside.sum() >= 1


def test_a_cone_on_a_run_without_positions_says_so(client, archive, monkeypatch):
    monkeypatch.setattr(type(archive), "num_positions", 0)
    answer = client.get("/v1/catalog?ra=1&dec=2&radius=3")
    assert answer.status_code == 422
    assert "no positions" in answer.json()["detail"]


def test_a_cone_crosses_the_pole_and_the_meridian(archive):
    ra, dec = np.array([0.05, 359.95, 120.0, 300.0]), np.array([89.99, 89.99, 89.9, -5.0])
    order = np.argsort(dec)
    copy = object.__new__(Archive)
    copy.table = archive.table.slice(0, 4).select(["object_id"])
    copy.table = copy.table.append_column("ra", [ra]).append_column("dec", [dec])
    copy._dec_N, copy._by_dec_N = dec[order], order
    assert copy.cone(180.0, 89.95, 0.2).tolist() == [0, 1, 2]
    assert copy.cone(0.0, 89.99, 0.01).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("ra=1&dec=1", "a cone needs ra, dec and radius"),
        ("ra=1&dec=91&radius=1", "expected -360..360, -90..90 and 0..180"),
        ("ra=nan&dec=1&radius=1", "ra"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("after=-1", "after"),
        ("after=x", "after"),
    ],
)
def test_a_page_that_cannot_be_is_refused_in_one_sentence(client, query, message):
    answer = client.get(f"/v1/catalog?{query}")
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_a_parameter_that_is_misspelt_is_refused_and_not_left_out(client):
    for query in ("ra=150&dec=2&radus=1", "certifed=true"):
        answer = client.get(f"/v1/catalog?{query}")
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("no parameter '")
        assert "radius" in answer.json()["detail"]
    assert client.post("/v1/score?exclud=x", content=b"").status_code == 422
    assert client.get("/v1/cone?RA=1&DEC=2&SR=1&MAXREC=5").status_code == 200


def test_certified_objects_alone_are_the_proven_list(client):
    page = client.get("/v1/catalog?certified=true").json()
    assert [row["rank"] for row in page["objects"]] == [1, 2, 3, 4, 5]


def test_a_simple_cone_search_is_a_votable_with_the_columns_that_the_standard_asks_for(
    client, archive
):
    row = archive.table.slice(3, 1).to_pylist()[0]
    answer = client.get(f"/v1/cone?RA={row['ra']}&DEC={row['dec']}&SR=0.001&VERB=3")
    assert answer.headers["content-type"] == "application/x-votable+xml"
    votable = parse(io.BytesIO(answer.content), verify="exception")
    table = votable.get_first_table()
    assert table.array["object_id"].tolist() == [row["object_id"]]
    ucds = {field.name: field.ucd for field in table.fields}
    assert (ucds["object_id"], ucds["ra"], ucds["dec"]) == (
        "ID_MAIN", "POS_EQ_RA_MAIN", "POS_EQ_DEC_MAIN"
    )  # fmt: skip
    assert [field.name for field in table.fields] == schema.CATALOG.names
    infos = {info.name: info.value for info in votable.resources[0].infos}
    assert infos["QUERY_STATUS"] == "OK"
    assert infos["run_id"] == archive.run_id
    (frame,) = votable.resources[0].coordinate_systems
    assert (frame.system, frame.ID) == ("ICRS", table.get_field_by_id_or_name("ra").ref)


@pytest.mark.parametrize("query", ["", "RA=1&DEC=2&SR=x", "RA=1&DEC=99&SR=1", "RA=1&DEC=9&SR=inf"])
def test_a_wrong_cone_search_is_a_votable_that_says_why(client, query):
    answer = client.get(f"/v1/cone?{query}")
    assert answer.status_code == 200
    infos = parse(io.BytesIO(answer.content)).infos
    assert [info.name for info in infos] == ["Error"]


def test_an_object_and_its_picture_are_found_by_id(client, archive):
    row = archive.table.slice(9, 1).to_pylist()[0]
    path = f"/v1/objects/{row['object_id']}"
    assert client.get(path).json()["object"]["rank"] == 10
    answer = client.get(f"{path}/cutout.png?size=96")
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size) == ("PNG", (96, 96))
    assert np.asarray(picture).std() > 3, "a picture of something"
    for missing in ("/v1/objects/none", "/v1/objects/none/cutout.png"):
        assert client.get(missing).status_code == 404


def test_a_picture_whose_file_comes_back_comes_back(archive, monkeypatch):
    drawn = [False, True]

    def draw(shard, rows, **how):
        return {row: b"a picture" for row in rows if drawn.pop(0)}

    monkeypatch.setattr("astroray.archive.draw_rows", draw)
    assert [archive.picture(3, 77) for _ in range(3)] == [None, b"a picture", b"a picture"]


def test_neighbors_of_an_object_are_those_of_the_catalog(client, archive):
    for row in archive.table.slice(0, 20).to_pylist():
        near = client.get("/v1/similar", params={"object_id": row["object_id"], "k": 5}).json()
        got = [(one["object_id"], one["distance"]) for one in near["neighbors"]]
        assert got == list(zip(row["neighbor_id"], row["neighbor_distance"], strict=True))


def test_a_plus_in_an_identifier_needs_no_escape_in_a_query(client, archive, monkeypatch):
    find, name = archive.find, "J0213+0105"
    monkeypatch.setattr(archive, "find", lambda got: 0 if got == name else find(got))
    assert client.get(f"/v1/similar?object_id={name}&k=1").status_code == 200
    assert client.get("/v1/similar?object_id=J0213+0106&k=1").status_code == 404


def test_the_score_of_an_uploaded_member_is_its_score_in_the_catalog(client, archive, cutouts):
    for i in range(0, len(cutouts.row_B), 9):
        name = cutouts.object_id_B[i]
        row = archive.table.slice(archive.find(name), 1).to_pylist()[0]
        body = fits_bytes(cutouts.image_BCYX[i], cutouts.bands)
        score = client.post("/v1/score", content=body, params={"exclude": name}).json()
        assert score["outlier_score"] == pytest.approx(row["outlier_score"], rel=1e-5)
        assert abs(score["rank"] - row["rank"]) <= 1
        assert score["num_objects"] == len(archive.table)
        assert [one["object_id"] for one in score["neighbors"]] == row["neighbor_id"]
        near = client.post("/v1/similar?k=1", content=body).json()["neighbors"]
        assert near[0]["object_id"] == name
        assert near[0]["distance"] < 1e-3
        embedding = client.post("/v1/embed", content=body).json()["embedding"]
        np.testing.assert_allclose(embedding, archive.embedding_ND[archive.find(name)], atol=1e-4)


def test_an_upload_is_known_by_its_bytes_and_bands_may_be_named(client, cutouts):
    image, bands = cutouts.image_BCYX[0], cutouts.bands
    named = client.post("/v1/embed", content=fits_bytes(image, bands)).json()
    nameless = fits_bytes(image, ())
    assert client.post("/v1/embed", content=nameless).status_code == 422
    query = {"bands": ",".join(bands)}
    kinds = {"Content-Type": "image/png"}
    answer = client.post("/v1/embed", content=nameless, params=query, headers=kinds)
    assert answer.json() == named


def test_a_busy_encoder_is_503_and_when_to_come_again(archive, tokens, cutouts):
    class Busy:
        async def embed(self, image_CYX):
            raise BusyError("busy: 8 wait already")

        async def is_ready(self):
            return False

    headers = {"Authorization": f"Bearer {tokens.issue('hasty', ['read'])}"}
    busy = build_app(archive, Busy(), tokens=tokens, limits=Limits(), routers=[])
    client = TestClient(busy, headers=headers)
    body = fits_bytes(cutouts.image_BCYX[0], cutouts.bands)
    answer = client.post("/v1/score", content=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_scopes_are_asked_for_and_only_admin_reads_the_audit_log(app, tokens, client, audit):
    def status(path, *scopes):
        secret = tokens.issue("-".join(scopes) or "x", scopes)
        tokens_client = TestClient(app, headers={"Authorization": f"Bearer {secret}"})
        answer = tokens_client.get(path)
        tokens.revoke("-".join(scopes))
        return answer.status_code

    assert status("/v1/catalog", "label") == 403
    assert status("/v1/catalog", "label", "read") == 200
    assert status("/v1/audit", "read") == 403
    assert status("/v1/audit", "admin") == 200
    assert TestClient(app).get("/v1/catalog").status_code == 401
    assert {"reader", None} <= {entry["caller"] for entry in audit.tail(1000)}


def test_the_reference_page_names_every_endpoint_and_loads_nothing(client, app):
    page = client.get("/").text
    for path in app.openapi()["paths"]:
        assert path in page
    for mark in ("<script", "src=", "http://", "https://", "@import"):
        assert mark not in page
    assert "log in" not in page  # this app has no pages
    answer = TestClient(app).get("/docs", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/")


def test_a_line_for_curl_has_what_a_request_needs(client):
    page = html.unescape(client.get("/docs").text)
    assert '"$URL/v1/cone?RA=150.1&DEC=2.2&SR=0.5"' in page
    assert '"$URL/v1/objects/ID"' in page


def test_the_reference_page_says_what_is_in_lists_and_objects(client):
    page = client.get("/").text
    for field, text in (
        ("objects[].ra", "right ascension, ICRS (deg)"),
        ("object.outlier_score", schema.CATALOG.field("outlier_score").metadata[b"doc"].decode()),
        ("neighbors[].distance", "Euclidean"),
    ):
        assert field in page
        assert html.escape(text) in page
