"""Whatever breaks, there is a clear error or a counted reject, and nothing else is lost."""

import ast
import dataclasses
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from click.testing import CliRunner
from PIL import Image

import astroray
from astroray import attempts, faults, ledger, moments, pipeline, storage, surveys
from astroray.actors.embed import Embedder, EmbedPlan
from astroray.catalog import read_catalog
from astroray.cli import cli
from astroray.errors import LedgerError, StorageError
from astroray.inspection import reopen_rejected, verify_run
from astroray.receipts import done_shards, read_receipt
from astroray.run_record import RunRecord
from astroray.settings import to_dict
from astroray.storage.leases import hold_lease
from tests import scans
from tests.surveys_made import write_pictures

pytestmark = pytest.mark.faults

SIMULATED = "sim:galaxies?count=90&size=16&shard_rows=15&outliers=0.05"
NUM_SHARDS = 6


def embed_all(survey: str, run_dir: Path, model_path: str, *, session: str = "S1"):
    """All shards of a survey through one worker, without Ray; the receipts by file name."""
    embedder = Embedder(plan_of(run_dir, model_path, session=session))
    return [embedder.embed(shard) for shard in surveys.list_shards(survey).shards]


def plan_of(run_dir: Path | str, model_path: str, *, session: str = "S1") -> EmbedPlan:
    return EmbedPlan(run_dir=str(run_dir), model_path=model_path, session=session, batch_size=8)


def rejects_of(run_dir: Path) -> dict[tuple[str, int | None], tuple[str, str]]:
    """Class and reason by readable name of the shard and row."""
    rows = ledger.read_rejects(str(run_dir)).to_pylist()
    return {
        (row["shard"].rpartition("-")[0], row["row"]): (row["class"], row["reason"]) for row in rows
    }


def embedded_ids(run_dir: Path) -> set[str]:
    tables = [pq.read_table(path) for path in (run_dir / "embeddings").glob("*.parquet")]
    return {name for table in tables for name in table["object_id"].to_pylist()}


# ---- the table of points


