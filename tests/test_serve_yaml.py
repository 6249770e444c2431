"""The Serve YAML says what Ray and astroray understand, key by key."""

import asyncio
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.config import AutoscalingConfig, HTTPOptions
from ray.serve.schema import (
    DeploymentSchema,
    LoggingConfig,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from astroray import serving
from astroray.errors import ConfigError
from astroray.settings import from_dict
from astroray.web.serve_config import ServeConfig

TEXT = (Path(__file__).parents[1] / "cluster" / "serve.yaml").read_text()


def unknown_keys(values: dict, model: type[BaseModel]) -> set[str]:
    return set(values) - set(model.model_fields)


def test_every_key_is_one_that_ray_knows():
    values = yaml.safe_load(TEXT)
    ServeDeploySchema.model_validate(values)
    assert not unknown_keys(values, ServeDeploySchema)
    assert not unknown_keys(values["http_options"], HTTPOptions)
    assert not unknown_keys(values["logging_config"], LoggingConfig)
    for application in values["applications"]:
        assert not unknown_keys(application, ServeApplicationSchema)
        for deployment in application["deployments"]:
            assert not unknown_keys(deployment, DeploymentSchema)
            assert not unknown_keys(deployment["autoscaling_config"], AutoscalingConfig)


def test_its_application_is_built_with_its_deployments():
    (application,) = yaml.safe_load(TEXT)["applications"]
    module, _, name = application["import_path"].partition(":")
    assert (module, getattr(serving, name)) == (serving.__name__, serving.build)
    built = serving.build(application["args"])
    assert built._bound_deployment.name == "WebApp"
    for deployment in application["deployments"]:
        assert hasattr(serving, deployment["name"])


def test_a_key_that_astroray_does_not_know_is_refused():
    with pytest.raises(ConfigError, match=r"setting web.replicas in args of the Serve YAML"):
        serving.build({"run_dir": "x", "web": {"replicas": 3}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host": "0.0.0.0"}, "tokens would cross the network unencrypted"),
        ({"host": "sky.org"}, "set tls_cert and tls_key"),
        ({"tls_cert": "cert.pem"}, "needs both"),
        ({"port": 0}, "expected 1..65535"),
        ({"web": {"min_replicas": 3, "max_replicas": 2}}, "expected 1 <= min <= max"),
        ({"encoder": {"max_batch": 0}}, "expected at least 1"),
    ],
)
def test_settings_that_cannot_be_or_are_not_safe_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(ServeConfig, {"run_dir": "x", **values}, where="the test")


def test_loopback_and_https_and_a_proxy_in_front_are_safe(tmp_path):
    pem = tmp_path / "x.pem"
    pem.write_text("")
    for values in (
        {"host": "127.0.0.1"},
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "allow_plain_http": True},
        {"host": "0.0.0.0", "tls_cert": str(pem), "tls_key": str(pem)},
    ):
        from_dict(ServeConfig, {"run_dir": "x", **values}, where="the test")


def test_a_replica_looks_for_another_run_again_after_it_had_no_room_for_one(monkeypatch):
    found = []

    def look(run_dir):
        found.append(run_dir)
        raise MemoryError if len(found) == 1 else ConfigError("a scan is on its way")

    async def served(scope, receive, send):
        pass

    async def ask_twice():
        web = object.__new__(serving.WebApp)
        web.config, web.current, web.watcher = ServeConfig(run_dir="r", watch_s=1e-4), served, None
        app = web.__serve_build_asgi_app__()
        await app(None, None, None)
        await asyncio.wait([web.watcher])
        await app(None, None, None)
        while len(found) < 3:
            await asyncio.sleep(0)
        web.watcher.cancel()

    monkeypatch.setattr(serving, "finished_run", look)
    asyncio.run(asyncio.wait_for(ask_twice(), 10))
    assert set(found) == {"r"}
