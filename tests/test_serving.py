"""A run served by Ray Serve on the session's cluster: right answers, also while replicas die."""

import dataclasses
import shutil
import threading
from collections import Counter
from pathlib import Path

import httpx2
import numpy as np
import pytest
import ray

from astroray import serving, surveys
from astroray.archive import Archive
from astroray.errors import BackendError, ConfigError
from astroray.forecast.model_file import load_forecaster
from astroray.ledger import open_run
from astroray.settings import from_dict
from astroray.surveys.shards import Cutouts
from astroray.web.security import Tokens
from astroray.web.serve_config import ServeConfig
from benchmarks.bad_uploads import curve_bytes, fits_bytes
from tests.flares_made import star
from tests.served_run import SURVEY, make_forecaster, make_run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def config(tmp_path_factory, free_port):
    folder = tmp_path_factory.mktemp("serving")
    flares = str(folder / "flares.model")
    make_forecaster(flares)
    values = {
        "run_dir": str(Path(make_run(folder / "versions")).parent),
        "port": free_port,
        "tokens": str(folder / "tokens.json"),
        "watch_s": 0.2,
        "encoder": {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.1},
        "web": {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.1},
        "flares": flares,
        "limits": {"requests_per_s": 1e6, "burst": 1_000_000},
    }
    return from_dict(ServeConfig, values, where="the test")


@pytest.fixture(scope="module")
def client(ray_cluster, config):
    secret = Tokens(config.tokens).issue("test", ["admin"])
    with serving.serving(config) as address:
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx2.Client(base_url=address, headers=headers, timeout=60) as client:
            yield client


@pytest.fixture(scope="module")
def uploads():
    shard = surveys.list_shards(SURVEY).shards[0]
    found = next(item for item in surveys.read_shard(shard) if isinstance(item, Cutouts))
    return [
        (name, fits_bytes(image, found.bands))
        for name, image in zip(found.object_id_B[:12], found.image_BCYX[:12], strict=True)
    ]


def test_uploads_get_the_scores_of_the_catalog(client, config, uploads):
    assert client.get("/readyz").json() == {"status": "ready"}
    archive = Archive(config.run_dir)
    for name, body in uploads:
        answer = client.post("/v1/score", content=body, params={"exclude": name}).json()
        row = archive.table.slice(archive.find(name), 1).to_pylist()[0]
        assert answer["outlier_score"] == pytest.approx(row["outlier_score"], rel=1e-5)
        assert [one["object_id"] for one in answer["neighbors"]] == row["neighbor_id"]


def test_a_stranger_gets_nothing_through_the_proxy_either(client):
    answer = httpx2.get(f"{client.base_url}/v1/catalog")
    assert answer.status_code == 401
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_cluster_that_serves_is_refused_and_goes_on_serving(client, config):
    with (
        pytest.raises(ConfigError, match=r"runs on this cluster already \(astroray\)"),
        serving.serving(config),
    ):
        pass
    assert client.get("/readyz").status_code == 200


def test_a_proxy_that_cannot_listen_is_an_error_of_one_line(config, monkeypatch):
    def fail(**_):
        raise RuntimeError("ray::ProxyActor.ready()\nRuntimeError: Failed to bind to '[::1]:80'.")

    monkeypatch.setattr(serving.serve, "start", fail)
    with pytest.raises(BackendError, match=r"start: RuntimeError: Failed to bind to .*; choose "):
        serving._start_proxy(config)


def test_flares_are_forecast_by_the_model_that_the_server_was_given(client, config):
    answer = client.post("/v1/flares/forecast", content=curve_bytes(*star(days=8.0)))
    assert answer.status_code == 200
    model_id = load_forecaster(config.flares).model_id
    assert answer.json()["model_id"] == answer.headers["x-astroray-model"] == model_id
    assert 0 < answer.json()["windows"][-1]["probability"] < 1


