"""A run of light curves over HTTP: its objects are drawn, and uploads are light curves."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from astroray.archive import Archive
from astroray.forecast.predict import forecast_group
from astroray.forecast.star_groups import StarGroup
from astroray.forecast.train import flare_shards
from astroray.web.app import build_app
from astroray.web.curve_uploads import CurveLimits
from astroray.web.flares import build_flare_router
from astroray.web.guard import Limits
from astroray.web.security import Tokens
from benchmarks.bad_uploads import curve_bytes, parquet_bytes
from tests.flares_made import star
from tests.light_curves_made import fluxes, times
from tests.served_run import PlainEncoder, PlainForecaster, make_curve_run, make_forecaster


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("curves")


@pytest.fixture(scope="module")
def archive(folder):
    return Archive(make_curve_run(folder))


@pytest.fixture(scope="module")
def trained(folder):
    return make_forecaster(str(folder / "flares.model"))


@pytest.fixture(scope="module")
def client(folder, archive, trained):
    tokens = Tokens(str(folder / "tokens.json"))
    routers = [build_flare_router(PlainForecaster(trained), archive.run_id, CurveLimits())]
    app = build_app(
        archive, PlainEncoder(archive.model), tokens=tokens, limits=Limits(), routers=routers
    )
    return TestClient(app, headers={"Authorization": f"Bearer {tokens.issue('a', ['read'])}"})


def body_of(archive, number):
    """The survey's own file of a star."""
    shard = archive._shards[archive.table["shard"][0].as_py()]
    return Path(shard.inputs[number].path).read_bytes()


def test_the_run_says_that_uploads_are_light_curves(client):
    run = client.get("/v1/run").json()
    assert (run["modality"], run["bands"], run["pixels"]) == ("light_curves", [], None)
    assert "512 bins of 29.4 min" in run["input"]
    document = client.get("/openapi.json").json()
    kinds = document["paths"]["/v1/score"]["post"]["requestBody"]["content"]
    assert "application/vnd.apache.parquet" in kinds
    assert "image/png" not in kinds
    assert "FITS (plain or gzip) or Parquet" in client.get("/").text


def test_an_object_is_drawn_and_the_odd_one_is_first(client, archive):
    first = client.get("/v1/catalog?limit=1").json()["objects"][0]
    assert first["object_id"] == "KIC 3 Q2"
    answer = client.get("/v1/objects/KIC 3 Q2/cutout.png?size=192")
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size) == ("PNG", (192, 192))
    light_YX = np.asarray(picture.convert("L"), float)
    assert light_YX[150:175].max() > 100, "the dips are at the bottom"
    assert archive.picture(0, 100, "", 3) != archive.picture(0, 100)


@pytest.mark.parametrize("number", [0, 3, 7])
def test_the_score_of_an_uploaded_member_is_its_score_in_the_catalog(client, archive, number):
    name = f"KIC {number} Q2"
    row = archive.table.slice(archive.find(name), 1).to_pylist()[0]
    body = body_of(archive, number)
    score = client.post("/v1/score", content=body, params={"exclude": name}).json()
    assert score["outlier_score"] == pytest.approx(row["outlier_score"], rel=1e-4)
    assert [one["object_id"] for one in score["neighbors"]] == row["neighbor_id"]
    near = client.post("/v1/similar?k=1", content=body).json()["neighbors"]
    assert near[0]["object_id"] == name
    embedding = client.post("/v1/embed", content=body).json()["embedding"]
    np.testing.assert_allclose(embedding, archive.embedding_ND[archive.find(name)], atol=1e-4)


def test_of_a_parquet_file_of_many_the_row_is_named(client, archive):
    body = parquet_bytes(times(num=600), fluxes(600, seed=5), names=["x", "y"])
    missing = client.post("/v1/embed", content=body)
    assert missing.status_code == 422
    assert (
        "holds 2 rows that can be used: 0 is 'x', 1 is 'y'; say which one with"
        in missing.json()["detail"]
    )
    found = client.post("/v1/similar?k=1&row=1", content=body)
    assert found.json()["neighbors"][0]["object_id"] == "KIC 5 Q2"
    assert (
        "row is 2, and the upload holds 2 rows"
        in client.post("/v1/embed?row=2", content=body).json()["detail"]
    )


