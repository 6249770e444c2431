"""A driver that dies at one point after another: what it needs is imported once, copies of it die.

A copy is made by fork before any work begins, so that each is as a new process of the program.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests import scans

__all__ = ["die_at_each"]

PROGRAM = """
import os, sys, traceback
from astroray import faults
from astroray_kernels import nearest  # with torch, which a search would load in each copy
{imports}
for plan in sys.argv[2:]:
    if copy := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]), flush=True)
        continue
    try:
        faults.arm(plan)
        {call}
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
"""


def die_at_each(
    deaths: Sequence[tuple[str, str]], folder: Path, *, imports: str, call: str, argument: str
) -> None:
    """Has `call` die by SIGKILL at each point in turn, and checks that it did.

    deaths    points, and a part of the detail there
    folder    for the fault plans, one a death
    imports   lines of Python that are run once; `argument` is sys.argv[1]
    call      the line that is run for each death, in a process of its own
    """
    plans = [folder / f"plan-{place}" for place in range(len(deaths))]
    tokens = [scans.token(plan, *death) for plan, death in zip(plans, deaths, strict=True)]
    program = PROGRAM.format(imports=imports, call=call)
    command = [sys.executable, "-c", program, argument, *map(str, plans)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    codes = dict(zip(deaths, ended.stdout.split(), strict=False))
    assert codes == dict.fromkeys(deaths, "-9"), (codes, ended.stderr)
    assert not any(token.exists() for token in tokens)
