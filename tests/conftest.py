"""What all test files share: fixtures, how examples are drawn, a checkout that stays clean."""

import contextlib
import gc
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.s3_server", "tests.job_cluster", "tests.web_server"]

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"

# The same examples in every run, on a machine however busy; `--hypothesis-profile search` draws
# others.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", _PATIENT)
settings.register_profile("suite", _PATIENT, derandomize=True)
settings.load_profile("suite")

ON_ONE_CLUSTER = ("scans", "fits")

LONG = (*ON_ONE_CLUSTER, "clusters", "test_osc_triton", "test_vfa_triton", "test_onnx_export")
"""What takes longest begins first, so that at the end no process waits for another."""
FITS_AND_SERVES = {
    "test_flares_find", "test_forecast_jobs", "test_run_model", "test_serving",
    "test_train_encoder", "test_training",
}  # fmt: skip
"""Modules on the second of the two clusters that `make test` has; each has half of the time."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What runs in one of the processes of `make test`, one test after the other, and what first.

    Tests on a cluster are two groups, so that there are but two, and tests that start clusters of
    their own are another. Of the others each file is a group: what a module's tests share is made
    once.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: LONG.index(group) if (group := _group(item)) in LONG else len(LONG)
        )


def pytest_collectstart() -> None:
    """What is imported stays: the garbage collector looks at it neither now nor in the tests."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Of what was imported the garbage collector would take an eighth of the time."""
    gc.freeze()
    gc.enable()


def _group(item: pytest.Item) -> str:
    if "ray_cluster" in getattr(item, "fixturenames", ()):
        return "fits" if item.path.stem in FITS_AND_SERVES else "scans"
    return "clusters" if item.get_closest_marker("ray") else item.path.stem


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        session.config.stash[_BEFORE] = _strangers(session.config.rootpath)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tests write to folders of their own: whatever they leave in the checkout is a failure."""
    before = session.config.stash.get(_BEFORE, None)
    if before is not None and (left := _strangers(session.config.rootpath) - before):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nFAILED: a test left in the checkout: {', '.join(sorted(left))}")  # noqa: T201


_BEFORE = pytest.StashKey[set[str]]()
_CLUSTER = pytest.StashKey[contextlib.ExitStack]()


def _strangers(root: Path) -> set[str]:
    """Paths that git does not know, without what tools keep there: caches, hidden or compiled."""
    command = ["git", "status", "--porcelain", "-z", "--ignored"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    paths = {line[3:] for line in done.stdout.split("\0") if line[:2] in ("??", "!!")}
    return {path for path in paths if not path.startswith(".") and "__pycache__" not in path}


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """Tests kill processes, and no machine loses power: thousands of files need no sync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real survey data beside the checkout, or `ASTRORAY_TEST_DATA`."""
    folder = Path(os.environ.get("ASTRORAY_TEST_DATA", REAL_DATA))
    if not folder.is_dir():
        pytest.skip(f"no real survey data at {folder}; set ASTRORAY_TEST_DATA to a copy")
    return folder


@pytest.fixture(scope="session")
def ray_cluster(pytestconfig: pytest.Config) -> Iterator[None]:
    """One local cluster for the whole process: 6 logical CPUs, its own token and folder.

    Its workers know the store of fixture `s3`, whether or not it runs.
    """
    import ray

    from astroray.execution import workers
    from tests import s3_server

    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            # Else they give way to every other process of `make test`, and this one waits for them.
            patch.setenv("RAY_worker_niceness", "0")
            s3_server.set_environment(patch, s3_server.session_store().env)
            stack.enter_context(workers.cluster(num_cpus=6))
        pytestconfig.stash[_CLUSTER] = stack
        yield
    assert not ray.is_initialized()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """In `make test` the cluster ends with its group: an idle one takes a 25th of a core."""
    if hasattr(item.config, "workerinput") and nextitem and _group(nextitem) not in ON_ONE_CLUSTER:
        item.config.stash.get(_CLUSTER, contextlib.ExitStack()).close()


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    from tests.s3_server import free_ports  # a plugin: not imported before pytest does

    return free_ports(1)[0]
