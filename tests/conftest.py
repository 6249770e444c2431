"""Fixtures that several test files share: the real data, the local Ray cluster."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.s3_server", "tests.job_cluster"]

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the processes of `make test`, one has all tests on the shared cluster: there is but one.

    Tests that start clusters of their own are another group, which comes when a process is free.
    """
    for item in items:
        if item.get_closest_marker("ray"):
            is_shared = "ray_cluster" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("ray" if is_shared else "clusters"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real survey data beside the checkout, or `ASTRORAY_TEST_DATA`."""
    folder = Path(os.environ.get("ASTRORAY_TEST_DATA", REAL_DATA))
    if not folder.is_dir():
        pytest.skip(f"no real survey data at {folder}; set ASTRORAY_TEST_DATA to a copy")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local cluster for the whole session: 6 logical CPUs, its own token and folder."""
    import ray

    from astroray.execution import workers

    with workers.cluster(num_cpus=6):
        yield
    assert not ray.is_initialized()


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
