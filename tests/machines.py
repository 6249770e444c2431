"""Machines on this one: each has an address, processes, a name and a /tmp of its own.

They are made of Linux namespaces. A program that runs `APART` is a network of its own, on which
it starts machines; all of them end with it. What a machine shares with others is the code and
the file systems outside /tmp.
"""

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["APART", "Machine", "address_of", "open_network", "start_machine", "why_not"]

APART = (
    "unshare", "--map-root-user", "--net", "--mount", "--mount-proc", "--pid", "--fork",
    "--kill-child",
)  # fmt: skip
"""Begins the command of a program that starts machines."""
SWITCH = "switch"
NETWORK = "10.77.0"
START_TIMEOUT_S = 30.0
BOOT = """
set -e
echo "$1" > /proc/sys/kernel/hostname
mount --bind "$3" /tmp
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done
ip address add "$2/24" dev eth0
ip link set eth0 up
ip route add default via "$4"
shift 4
exec "$@"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that runs one command, and ends with it."""

    name: str
    address: str
    tmp: Path
    """Its /tmp, seen from here; it stays when the machine is gone."""
    process: "subprocess.Popen[bytes]"

    def __str__(self) -> str:
        return self.name

    def is_running(self) -> bool:
        """Whether its command has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """Ends all its processes at once, as a kernel does that goes down."""
        self.process.kill()
        self.process.wait()

    def unplug(self) -> None:
        """Cuts it off and ends it: others hear nothing, not even that connections are closed."""
        _ip("link", "set", f"to-{self.name}", "down")
        self.kill()

    def ask_to_leave(self) -> None:
        """Sends SIGTERM to its command, as a cloud that takes a machine back."""
        (first,) = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        )
        os.kill(int(first), signal.SIGTERM)

    def log(self) -> str:
        """What its command wrote."""
        return (self.tmp / "log.txt").read_text(errors="replace")


def why_not() -> str:
    """Why no machines can be started here; empty where they can."""
    probe = ["ip", "link", "add", SWITCH, "type", "bridge"]
    try:
        ended = subprocess.run([*APART, *probe], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"no machines on this one: {error}"
    return ended.stderr.strip() and f"no machines on this one: {ended.stderr.strip()}"


def address_of(number: int) -> str:
    """The address of a machine."""
    return f"{NETWORK}.{number}"


def open_network() -> str:
    """Makes the network in a program that runs APART; returns the program's own address on it."""
    own = address_of(1)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", SWITCH, "type", "bridge")
    _ip("address", "add", f"{own}/24", "dev", SWITCH)
    _ip("link", "set", SWITCH, "up")
    return own


def start_machine(
    number: int, folder: Path, command: Sequence[str], env: Mapping[str, str]
) -> Machine:
    """Starts machine `number`, from 2 to 254, and the command on it. Raises RuntimeError.

    folder  holds what the machine writes to /tmp
    """
    name, address = f"m{number}", address_of(number)
    tmp = folder / name
    tmp.mkdir()
    boot = ["sh", "-c", BOOT, "boot", name, address, str(tmp), address_of(1), *command]
    unshare = ["unshare", "--net", "--uts", *APART[3:]]
    with open(tmp / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [*unshare, *boot], env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    machine = Machine(name=name, address=address, tmp=tmp, process=process)
    _wait_for_namespace(machine)
    wire = f"to-{name}"
    _ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
    _ip("link", "set", wire, "master", SWITCH, "up")
    return machine


def _wait_for_namespace(machine: Machine) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    ours, its = os.readlink("/proc/self/ns/net"), f"/proc/{machine.process.pid}/ns/net"
    while machine.process.poll() is None and time.monotonic() < until:
        if os.readlink(its) != ours:
            return
        time.sleep(0.01)
    raise RuntimeError(f"machine {machine.name} does not start: {machine.log()[-400:]}")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
