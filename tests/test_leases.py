"""Leases: one writer a run directory, taken over only from the dead, and fenced off after."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from astroray import processes, storage
from astroray.cli import cli
from astroray.errors import LedgerError, StorageError
from astroray.storage import leases

HERE = leases._this_machine()
MINE = leases.Owner(host="alpha", machine=HERE, pid=101, started="1")
NEIGHBOR = leases.Owner(host="alpha", machine=HERE, pid=202, started="2")
REMOTE = leases.Owner(host="beta", machine="another boot", pid=303, started="3")


class Clock:
    """Time that passes only when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def everyone_lives(owner: leases.Owner) -> bool:
    return True


def nobody_lives(owner: leases.Owner) -> bool:
    return False


def hold(run_dir, owner, clock, alive=everyone_lives):
    """The lease without a thread that renews it in time for any test to see."""
    return leases.hold_lease(run_dir, owner=owner, clock=clock, alive=alive, renew_s=3600)


def abandon(run_dir, owner, clock):
    """A lease whose owner goes without releasing it."""
    return leases._acquire(run_dir, owner, clock, everyone_lives, uuid.uuid4().hex)


def test_a_second_writer_is_refused_and_told_who_since_when_and_what_to_do(run_dir, clock):
    with hold(run_dir, MINE, clock):
        clock.now_s += 30
        with pytest.raises(LedgerError) as caught, hold(run_dir, NEIGHBOR, clock):
            pass
    message = str(caught.value)
    assert "process 101 on alpha" in message
    assert "since 2027-01-15T08:00:00Z" in message
    assert "kill 101" in message


def test_a_released_lease_is_free_at_once_and_its_epoch_is_not_used_again(run_dir, clock):
    with hold(run_dir, REMOTE, clock) as first:
        pass
    with hold(run_dir, MINE, clock) as second:
        assert second.epoch == first.epoch + 1
        assert leases._list_epochs(run_dir) == [second.epoch]


def test_a_lease_is_released_when_the_block_fails(run_dir, clock):
    with pytest.raises(RuntimeError, match="broken"), hold(run_dir, REMOTE, clock):
        raise RuntimeError("broken")
    assert leases.find_holder(run_dir, clock=clock, alive=everyone_lives) is None


def test_a_dead_process_of_this_machine_loses_its_lease_at_once(run_dir, clock):
    old = abandon(run_dir, NEIGHBOR, clock)
    with hold(run_dir, MINE, clock, alive=nobody_lives) as lease:
        assert lease.epoch == old.epoch + 1


def test_a_live_process_of_this_machine_keeps_its_lease_however_late_it_renews(run_dir, clock):
    abandon(run_dir, NEIGHBOR, clock)
    clock.now_s += 10 * leases.EXPIRY_S
    with pytest.raises(LedgerError, match="process 202"), hold(run_dir, MINE, clock):
        pass


def test_where_a_clock_went_back_the_lease_of_a_dead_machine_is_named(run_dir, clock):
    abandon(run_dir, REMOTE, clock)
    clock.now_s -= 3600
    with pytest.raises(LedgerError) as caught, hold(run_dir, MINE, clock):
        pass
    path = leases._path(run_dir, 1)
    assert f"has a wrong clock, once you delete {path}, then run" in str(caught.value)
    os.unlink(path)
    with hold(run_dir, MINE, clock):
        pass


def test_the_lease_of_another_machine_is_respected_until_it_expires(run_dir, clock):
    abandon(run_dir, REMOTE, clock)
    clock.now_s += leases.EXPIRY_S + leases.CLOCK_MARGIN_S - 1
    with (
        pytest.raises(LedgerError, match="free after 2027-01-15T08:01:30Z"),
        hold(run_dir, MINE, clock, alive=nobody_lives),
    ):
        pass
    clock.now_s += 1
    with hold(run_dir, MINE, clock, alive=nobody_lives) as lease:
        assert lease.epoch == 2


def test_renewal_puts_the_expiry_off(run_dir, clock):
    lease = abandon(run_dir, REMOTE, clock)
    clock.now_s += leases.EXPIRY_S
    lease.renew()
    clock.now_s += leases.EXPIRY_S
    assert leases.find_holder(run_dir, clock=clock).owner == REMOTE
    clock.now_s += leases.CLOCK_MARGIN_S
    assert leases.find_holder(run_dir, clock=clock) is None


