"""Plans that would hang are refused; a local Ray is started behind a token, and leaves nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import pytest

from astroray.errors import BackendError, ConfigError, DataError, StorageError
from astroray.execution import session_folder, tasks, workers
from astroray.execution.workers import plain_errors, plan_workers, remotely


def plan(workers="auto", *, num_gpus=None, num_shards=100, **resources):
    return plan_workers(
        workers=workers, num_gpus=num_gpus, num_shards=num_shards, machines=[resources]
    )


def plan_on(*machines, workers="auto", num_gpus=None):
    return plan_workers(workers=workers, num_gpus=num_gpus, num_shards=100, machines=machines)


def test_two_workers_fit_on_two_cores_and_leave_room_to_read():
    got = plan(CPU=2.0)
    assert (got.min_workers, got.max_workers, got.device) == (2, 2, "cpu")
    assert got.max_workers * got.num_cpus < 2


def test_one_core_has_one_worker():
    assert plan(CPU=1.0).max_workers == 1


def test_no_more_workers_than_shards():
    assert plan(CPU=64.0, num_shards=3).max_workers == 3
    assert plan(CPU=64.0, num_shards=0).max_workers == 1


def test_a_pool_may_grow_within_bounds():
    got = plan("1..2", CPU=2.0)
    assert (got.min_workers, got.max_workers) == (1, 2)
    got = plan("2..500", num_shards=1000, CPU=2.0)  # a cluster that scales up may get there
    assert (got.min_workers, got.max_workers) == (2, 500)


@pytest.mark.parametrize("workers", ["3", "3..9", "100"])
def test_a_plan_that_would_hang_is_refused_with_what_fits(workers):
    with pytest.raises(ConfigError, match=r"only 2 fit: each needs 0\.75 CPUs"):
        plan(workers, CPU=2.0)


@pytest.mark.parametrize("workers", ["0", "-1", "two", "3..1", "..", "1...2"])
def test_workers_that_are_no_number_are_refused(workers):
    with pytest.raises(ConfigError, match=r"expected auto, N, or MIN\.\.MAX"):
        plan(workers, CPU=4.0)


def test_a_gpu_each_where_there_are_any():
    got = plan(CPU=16.0, GPU=4.0)
    assert (got.max_workers, got.num_gpus, got.device) == (4, 1.0, "cuda")


def test_a_fraction_of_a_gpu_makes_room_for_more_workers():
    got = plan(num_gpus=0.25, CPU=16.0, GPU=2.0)
    assert (got.max_workers, got.num_gpus, got.device) == (8, 0.25, "cuda")


def test_gpus_can_be_left_alone():
    got = plan(num_gpus=0.0, CPU=4.0, GPU=4.0)
    assert (got.max_workers, got.device) == (4, "cpu")


def test_a_gpu_that_is_asked_for_and_absent_is_an_error():
    with pytest.raises(ConfigError, match=r"needs 0\.75 CPUs and 1 GPUs, the cluster has 2 and 0"):
        plan(num_gpus=1.0, CPU=2.0)


def test_a_worker_lies_on_one_machine_and_a_fraction_on_one_gpu():
    head, node = {"CPU": 32.0}, {"CPU": 4.0, "GPU": 8.0}
    assert plan_on(head, node).max_workers == 5  # CPUs of the head are of no use to its GPUs
    assert plan_on({"CPU": 8.0, "GPU": 2.0}, num_gpus=0.6).max_workers == 2
    with pytest.raises(ConfigError, match=r"only 4 fit: .* of 4 and 0 on 4 machines"):
        plan_on(*[{"CPU": 1.0}] * 4, workers="5")
    with pytest.raises(
        ConfigError, match=r"needs 0\.75 CPUs and 2 GPUs, the cluster has 16 and 2 "
    ):
        plan_on(*[{"CPU": 8.0, "GPU": 1.0}] * 2, num_gpus=2.0)


@pytest.mark.ray
def test_a_worker_s_own_error_comes_back_as_it_was(ray_cluster):
    def refuse():
        raise StorageError("the disk is full; free some space")

    with pytest.raises(StorageError, match=r"^the disk is full; free some space$"):
        remotely(refuse, num_cpus=0.5)()

    def fail():
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        remotely(fail, num_cpus=0.5)()


@pytest.mark.ray
def test_an_error_inside_ray_data_comes_back_as_it_was(ray_cluster):
    import ray.data

    def refuse(batch):
        raise DataError("row 3 is broken")

    rows = ray.data.from_items([{"x": 1}]).map_batches(refuse)
    with pytest.raises(DataError, match=r"^row 3 is broken$"), plain_errors():
        rows.take_all()


@pytest.mark.ray
def test_the_cluster_asks_for_a_token_reports_nothing_home_and_watches_no_machine(ray_cluster):
    import ray

    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "0"
    assert ray.cluster_resources()["CPU"] == 6


HOLD_SCRATCH = """
from astroray.execution import session_folder
with session_folder.scratch() as folder:
    print(folder, flush=True)
    input()