@pytest.mark.parametrize(
    ("query", "body", "status", "detail"),
    [
        ("bands=g", "GOOD", 422, "bands are of images"),
        ("time=GPS", "GOOD", 422, "time is 'GPS', expected one of BKJD"),
        ("", b"\x89PNG", 415, "expected a FITS file (plain or gzip) or a Parquet file"),
        ("", curve_bytes(np.arange(9.0), np.ones(9)), 422, "not within 2458226"),
        ("", curve_bytes(2000 + np.arange(9.0), np.ones(9)), 422, "every flux is 1"),
    ],
)
def test_what_cannot_be_a_row_of_the_run_is_refused_with_its_reason(
    client, archive, query, body, status, detail
):
    body = body_of(archive, 0) if body == "GOOD" else body
    answer = client.post(f"/v1/score?{query}", content=body)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]


# ---- forecasts of flares


def flaring(days=16.0, seed=1):
    flares = [(peak, 60.0, 0.1) for peak in (2.0, 5.5, 9.0, 12.5)]
    return star(days=days, cadence_d=10 / 1440, noise=0.0005, flares=flares, seed=seed)


def test_a_forecast_is_that_of_the_command_line_for_the_same_file(client, folder, trained):
    time_d, flux = flaring()
    body = curve_bytes(time_d, flux)
    (folder / "tess").mkdir()
    (folder / "tess" / "tic.fits").write_bytes(body)
    (shard,) = flare_shards(f"{folder}/tess/*.fits?format=light_curves")
    told = forecast_group(StarGroup(parts=((shard, None),)), str(folder / "flares.model"))
    table, dropped = told.table, told.dropped
    answer = client.post("/v1/flares/forecast", content=body)
    found = answer.json()
    assert answer.headers["x-astroray-model"] == found["model_id"] == trained.model_id
    assert [one["probability"] for one in found["windows"]] == table["probability"].to_pylist()
    assert [one["end"] for one in found["windows"]] == table["end"].to_pylist()
    assert [one["newest"] for one in found["windows"]].count(True) == 1
    assert found["windows"][-1]["flared"] is None
    assert {one["time_zero"] for one in found["windows"]} == {"BTJD"}
    assert (found["dropped"], found["rejects"], found["alarm"]) == (dropped, [], 0.5)
    newest = client.post("/v1/flares/forecast?newest=true", content=body).json()
    assert newest["windows"] == found["windows"][-1:]


def test_windows_that_give_no_forecast_are_counted_by_reason(client):
    time_d, flux = flaring()
    flux[800:1500] = np.nan
    found = client.post("/v1/flares/forecast", content=curve_bytes(time_d, flux)).json()
    assert sum(found["dropped"].values()) > 5
    assert any("a pause above 1 d" in reason for reason in found["dropped"])
    short = client.post("/v1/flares/forecast", content=curve_bytes(time_d[:300], flux[:300]))
    assert short.status_code == 200
    assert short.json()["windows"] == []
    assert short.json()["dropped"] == {"light curve shorter than a window": 1}


def test_stars_of_a_parquet_file_are_forecast_each_and_rejects_are_said(client):
    time_d, flux = flaring()
    body = parquet_bytes(time_d, flux, names=["a", "b"])
    found = client.post("/v1/flares/forecast?mission=tess&newest=true", content=body).json()
    assert [one["object_id"] for one in found["windows"]] == ["a", "b"]
    low = client.post("/v1/flares/forecast", content=parquet_bytes(time_d, -flux))
    assert low.status_code == 422
    assert "no light curve can be used" in low.json()["detail"]
    picture = client.post("/v1/flares/forecast", content=b"\xff\xd8")
    assert picture.status_code == 415


def test_stars_of_a_mission_that_the_model_does_not_know_are_told_of(client):
    body = parquet_bytes(*flaring(), names=["a", "b"])
    told = {}
    for mission in ("tess", "other"):
        found = client.post("/v1/flares/forecast", content=body, params={"mission": mission})
        told[mission] = found.json()["warning"]
    assert told == {
        "tess": "",
        "other": "the model was trained on tess alone and says little of the stars of other (2)",
    }
    answers = client.get("/openapi.json").json()["components"]["schemas"]["Forecasts"]
    assert "not trained on" in answers["properties"]["warning"]["description"]


def test_without_a_model_there_is_no_such_endpoint(archive, folder):
    tokens = Tokens(str(folder / "tokens.json"))
    routers = [build_flare_router(None, archive.run_id, CurveLimits())]
    app = build_app(
        archive, PlainEncoder(archive.model), tokens=tokens, limits=Limits(), routers=routers
    )
    assert "/v1/flares/forecast" not in app.openapi()["paths"]
    headers = {"Authorization": f"Bearer {tokens.issue('b', ['read'])}"}
    answer = TestClient(app, headers=headers).post("/v1/flares/forecast", content=b"x")
    assert answer.status_code == 404
    assert "start the server with --flares MODEL" in answer.json()["detail"]