def test_the_thread_renews_the_lease_while_the_block_runs(run_dir, clock, monkeypatch):
    renewed = threading.Event()
    publish = storage.publish

    def note(path: str, data: bytes) -> None:
        publish(path, data)
        renewed.set()

    monkeypatch.setattr(storage, "publish", note)
    with leases.hold_lease(run_dir, owner=REMOTE, clock=clock, renew_s=0.01):
        clock.now_s += 45
        renewed.clear()
        assert renewed.wait(60)
    assert not [t for t in threading.enumerate() if t.name == "lease"]


def test_a_writer_that_slept_too_long_is_fenced_off_by_the_next_one(run_dir, clock):
    asleep = abandon(run_dir, REMOTE, clock)
    clock.now_s += leases.EXPIRY_S + leases.CLOCK_MARGIN_S
    with hold(run_dir, MINE, clock) as lease:
        with pytest.raises(LedgerError, match="taken over by process 101 on alpha"):
            asleep.check()
        with pytest.raises(LedgerError, match="taken over"):
            asleep.renew()
        with pytest.raises(LedgerError, match="taken over"):
            asleep.release()
        lease.check()


def test_a_fenced_writer_that_writes_its_old_lease_again_changes_nothing(run_dir, clock):
    asleep = abandon(run_dir, REMOTE, clock)
    clock.now_s += leases.EXPIRY_S + leases.CLOCK_MARGIN_S
    with hold(run_dir, MINE, clock) as lease:
        late = dataclasses.replace(asleep._holder, expires_s=clock.now_s + 1000)
        storage.publish(leases._path(run_dir, asleep.epoch), leases._to_bytes(late))
        lease.check()
    assert leases.find_holder(run_dir, clock=clock, alive=everyone_lives) is None


def test_a_check_after_a_long_sleep_renews_the_lease_first(run_dir, clock):
    lease = abandon(run_dir, REMOTE, clock)
    clock.now_s += 10 * leases.EXPIRY_S
    lease.check()
    assert leases.find_holder(run_dir, clock=clock).owner == REMOTE


def test_a_check_renews_a_lease_that_has_lost_half_of_its_time(run_dir, clock):
    lease = abandon(run_dir, REMOTE, clock)
    clock.now_s += leases.EXPIRY_S / 2 + 1
    lease.check()
    clock.now_s += leases.EXPIRY_S + leases.CLOCK_MARGIN_S - 1
    assert leases.find_holder(run_dir, clock=clock) is not None


def test_a_ledger_in_which_others_are_always_faster_is_left_to_them(run_dir, clock, monkeypatch):
    monkeypatch.setattr(storage, "publish_new", lambda path, data: False)
    with pytest.raises(LedgerError, match="changes all the time"), hold(run_dir, MINE, clock):
        pass


def test_a_lease_that_vanishes_before_it_is_read_does_not_pass_for_none(
    run_dir, clock, monkeypatch
):
    abandon(run_dir, NEIGHBOR, clock)
    monkeypatch.setattr(leases, "_read", lambda run_dir, epoch: None)
    with pytest.raises(LedgerError, match="changes all the time"):
        leases.find_holder(run_dir, clock=clock)


def test_a_check_between_renewals_writes_nothing(run_dir, clock, monkeypatch):
    lease = abandon(run_dir, MINE, clock)
    monkeypatch.setattr(storage, "publish", None)
    clock.now_s += leases.RENEW_S
    lease.check()


def test_a_lease_whose_files_were_deleted_is_lost(run_dir, clock):
    lease = abandon(run_dir, MINE, clock)
    storage.delete(leases._path(run_dir, lease.epoch))
    with pytest.raises(LedgerError, match="lease file is gone"):
        lease.check()


def test_a_failed_renewal_does_not_pass_for_one_that_worked(run_dir, clock, monkeypatch):
    lease = abandon(run_dir, REMOTE, clock)
    clock.now_s += leases.EXPIRY_S

    def fail(path: str, data: bytes) -> None:
        raise StorageError("the store is down")

    monkeypatch.setattr(storage, "publish", fail)
    for _ in range(2):
        with pytest.raises(StorageError):
            lease.check()