def ask_and_kill(client, config, uploads, deployment):
    """Statuses of 180 requests of six clients, and wrong answers; a replica is killed meanwhile."""
    archive = Archive(config.run_dir)
    expected = {name: archive.embedding_ND[archive.find(name)] for name, _ in uploads}
    statuses: list[int] = []
    wrong: list[str] = []
    half_done = threading.Event()

    def ask(number):
        for turn in range(30):
            name, body = uploads[(number + turn) % len(uploads)]
            answer = client.post("/v1/embed", content=body)
            statuses.append(answer.status_code)
            if answer.status_code == 200 and not np.allclose(
                answer.json()["embedding"], expected[name], atol=1e-4
            ):
                wrong.append(name)
            if len(statuses) > 60:
                half_done.set()

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for asker in askers:
        asker.start()
    assert half_done.wait(60)
    ray.kill(_replicas(deployment)[0], no_restart=True)
    for asker in askers:
        asker.join()
    return Counter(statuses), wrong


def test_a_model_replica_that_is_killed_under_load_costs_no_answer(client, config, uploads):
    statuses, wrong = ask_and_kill(client, config, uploads, "ModelHolder")
    assert not wrong
    assert statuses == {200: 180}


def test_a_web_replica_that_is_killed_under_load_costs_no_answer(client, config, uploads):
    statuses, wrong = ask_and_kill(client, config, uploads, "WebApp")
    assert not wrong
    assert statuses == {200: 180}


def test_a_run_that_was_scanned_again_is_served_without_a_restart(client, config):
    archive = Archive(config.run_dir)
    before = client.get("/healthz").headers["x-astroray-run"]
    assert before == archive.run_id
    again = dataclasses.replace(archive.record, created="2026-02-02T02:02:02Z")
    again = dataclasses.replace(open_run(archive.run_dir, again), state="done")
    again.publish(archive.run_dir)
    assert "f00d-20260202T020202Z" in served_until(client, "f00d-20260202T020202Z")


def test_the_newest_version_in_the_folder_is_served_without_a_lost_request(client, config):
    old = Archive(config.run_dir)
    night = Path(config.run_dir, "2026-11-28")
    shutil.copytree(old.run_dir, night)
    record = dataclasses.replace(old.record, created="2026-11-28T02:02:02Z", state="running")
    record.publish(str(night))
    assert Archive(config.run_dir).run_id == old.run_id, "it is not finished"
    done = dataclasses.replace(record, state="done", finished="2026-11-28T03:03:03Z")
    assert client.get("/v1/catalog?limit=1").json()["run_id"] == old.run_id
    done.publish(str(night))
    found = served_until(client, done.run_id)
    assert found[-1] == done.run_id
    assert set(found) <= {old.run_id, done.run_id}


def served_until(client, wanted):
    """Ids of the runs that answers came from, until both replicas give the wanted one."""
    found: list[str] = []
    for _ in range(2000):
        answer = client.get("/v1/catalog?limit=1")
        assert answer.status_code == 200
        assert answer.json()["run_id"] == answer.headers["x-astroray-run"]
        found.append(answer.json()["run_id"])
        if found[-40:] == [wanted] * 40:
            break
    return found


def test_replicas_that_do_not_fit_are_refused_at_once(config):
    with pytest.raises(ConfigError, match=r"replicas need 0\.4 CPU, the cluster has 0\.2"):
        serving.check_room(config, [{"CPU": 0.2}])
    with pytest.raises(ConfigError, match=r"a replica needs 0\.1 CPU, no machine .* than 0\.05"):
        serving.check_room(config, [{"CPU": 0.05}] * 20)


def _replicas(deployment):
    """Handles of the actors of a deployment."""
    found = ray.util.list_named_actors(all_namespaces=True)
    return [
        ray.get_actor(one["name"], namespace=one["namespace"])
        for one in found
        if one["namespace"] == "serve" and f"#{deployment}#" in one["name"]
    ]
