"""Nights whose versions lie on S3: the list of a scan of everything, and one writer at a time."""

import sys

import pytest

from astroray import inspection, storage
from astroray.catalog import read_catalog
from astroray.leases import find_holder
from astroray.nightly import NightConfig, run_night
from astroray.surveys.simulated import write_survey
from astroray.versions import read_version
from tests import scans
from tests.test_nightly import EXACT

SURVEY = "sim:galaxies?count=60&seed=3&shard_rows=20&size=24"


def certified(table):
    return table.filter(table["certified"]).select(EXACT).drop_columns("score_kind")


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.faults
@pytest.mark.timeout(240)
def test_of_two_nights_at_once_on_s3_one_is_refused_and_the_other_proves_the_list(
    ray_cluster, s3, tmp_path
):
    write_survey(SURVEY, str(tmp_path / "made"))
    *old, new = sorted((tmp_path / "made" / "shards").glob("*.parquet"))
    folder = s3.new_prefix()
    sky, reference, out = (f"{folder}/{name}" for name in ("sky", "reference", "night"))
    for path in old:
        storage.publish(f"{sky}/{path.name}", path.read_bytes())
    scans.scan(sky, reference)
    before = digests(reference)
    storage.publish(f"{sky}/{new.name}", new.read_bytes())
    config = NightConfig(survey=sky, reference=reference, out=out, workers="1")
    refusals = []

    def show(progress):
        if progress.stage == "embed" and not refusals:
            words = ["--survey", sky, "--reference", reference, "--out", out]
            command = [sys.executable, "-c", scans.COMMAND, "nightly", *words]
            refusals.append(scans.run(command))

    record = run_night(config, show=show)
    assert refusals[0].code == 1
    assert "is being written by" in refusals[0].err
    assert (record.counts["catalog"], record.counts["inherited"]) == (60, 40)
    assert inspection.verify_run(out) == []
    assert find_holder(out) is None
    assert digests(reference) == before
    scans.scan(sky, f"{folder}/all", encoder__name=f"{reference}/model/model.safetensors")
    assert certified(read_version(out)).equals(certified(read_catalog(f"{folder}/all")))


def digests(run_dir):
    return {file.path: file.version for file in storage.list_files(run_dir)}