def test_a_slow_process_that_fills_a_gap_below_the_holder_steps_back(run_dir, clock, monkeypatch):
    """It listed epoch 1, slept while others went 2, 3 and cleared 2 up, and then makes 2."""
    abandon(run_dir, NEIGHBOR, clock)
    publish_new = storage.publish_new

    def others_were_faster(path: str, data: bytes) -> bool:
        monkeypatch.setattr(storage, "publish_new", publish_new)
        with hold(run_dir, REMOTE, clock, alive=nobody_lives):
            pass
        abandon(run_dir, REMOTE, clock)
        assert path == leases._path(run_dir, 2)
        return publish_new(path, data)

    monkeypatch.setattr(storage, "publish_new", others_were_faster)
    with (
        pytest.raises(LedgerError, match="process 303 on beta"),
        hold(run_dir, MINE, clock, alive=nobody_lives),
    ):
        pass
    assert leases._list_epochs(run_dir) == [3]


def race(run_dir: str, num_writers: int) -> list[int]:
    """Epochs of those of `num_writers` that got the lease, all asking at the same moment."""
    gate = threading.Barrier(num_writers)
    clock = Clock()

    def ask(writer: int) -> int | None:
        owner = dataclasses.replace(NEIGHBOR, pid=1000 + writer)
        gate.wait()
        try:
            alive, token = lambda o: o.pid >= 1000, uuid.uuid4().hex
            return leases._acquire(run_dir, owner, clock, alive, token).epoch
        except LedgerError:
            return None

    with ThreadPoolExecutor(num_writers) as pool:
        return [epoch for epoch in pool.map(ask, range(num_writers)) if epoch is not None]


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_that_take_over_at_once_exactly_one_gets_it(run_dir, clock, attempt):
    abandon(run_dir, NEIGHBOR, clock)
    assert race(run_dir, num_writers=8) == [2]


@pytest.mark.s3
def test_on_s3_too_exactly_one_of_many_gets_it(s3, clock):
    run_dir = s3.new_prefix()
    abandon(run_dir, NEIGHBOR, clock)
    assert race(run_dir, num_writers=8) == [2]


@pytest.mark.s3
def test_on_s3_a_lease_is_held_released_and_fenced(s3, clock):
    run_dir = s3.new_prefix()
    with hold(run_dir, REMOTE, clock), pytest.raises(LedgerError), hold(run_dir, MINE, clock):
        pass
    asleep = abandon(run_dir, REMOTE, clock)
    asleep.check()
    clock.now_s += leases.EXPIRY_S + leases.CLOCK_MARGIN_S
    with hold(run_dir, MINE, clock) as lease:
        lease.check()
        with pytest.raises(LedgerError, match="process 101"):
            asleep.check()


@pytest.mark.s3
def test_a_lease_whose_first_answer_was_lost_is_still_one_s_own(flaky_s3, s3, clock):
    run_dir = s3.new_prefix()
    flaky_s3.faults[:] = ["", "lose"]  # the listing passes
    with hold(run_dir, MINE, clock) as lease:
        assert lease.epoch == 1
        assert sum(r.startswith("PUT") for r in flaky_s3.requests) == 2


def refuse(*_: object) -> None:
    raise StorageError("the disk is full")


def test_a_lease_that_a_full_disk_kept_does_not_lock_its_own_process_out(run_dir, monkeypatch):
    """A notebook goes on in the same process, once the disk has room again."""
    monkeypatch.setattr(storage, "publish", refuse)
    with leases.hold_lease(run_dir):
        pass
    monkeypatch.undo()
    assert leases.find_holder(run_dir) is None
    with (
        leases.hold_lease(run_dir) as lease,
        pytest.raises(LedgerError, match="this very process has it"),
        leases.hold_lease(run_dir),
    ):
        pass
    assert lease.epoch == 2


def test_nor_does_one_that_was_made_and_then_could_not_be_looked_at(run_dir, monkeypatch):
    def forget(path: str, data: bytes) -> bool:
        is_made = publish_new(path, data)
        monkeypatch.setattr(leases, "_find_last", refuse)
        return is_made

    publish_new = storage.publish_new
    monkeypatch.setattr(storage, "publish_new", forget)
    with pytest.raises(StorageError), leases.hold_lease(run_dir):
        pass
    monkeypatch.undo()
    with leases.hold_lease(run_dir) as lease:
        assert lease.epoch == 2