def test_every_point_in_the_code_is_in_the_table_and_the_other_way_round():
    used = set()
    for path in Path(astroray.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "faults.reach":
                assert isinstance(node.args[0], ast.Constant), path
                used.add(node.args[0].value)
    assert used == set(faults.POINTS)


def test_a_process_without_a_plan_passes_every_point():
    for point in faults.POINTS:
        faults.reach(point)


def test_a_token_kills_once_and_only_where_its_text_is(tmp_path):
    (tmp_path / "reached").touch()
    scans.token(tmp_path, "shard.done", "b")
    program = (
        "import sys; from astroray import faults; faults.arm(sys.argv[1]); "
        "faults.reach('shard.done', 'a'); faults.reach('shard.done', 'b')"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert [subprocess.run(command, check=False).returncode for _ in range(2)] == [-9, 0]
    assert scans.reached(tmp_path) == [("shard.done", "a"), ("shard.done", "b")] * 2


# ---- one kill of each class: driver, worker, write, search


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A scan in this process with a trained fit, undisturbed, and the points that it reached."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "plan").mkdir()
    (folder / "plan" / "reached").touch()
    settings = {"fit__num_passes": 1, "fit__budget_s": None, "encoder__name": "cae"}
    settings["search__index"] = "sharded"
    with scans.fits_here():
        scans.scan(SIMULATED, folder / "run", fault_plan=str(folder / "plan"), **settings)
    return folder / "run", scans.reached(folder / "plan")


def test_every_point_but_that_of_a_night_is_reached_in_a_scan(undisturbed):
    assert {point for point, _ in undisturbed[1]} == set(faults.POINTS) - {"inherited"}


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_killed_workers_a_killed_write_and_a_killed_driver_change_no_byte(
    ray_cluster, undisturbed, tmp_path
):
    run_dir, _ = undisturbed
    model = str(run_dir / "model" / "model.safetensors")
    names = [shard.name for shard in surveys.list_shards(SIMULATED).shards]
    plan, out = tmp_path / "plan", tmp_path / "run"
    tokens = [
        scans.token(plan, "shard.encoded", names[0]),
        scans.token(plan, "publish.written", f"{names[1]}.parquet"),
        scans.token(plan, "shard.done", names[2]),
        scans.token(plan, "receipt", names[3]),
    ]
    (plan / "reached").touch()
    settings = {"encoder__name": model, "fault_plan": str(plan)}
    command = scans.scan_command(SIMULATED, out, **settings)
    ended = scans.run(command, env=scans.this_cluster())
    assert ended.is_killed, ended.err
    assert not any(token.exists() for token in tokens)
    done = done_shards(str(out))
    assert len(done) >= 4
    assert verify_run(str(out)) == []
    assert not (out / "catalog").exists()

    tokens = [scans.token(plan, "search.file", "Npix"), scans.token(plan, "search.found")]
    record = scans.scan(SIMULATED, out, **settings)
    assert not any(token.exists() for token in tokens)
    assert record.state == "done"
    assert verify_run(str(out)) == []
    assert scans.catalog_bytes(out) == scans.catalog_bytes(run_dir)
    steps = scans.reached(plan)
    for name in names:  # begun once, and once more for each death before its done mark stood
        last = max(i for i, step in enumerate(steps) if step == ("shard.begun", name))
        assert ("shard.done", name) not in steps[:last]


# ---- a survey of broken shards, scanned once

BROKEN = "{}/survey?bands=g,r,i"
FINE = {"a": 12, "e-size": 5, "j": 8, "h-gone": 4, "i-kills": 4, "g-cut": 6}


def write_stack(path: Path, count: int, *, shape=(3, 16, 16), ids=None) -> None:
    name = path.stem
    random = np.random.default_rng(zlib.crc32(name.encode()))
    y, x = (np.arange(size) - (size - 1) / 2 for size in shape[1:])
    width_N = random.uniform(2, 5, (count, 1, 1, 1))
    image_NCYX = np.exp(-(y[:, None] ** 2 + x**2) / (2 * width_N**2)) * random.uniform(
        20, 90, (count, shape[0], 1, 1)
    ) + random.normal(0, 1, (count, *shape))
    image_NCYX = image_NCYX.astype(np.float32)
    if name == "b-nan":
        image_NCYX[2], image_NCYX[4] = np.nan, 0.0
    ids = ids or [f"{name}-{i}" for i in range(count)]
    np.savez(path, images=image_NCYX, object_id=np.array(ids, dtype="U20"))


def write_broken(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("a", "j", "h-gone", "i-kills", "g-cut"):
        write_stack(folder / f"{name}.npz", FINE[name])
    write_stack(folder / "b-nan.npz", 6)
    ids = ["c-0", "c-0", "c-2", "c-3", "c-4", "a-7"]  # within the shard, and across
    write_stack(folder / "c-twice.npz", 6, ids=ids)
    write_stack(folder / "d-shape.npz", 5, shape=(4, 16, 16))
    write_stack(folder / "e-size.npz", FINE["e-size"], shape=(3, 20, 24))
    write_stack(folder / "f-empty.npz", 0)
    cut = folder / "g-cut.npz"
    cut.write_bytes(cut.read_bytes()[:-700])


@pytest.fixture(scope="module")
def broken(ray_cluster, tmp_path_factory):
    """The run directory of the broken survey; one file goes between listing and reading."""
    folder = tmp_path_factory.mktemp("broken")
    write_broken(folder / "survey")
    model = scans.fit_model(f"{folder}/survey/a.npz?bands=g,r,i", folder / "model.safetensors")
    for nth in range(1, attempts.MAX_DEATHS + 1):
        scans.token(folder / "plan", "shard.begun", "i-kills", nth=nth)

    def show(progress):
        if progress.stage == "embed" and progress.shards_done == 0:
            (folder / "survey" / "h-gone.npz").unlink(missing_ok=True)

    settings = {"encoder__name": model, "fault_plan": str(folder / "plan"), "workers": "2"}
    config = scans.small_config(BROKEN.format(folder), folder / "run", **settings)
    try:
        record = pipeline.scan(config, show=show)
    finally:
        faults.arm("")
    return folder, record


@pytest.fixture(scope="module")
def broken_rejects(broken):
    return rejects_of(broken[0] / "run")


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("shard", "row", "kind", "reason"),
    [
        ("b-nan", 2, "missing", "100% of the pixels are missing"),
        ("b-nan", 4, "constant", "all pixels are 0"),
        ("c-twice", 1, "duplicate", "object_id c-0 is also in row 0"),
        ("c-twice", 5, "duplicate", "object_id a-7 is also in row 7 of shard a-"),
        ("d-shape", None, "unreadable", "d-shape.npz"),
        ("g-cut", None, "unreadable", "g-cut.npz is no whole .npy, .npz or HDF5 file"),
        ("h-gone", None, "unreadable", "h-gone.npz is missing"),
        ("i-kills", None, "quarantine", f"killed its worker {attempts.MAX_DEATHS} times"),
    ],
)
def test_a_broken_input_is_a_counted_reject_with_its_reason(
    broken_rejects, shard, row, kind, reason
):
    assert broken_rejects[shard, row][0] == kind
    assert reason in broken_rejects[shard, row][1]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_nothing_else_of_a_broken_survey_is_lost(broken, broken_rejects):
    folder, record = broken
    expected = {f"{name}-{i}" for name in ("a", "e-size", "j") for i in range(FINE[name])}
    expected |= {f"b-nan-{i}" for i in (0, 1, 3, 5)} | {"c-0", "c-2", "c-3", "c-4"}
    assert set(read_catalog(str(folder / "run"))["object_id"].to_pylist()) == expected
    assert len(broken_rejects) == 8
    counts = record.counts
    assert (counts.shards, counts.shards_rejected) == (10, 4)
    assert (counts.rows_read, counts.rows_rejected) == (37, 2)
    assert (counts.rows_embedded, counts.duplicates, counts.catalog) == (35, 2, 33)
    empty = next(n for n in done_shards(str(folder / "run")) if n.startswith("f-empty"))
    assert read_receipt(str(folder / "run"), empty).rows_read == 0
    assert verify_run(str(folder / "run")) == []


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_retry_heals_what_was_mended_and_leaves_the_rest_alone(broken, tmp_path):
    run_dir, survey = tmp_path / "run", broken[0] / "survey"
    shutil.copytree(broken[0] / "run", run_dir)
    before = {p.name: p.read_bytes() for p in (run_dir / "embeddings").iterdir()}
    for name in ("h-gone", "g-cut"):
        write_stack(survey / f"{name}.npz", FINE[name])
    with scans.workers_here():
        ended = CliRunner().invoke(cli, ["retry-rejects", str(run_dir)])
    assert ended.exit_code == 0, ended.output + ended.stderr
    assert "4 shards have rejects that may pass now" in ended.stdout
    assert "47 objects scored, 2 rows and 1 shard rejected" in ended.stdout
    kinds = {key: kind for key, (kind, _) in rejects_of(run_dir).items()}
    assert sorted(kinds) == [
        ("b-nan", 2), ("b-nan", 4), ("c-twice", 1), ("c-twice", 5), ("d-shape", None)
    ]  # fmt: skip
    ids = set(read_catalog(str(run_dir))["object_id"].to_pylist())
    assert {f"{name}-{i}" for name, count in FINE.items() for i in range(count)} <= ids
    after = {p.name: p.read_bytes() for p in (run_dir / "embeddings").iterdir()}
    assert {name: after[name] for name in before} == before
    assert verify_run(str(run_dir)) == []


# ---- pictures and FITS files, without Ray


def picture_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header says how large it would be."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"\0" * 100), b"IEND"]
    packed = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_corrupt_missing_and_exploding_pictures_are_rejects_of_their_rows(tmp_path):
    paths = write_pictures(tmp_path / "pictures", 14)
    survey = str(tmp_path / "pictures")
    model = scans.fit_model(survey, tmp_path / "model.safetensors")
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    paths[2].write_bytes(b"")
    paths[4].write_bytes(b"<html>not found</html>")
    paths[7].write_bytes(picture_that_claims(60_000, 60_000))
    Image.new("RGB", (24, 24)).save(paths[10])
    (shard,) = surveys.list_shards(survey).shards
    paths[12].unlink()
    receipt = Embedder(plan_of(tmp_path / "run", model)).embed(shard)
    kinds = {row: kind for (_, row), (kind, _) in rejects_of(tmp_path / "run").items()}
    assert kinds == {
        1: "corrupt", 2: "corrupt", 4: "corrupt", 7: "bomb", 10: "constant", 12: "missing"
    }  # fmt: skip
    assert (receipt.rows_read, receipt.rows_embedded, receipt.rows_rejected) == (14, 8, 6)
    assert embedded_ids(tmp_path / "run") == {f"p{i:04d}" for i in range(14) if i not in kinds}
    reasons = {row: reason for (_, row), (_, reason) in rejects_of(tmp_path / "run").items()}
    assert all(str(paths[row]) in reasons[row] for row in (1, 2, 4, 7, 12))
    assert "60000 x 60000 pixels" in reasons[7]


def test_only_shards_whose_rejects_may_have_gone_are_opened_again(tmp_path):
    paths = write_pictures(tmp_path / "pictures", 8)
    survey = f"{tmp_path}/pictures?shard_files=4"
    model = scans.fit_model(survey, tmp_path / "model.safetensors")
    Image.new("RGB", (24, 24)).save(paths[6])  # stays as black as it is
    shards = surveys.list_shards(survey).shards
    data = paths[1].read_bytes()
    paths[1].unlink()
    run_dir = str(tmp_path / "run")
    config = to_dict(scans.small_config(survey, run_dir, encoder__name=model))
    record = RunRecord(survey=survey, fingerprint="f", config=config, created=moments.now())
    record.publish(run_dir)
    ledger.write_listing(run_dir, shards)
    for shard in shards:
        Embedder(plan_of(run_dir, model)).embed(shard)
    kinds = {row: kind for (_, row), (kind, _) in rejects_of(tmp_path / "run").items()}
    assert kinds == {1: "missing", 2: "constant"}
    paths[1].write_bytes(data)
    _, reopened = reopen_rejected(run_dir)
    assert reopened == [shards[0].name]
    assert done_shards(run_dir) == {shards[1].name}
    with hold_lease(run_dir), pytest.raises(LedgerError, match="this very process has it"):
        reopen_rejected(run_dir)


def test_a_truncated_fits_file_is_one_reject_and_the_others_are_embedded(tmp_path):
    random = np.random.default_rng(4)
    for name in ("a", "b", "c"):
        cube_NCYX = random.normal(5, 1, (8, 2, 16, 16)).astype(np.float32)
        cube_NCYX[:, :, 5:9, 6:11] += random.uniform(10, 40, (8, 1, 1, 1)).astype(np.float32)
        (tmp_path / "cubes").mkdir(exist_ok=True)
        fits.PrimaryHDU(cube_NCYX).writeto(tmp_path / "cubes" / f"{name}.fits")
    survey = f"{tmp_path}/cubes?layout=cube&bands=g,r"
    model = scans.fit_model(survey, tmp_path / "model.safetensors")
    cut = tmp_path / "cubes" / "b.fits"
    cut.write_bytes(cut.read_bytes()[:-9000])
    receipts = embed_all(survey, tmp_path / "run", model)
    assert [r.shard_rejected for r in receipts] == [False, True, False]
    assert [r.rows_embedded for r in receipts] == [8, 0, 8]
    ((key, (kind, reason)),) = rejects_of(tmp_path / "run").items()
    assert (key, kind) == (("b", None), "unreadable")
    assert "b.fits" in reason
    assert "truncated" in reason


# ---- the disk and the store

ON_SMALL_DISKS = """
import subprocess, sys
from astroray import surveys
from astroray.actors.embed import Embedder, EmbedPlan
from astroray.errors import StorageError
survey, model, *cases = sys.argv[1:]
shards = surveys.list_shards(survey).shards
def mount(disk, options):
    subprocess.run(["mount", *options.split(), "tmpfs", disk], check=True)
for disk, trouble, cure in zip(cases[::3], cases[1::3], cases[2::3]):
    mount(disk, "-t tmpfs -o size=50m")
    plan = EmbedPlan(run_dir=disk + "/run", model_path=model, session="S1", batch_size=8)
    embedder = Embedder(plan)
    embedder.embed(shards[0])
    mount(disk, "-o remount," + trouble)
    try:
        done = [embedder.embed(shard) for shard in shards]
    except StorageError as error:
        print("error:", error)
    mount(disk, "-o remount," + cure)
    print("rows:", *[embedder.embed(shard).rows_embedded for shard in shards])
    subprocess.run(["cp", "-r", disk + "/run", disk + "-after"], check=True)
"""
TROUBLES = {  # what comes over the disk, what heals it, what is said
    "full": ("size=150k", "size=50m", "the disk is full; free some space and run the same command"),
    "fixed": ("ro", "rw", "the file system is read-only; choose another --out"),
}


def test_a_full_or_read_only_disk_is_said_and_nothing_is_lost(tmp_path):
    model = scans.fit_model(SIMULATED, tmp_path / "model.safetensors", encoder="pixels")
    cases = []
    for name, (trouble, cure, _) in TROUBLES.items():
        (tmp_path / name).mkdir()
        cases += [str(tmp_path / name), trouble, cure]
    in_namespace = ["unshare", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            [*in_namespace, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "full")],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("this machine lets nobody mount a small disk (unshare --mount)")
    ended = scans.run(
        [*in_namespace, sys.executable, "-c", ON_SMALL_DISKS, SIMULATED, model, *cases]
    )
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert len(lines) == 2 * len(TROUBLES)
    for (name, (*_, message)), error, rows in zip(
        TROUBLES.items(), lines[::2], lines[1::2], strict=True
    ):
        assert error.startswith("error: ")
        assert message in error
        assert rows == "rows:" + " 15" * NUM_SHARDS
        after = tmp_path / f"{name}-after"
        assert embedded_ids(after) == {f"sim7-{i:07d}" for i in range(90)}
        assert not list(after.rglob(f"{storage.TEMPORARY_PREFIX}*"))


@pytest.mark.s3
def test_a_store_that_is_busy_is_asked_again_and_one_that_is_down_stops_the_run(
    s3, flaky_s3, tmp_path
):
    model = scans.fit_model(SIMULATED, tmp_path / "model.safetensors")
    shards = surveys.list_shards(SIMULATED).shards
    run_dir = s3.new_prefix()
    embedder = Embedder(plan_of(run_dir, model))
    flaky_s3.faults[:] = [503, 503, "", 503, "", "", 500, "drop"]
    assert embedder.embed(shards[0]).rows_embedded == 15
    assert flaky_s3.faults == []
    flaky_s3.faults[:] = [503] * 50
    with pytest.raises(StorageError, match=r"answers 503 .* wait until it is well, then run the"):
        embedder.embed(shards[1])
    flaky_s3.faults.clear()
    assert done_shards(run_dir) == {shards[0].name}
    receipts = [embedder.embed(shard) for shard in shards]
    assert [receipt.rows_embedded for receipt in receipts] == [15] * NUM_SHARDS
    assert done_shards(run_dir) == {shard.name for shard in shards}


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_worker_that_cannot_write_stops_the_scan_with_one_sentence_and_it_resumes(
    ray_cluster, tmp_path
):
    model = scans.fit_model(SIMULATED, tmp_path / "model.safetensors")
    out = tmp_path / "run"
    out.mkdir()
    (out / "embeddings").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=r"^cannot write .*: a part of the path is a file.*$"):
        scans.scan(SIMULATED, out, encoder__name=model)
    record = RunRecord.load(str(out))
    assert record.state == "failed"
    assert record.error.startswith("cannot write")
    assert "\n" not in record.error
    (out / "embeddings").unlink()
    assert scans.scan_here(SIMULATED, out, encoder__name=model).counts.catalog == 90
    assert verify_run(str(out)) == []


def test_an_attempt_that_a_killed_driver_ended_accuses_no_shard(tmp_path):
    model = scans.fit_model(SIMULATED, tmp_path / "model.safetensors")
    shard = surveys.list_shards(SIMULATED).shards[0]
    for session in ("S1", "S2", "S3", "S4"):  # the driver died in each, once a session
        attempts.begin_attempt(str(tmp_path / "run"), shard.name, session)
    plan = dataclasses.replace(plan_of(tmp_path / "run", model), session="S4")
    assert not Embedder(plan).embed(shard).shard_rejected