"""


def test_the_scratch_of_dead_processes_is_removed_and_that_of_living_ones_stays():
    """A process may live where nobody here can see its id, as in another container."""
    left = Path(tempfile.mkdtemp(prefix=session_folder.SCRATCH_PREFIX, dir="/tmp"))
    with contextlib.suppress(FileNotFoundError):  # whatever starts beside this test may clear it up
        (left / "session").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_SCRATCH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        of_another = Path(process.stdout.readline().strip())
        with session_folder.scratch() as mine, session_folder.scratch() as other:
            assert_removed(left)
            assert of_another.is_dir()
            assert os.path.isdir(mine)
            assert os.path.isdir(other)
        assert not os.path.exists(mine)
        process.kill()
    with session_folder.scratch():
        assert_removed(of_another)


def assert_removed(folder: Path) -> None:
    """Another process may be removing it at this moment, and then this one leaves it alone."""
    deadline = time.monotonic() + 60
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not folder.exists()


def test_a_scratch_that_is_taken_for_left_before_it_is_locked_is_made_anew(monkeypatch):
    lock, taken = session_folder._locked, []

    @contextlib.contextmanager
    def late(folder):
        if not taken:
            taken.append(folder)
            os.rmdir(folder)
        with lock(folder):
            yield

    monkeypatch.setattr(session_folder, "_locked", late)
    with session_folder.scratch() as mine:
        assert os.path.isdir(mine)
        assert mine != taken[0]


def nodes_at(*addresses):
    return [
        {"Alive": True, "NodeManagerAddress": address, "Resources": {"CPU": 4.0}}
        for address in addresses
    ]


def starts_of(monkeypatch, errors):
    """What Ray's start raises each time, and the list of what has not been asked for yet."""
    left = list(errors)

    def init(**options):
        if left and (error := left.pop(0)):
            raise error

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init))
    return left