HOLD_AND_WAIT = """
import sys
from astroray.storage import leases
with leases.hold_lease(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(run_dir: str):
    """Another process that holds the lease and waits."""
    command = [sys.executable, "-c", HOLD_AND_WAIT, run_dir]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_live_process_is_known_as_such(run_dir, holder):
    assert leases.find_holder(run_dir).owner.pid == holder.pid
    with pytest.raises(LedgerError, match=f"kill {holder.pid}"), leases.hold_lease(run_dir):
        pass
    holder.communicate(b"", timeout=60)
    assert holder.returncode == 0  # to be asked for does it no harm


def test_a_killed_process_loses_its_lease_even_while_it_is_a_zombie(run_dir, holder):
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, but not yet buried
    with leases.hold_lease(run_dir) as lease:
        assert lease.epoch == 2


def test_a_process_that_ends_well_leaves_the_run_directory_free(run_dir, holder):
    holder.communicate(b"", timeout=60)
    assert leases.find_holder(run_dir) is None


def test_another_process_with_the_id_of_a_dead_one_does_not_hold_its_lease(run_dir, holder):
    path = Path(leases._path(run_dir, 1))
    fields = json.loads(path.read_text())
    fields["owner"]["started"] = "1"
    path.write_text(json.dumps(fields))
    assert leases.find_holder(run_dir) is None


def test_a_process_of_another_user_that_the_kernel_hides_counts_as_alive(monkeypatch):
    def forbid(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbid)
    monkeypatch.setattr(processes, "find_start", lambda pid: None)
    assert leases._is_alive(NEIGHBOR)


def test_a_file_that_is_no_lease_is_refused_by_its_name(run_dir, clock):
    storage.publish(leases._path(run_dir, 4), b"{}")
    with pytest.raises(LedgerError, match=r"000004\.json is no lease"), hold(run_dir, MINE, clock):
        pass


def test_a_block_that_fails_before_it_writes_leaves_neither_lease_nor_folder(tmp_path):
    with pytest.raises(RuntimeError), leases.hold_lease(str(tmp_path / "new" / "run")):
        raise RuntimeError("the survey is mistyped")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "here").mkdir()
    with pytest.raises(RuntimeError), leases.hold_lease(str(tmp_path / "here")):
        raise RuntimeError("the survey is mistyped")
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def fail_after(work, held):
    with held:
        work()
        raise RuntimeError("broken")


def test_a_block_that_fails_after_it_wrote_leaves_its_epoch_to_the_next(run_dir):
    def write():
        storage.publish(f"{run_dir}/ledger/shards.parquet", b"")

    with pytest.raises(RuntimeError):
        fail_after(write, leases.hold_lease(run_dir))
    with leases.hold_lease(run_dir) as lease:
        assert lease.epoch == 2


def test_a_failed_holder_takes_nothing_from_the_one_that_took_over(run_dir, clock):
    def sleep_until_another_takes_over():
        clock.now_s += leases.EXPIRY_S + leases.CLOCK_MARGIN_S
        abandon(run_dir, MINE, clock)

    with pytest.raises(RuntimeError):
        fail_after(sleep_until_another_takes_over, hold(run_dir, REMOTE, clock))
    found = leases.find_holder(run_dir, clock=clock, alive=everyone_lives)
    assert (found.owner, found.epoch) == (MINE, 2)


@pytest.mark.parametrize(
    "verb",
    [
        ("scan", "--encoder", "waves"),
        ("flares", "find"),
        ("train", "flares"),
        ("train", "encoder", "--model", "lc-tiny"),
    ],
    ids=lambda verb: "-".join(verb[:2]),
)
def test_a_mistyped_survey_leaves_nothing_where_the_result_should_be(verb, tmp_path):
    command = [*verb, f"{tmp_path}/lightcurvs/*.fits", "--out", f"{tmp_path}/new/out"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 2, done.output
    assert "lightcurvs" in done.output
    assert list(tmp_path.iterdir()) == []