def test_a_start_that_took_too_long_is_tried_again_and_leaves_no_process(monkeypatch, tmp_path):
    starts_of(monkeypatch, [Exception("The current node timed out during startup.")])
    code = "import time; print('here', flush=True); time.sleep(60)"
    held = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(held, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()  # before, the kernel may not know its command line yet
        workers._init(joined=True, num_cpus=None, scratch=str(tmp_path))
        assert process.wait() == -signal.SIGKILL


def test_ray_that_never_starts_is_the_machine_s_error(monkeypatch, tmp_path):
    left = starts_of(monkeypatch, [Exception("timed out")] * (workers.NUM_STARTS + 1))
    with pytest.raises(BackendError, match="Ray does not start: timed out; run `astroray doctor`"):
        workers._init(joined=True, num_cpus=None, scratch=str(tmp_path))
    assert len(left) == 1


@pytest.mark.parametrize(("load", "told"), [(7.0, True), (5.0, False)])
def test_that_a_machine_is_busy_is_said_where_ray_does_not_start(load, told, monkeypatch):
    monkeypatch.setattr(workers.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(workers.allowance, "num_cores", lambda: 2)
    text = str(workers._not_started(Exception("timed out")))
    assert text.endswith("to do: its load is 7 on 2 cores" if told else "this machine lacks")


def test_another_error_of_ray_s_start_is_not_tried_again(monkeypatch, tmp_path):
    left = starts_of(monkeypatch, [KeyError("a bug"), None])
    with pytest.raises(KeyError):
        workers._init(joined=True, num_cpus=None, scratch=str(tmp_path))
    assert len(left) == 1


@pytest.mark.ray
def test_a_cluster_of_its_own_listens_on_loopback_alone(ray_cluster):
    import psutil
    import ray

    (node,) = ray.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1"
    listens = {
        socket.laddr.ip.removeprefix("::ffff:")
        for process in psutil.Process().children(recursive=True)
        if "ray" in " ".join(process.cmdline())
        for socket in process.net_connections("tcp")
        if socket.status == psutil.CONN_LISTEN
    }
    assert listens == {"127.0.0.1"}


@pytest.mark.ray
def test_a_cluster_of_its_own_has_no_process_that_waits_for_what_never_comes(ray_cluster):
    import psutil

    commands = [" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)]
    assert any("raylet" in command for command in commands)
    assert not [command for command in commands if "monitor.py" in command]


def test_a_local_folder_on_several_machines_is_refused(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: nodes_at("10.0.0.1", "10.0.0.2"))
    with pytest.raises(ConfigError, match=r"out is /tmp/x.*2 machines.*give an s3:// address"):
        workers.refuse_local("s3://runs/y", "/tmp/x")
    workers.refuse_local("s3://runs/y", "s3://runs/x")


def test_a_local_folder_on_one_machine_is_fine_however_many_nodes_it_plays(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: nodes_at("10.0.0.1", "10.0.0.1"))
    workers.refuse_local("/tmp/x")
    assert workers.cpus_of_one_machine() == 4


@pytest.mark.ray
def test_the_session_s_cluster_is_one_machine(ray_cluster):
    workers.refuse_local("/tmp/x")
    assert workers.cpus_of_one_machine() == 6


@pytest.mark.ray
def test_what_several_tasks_are_told_is_stored_once_and_reaches_each_of_them(ray_cluster):
    import ray

    shared = {"shards": list(range(1000))}
    told = [(shared, 3, "x"), (shared, 3, "x"), ({"shards": [1]}, 3, None)]
    stored = list(tasks.put_once(told))
    assert isinstance(stored[0][0], ray.ObjectRef)
    assert stored[0][0] is stored[1][0]
    assert [args[1:] for args in stored] == [args[1:] for args in told]
    assert stored[2] == told[2]
    each = workers.each_remotely(num_cpus=0.5, at_once=2)
    found = dict(each(lambda plan, number, text: (len(plan["shards"]), number, text), told))
    assert found == {0: (1000, 3, "x"), 1: (1000, 3, "x"), 2: (1, 3, None)}


@pytest.mark.ray
@pytest.mark.parametrize("repeats_late", [True, False])
def test_a_late_task_is_begun_once_more_where_that_is_allowed(
    ray_cluster, tmp_path, monkeypatch, repeats_late
):
    monkeypatch.setattr(tasks, "LATE_S", 0.3)

    def work(number):
        """Task 2 is late until it has been begun once more."""
        begun = [tmp_path / f"{number}-{turn}" for turn in range(2)]
        turn = int(begun[0].exists())
        begun[turn].touch(exist_ok=False)
        until_s = time.monotonic() + (60 if repeats_late else 1)
        while number == 2 and not begun[1].exists() and time.monotonic() < until_s:
            time.sleep(0.02)
        return number, turn

    each = workers.each_remotely(num_cpus=0.5, at_once=2, repeats_late=repeats_late)
    dict(each(time.sleep, [(0.2,), (0.2,)]))  # both workers are there
    found = dict(each(work, [(number,) for number in range(3)]))
    assert found == {0: (0, 0), 1: (1, 0), 2: (2, int(repeats_late))}
    assert len(list(tmp_path.iterdir())) == 3 + repeats_late


@pytest.mark.ray
def test_a_function_is_called_on_each_machine_and_its_error_is_told(ray_cluster, tmp_path):
    workers.on_each_machine(lambda: (tmp_path / "called").touch())
    assert (tmp_path / "called").exists()
    with pytest.raises(ZeroDivisionError):
        workers.on_each_machine(lambda: 1 / 0)


def test_a_machine_that_is_too_busy_for_ray_is_an_error_in_one_sentence(monkeypatch):
    def init(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    words = r"Ray does not start: .* timed out .*astroray doctor"
    with pytest.raises(BackendError, match=words), workers.cluster():
        pass
