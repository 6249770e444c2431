"""The laws of the product, each shown by scans of small surveys: names say which law."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from astroray import ledger, pipeline, storage, surveys
from astroray.actors.embed import Embedder, EmbedPlan
from astroray.actors.search import embedding_matrix, load_embeddings
from astroray.catalog import read_catalog
from astroray.cli import cli
from astroray.encoders.store import load_model
from astroray.errors import ConfigError, LedgerError
from astroray.inspection import verify_run
from astroray.neighbors.search import SearchConfig, search
from astroray.receipts import undo_shard
from tests import scans
from tests.surveys_made import write_pictures

SIMULATED = "sim:galaxies?count=120&size=16&shard_rows=20&outliers=0.05"
LONGER = SIMULATED.replace("count=120", "count=160")
K, TOP = 3, 10


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A scan in this process that fits its own model: run directory and record."""
    out = tmp_path_factory.mktemp("first") / "run"
    return out, scans.scan_here(SIMULATED, out, search__top=TOP)


@pytest.fixture(scope="module")
def model_path(first):
    return str(first[0] / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def halved(first, model_path, tmp_path_factory):
    """A scan with the model of `first`, stopped after three shards and then started again."""
    out = tmp_path_factory.mktemp("halved") / "run"
    embed_shards = pipeline.embed_shards

    class StoppedError(Exception):
        pass

    def embed_three(shards, plan, pool):
        yield from embed_shards(shards[:3], plan, pool)
        raise StoppedError

    config = scans.small_config(SIMULATED, out, search__top=TOP, encoder__name=model_path)
    with scans.workers_here():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "embed_shards", embed_three)
            with pytest.raises(StoppedError):
                pipeline.scan(config)
        before, shown = marks(out), []
        pipeline.scan(config, show=shown.append)
    return out, before, shown


def test_a_copied_survey_gets_the_same_model_and_the_same_catalog(tmp_path):
    for i, count in enumerate((7, 30, 5)):
        write_pictures(tmp_path / "sky" / f"n{i}", count, seed=i)
    shutil.copytree(tmp_path / "sky", tmp_path / "z" / "an other place")
    found = []
    for i, sky in enumerate(("sky", "z/an other place")):
        survey = f"{tmp_path / sky}?shard_files=4"
        scans.scan_here(survey, tmp_path / str(i), max_fit_rows=12)
        found.append(read_catalog(str(tmp_path / str(i))))
    here, there = (table.drop_columns("shard") for table in found)
    assert here.equals(there)
    assert found[0]["shard"] != found[1]["shard"]  # their names are made of whole paths


def marks(out: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (out / "ledger" / "done").glob("*.json")}


def attempts(out: Path, session: int) -> set[str]:
    """Shards that were begun in a session."""
    names = storage.list_names(f"{out}/ledger/attempts/S{session:06d}")
    return {name.partition(".")[2] for name in names}


def write_imperfect(folder: Path) -> None:
    """24 pictures in four shards: one cut off, one black, two of one object."""
    paths = write_pictures(folder, 24, size_px=16)
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    Image.new("RGB", (16, 16)).save(paths[9])
    rows = [f"{path.name},obj{i},{10 + i / 10},{5 + i / 10}" for i, path in enumerate(paths)]
    rows[20] = rows[20].replace("obj20", "obj2")
    (folder / "objects.csv").write_text("\n".join(["file,object_id,ra,dec", *rows]) + "\n")


@pytest.fixture(scope="module")
def imperfect(tmp_path_factory):
    """A scan of a survey with rejects of every stage."""
    folder = tmp_path_factory.mktemp("imperfect")
    write_imperfect(folder / "pictures")
    survey = f"{folder}/pictures?table=objects.csv&shard_files=6"
    return folder, survey, scans.scan_here(survey, folder / "run")


# ---- 1. never drop, always count


def test_law_1_every_row_that_was_read_is_in_the_catalog_or_rejected_with_a_reason(imperfect):
    """Law 1."""
    folder, _, record = imperfect
    counts = record.counts
    assert counts.rows_read == 24 == counts.rows_embedded + counts.rows_rejected
    assert counts.rows_embedded == counts.catalog + counts.duplicates
    rejects = ledger.read_rejects(str(folder / "run")).to_pylist()
    assert sorted((row["stage"], row["class"]) for row in rejects) == [
        ("catalog", "duplicate"),
        ("prepare", "constant"),
        ("read", "corrupt"),
    ]
    assert all(len(row["reason"]) > 20 for row in rejects)
    ids = set(read_catalog(str(folder / "run"))["object_id"].to_pylist())
    assert ids == {f"obj{i}" for i in range(24)} - {"obj3", "obj9", "obj20"}


def test_law_1_too_many_rejects_write_the_catalog_and_exit_with_1(imperfect):
    """Law 1."""
    folder, survey, _ = imperfect
    flags = scans.scan_command(survey, folder / "run", max_rejected=0.05)[4:]
    with scans.workers_here():
        ended = CliRunner().invoke(cli, ["scan", *flags])
    assert ended.exit_code == 1, ended.output
    assert "8.3% of the rows and 0.0% of the shards were rejected, expected at most 5.0%" in (
        ended.stderr
    )
    assert "21 objects scored, 2 rows and 0 shards rejected, 1 duplicate," in ended.stdout
    assert len(read_catalog(str(folder / "run"))) == 21


def test_law_1_a_missing_number_stays_missing(imperfect):
    """Law 1: unknown is null, and no null became a number."""
    catalog = read_catalog(str(imperfect[0] / "run"))
    assert catalog["ra"].null_count == catalog["_healpix_29"].null_count == 0
    scores = catalog["outlier_score"].to_numpy()
    assert np.isfinite(scores).all()
    assert (scores > 0).all()


# ---- 2. exactly once

KILLED_PUBLISH = (
    "import sys; from astroray import faults, storage; faults.arm(sys.argv[1]); "
    "storage.publish(sys.argv[2], b'new' * 1000)"
)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("point", "expected"),
    [("publish.written", b"old"), ("publish.renamed", b"new" * 1000)],
)
def test_law_2_a_file_is_whole_or_absent_wherever_its_writer_dies(tmp_path, point, expected):
    """Law 2."""
    path = tmp_path / "run" / "file"
    storage.publish(str(path), b"old")
    token = scans.token(tmp_path / "plan", point)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_PUBLISH, str(tmp_path / "plan"), str(path)], check=False
    )
    assert killed.returncode == -9
    assert not token.exists()
    assert path.read_bytes() == expected
    assert storage.list_names(str(path.parent)) == ["file"]  # what a killed writer left is hidden


def test_law_2_doing_a_shard_twice_changes_nothing(tmp_path):
    """Law 2."""
    model_path = scans.fit_model(SIMULATED, tmp_path / "model.safetensors")
    shard = surveys.list_shards(SIMULATED).shards[1]
    plan = EmbedPlan(
        run_dir=str(tmp_path / "run"), model_path=model_path, session="S1", batch_size=8
    )
    embedder = Embedder(plan)
    path = Path(ledger.embeddings_path(plan.run_dir, shard.name))
    receipt, data = embedder.embed(shard), path.read_bytes()
    undo_shard(plan.run_dir, shard.name)
    again = embedder.embed(shard)
    assert path.read_bytes() == data
    assert (again.checksum, again.attempt, receipt.attempt) == (receipt.checksum, 2, 1)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# ---- 3. resume costs what is left


def test_law_3_a_resumed_scan_does_only_what_is_left(halved):
    """Law 3."""
    out, before, shown = halved
    first = {progress.stage: progress for progress in reversed(shown)}
    assert [progress.stage for progress in shown[:2]] == ["list", "start"]
    assert first["start"].note == f"Ray, whose messages go to {out}/logs"
    assert first["fit"].note.endswith(", fitted before")
    assert (first["embed"].shards_done, first["embed"].shards_total) == (3, len(marks(out)))
    assert (len(before), len(marks(out))) == (3, 6)
    after = marks(out)
    assert {name: after[name] for name in before} == before
    assert attempts(out, 2) == set(after) - set(before)
    assert verify_run(str(out)) == []


def test_law_3_a_finished_scan_reads_no_shard_again_and_new_files_cost_only_themselves(
    imperfect, tmp_path
):
    """Law 3: same, grown, and changed surveys."""
    folder, survey, _ = imperfect
    shutil.copytree(folder, tmp_path / "before")
    pictures = folder / "pictures"
    before = marks(folder / "run")
    bytes_done = sum(json.loads(mark)["bytes_read"] for mark in before.values())
    assert bytes_done == sum(path.stat().st_size for path in pictures.glob("*.jpg"))
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (16, 16, 3), np.uint8)).save(
        pictures / "z.jpg"
    )
    table = pictures / "objects.csv"
    table.write_text(table.read_text() + "z.jpg,objz,20,20\n")
    record = scans.scan_here(survey, folder / "run")
    after = marks(folder / "run")
    assert {name: after[name] for name in before} == before
    (new,) = set(after) - set(before)
    assert json.loads(after[new])["bytes_read"] == (pictures / "z.jpg").stat().st_size
    assert record.counts.catalog == 22

    changed = pictures / "p0013.jpg"
    data, stat = changed.read_bytes(), changed.stat()
    changed.write_bytes(data + b" ")
    with pytest.raises(LedgerError, match=r"1 finished shard has other files .*p0013\.jpg"):
        scans.scan(survey, folder / "run")
    changed.write_bytes(data)
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert marks(folder / "run") == after
    shutil.rmtree(folder)  # other tests find it as it was
    shutil.copytree(tmp_path / "before", folder)


def test_law_3_a_directory_of_another_fingerprint_is_refused_and_left_alone(first, monkeypatch):
    """Law 3."""
    monkeypatch.delattr("astroray.execution.workers.cluster")  # Ray is not started for that
    out, _ = first
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and "leases" not in str(p)}
    with pytest.raises(LedgerError, match=r"belongs to another run .*: search\.k was 3 and is 4; "):
        scans.scan(SIMULATED, out, search__top=TOP, search__k=K + 1)
    with pytest.raises(
        LedgerError, match=r"belongs to another run .*: batch_size was None and is 16; "
    ):
        scans.scan(SIMULATED, out, search__top=TOP, batch_size=16)
    after = {p: p.read_bytes() for p in before}
    assert after == before


# ---- 4. repeatable


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_law_4_four_workers_on_ray_and_another_order_of_shards_give_the_same_bytes(
    ray_cluster, first, model_path, tmp_path, monkeypatch
):
    """Law 4."""
    listed = surveys.list_shards

    def shuffled(survey, **given):
        listing = listed(survey, **given)
        order = np.random.default_rng(3).permutation(len(listing.shards))
        return dataclasses.replace(listing, shards=tuple(listing.shards[i] for i in order))

    monkeypatch.setattr(surveys, "list_shards", shuffled)
    out = tmp_path / "run"
    record = scans.scan(SIMULATED, out, search__top=TOP, encoder__name=model_path, workers="4")
    assert record.config["workers"] == "4"
    assert [s.name for s in ledger.read_listing(str(out))] != [
        s.name for s in listed(SIMULATED).shards
    ]
    expected = scans.catalog_bytes(first[0])
    assert len(expected) >= 5
    assert scans.catalog_bytes(out) == expected


def test_law_4_a_restart_gives_the_same_bytes(first, halved):
    """Law 4."""
    assert scans.catalog_bytes(halved[0]) == scans.catalog_bytes(first[0])


def test_law_4_a_fit_without_training_gives_the_same_model_twice(tmp_path):
    """Law 4."""
    ids = {
        load_model(scans.fit_model(SIMULATED, tmp_path / name / "model.safetensors")).model_id
        for name in ("a", "b")
    }
    other = SIMULATED.replace("outliers=0.05", "outliers=0.05&seed=8")
    assert len(ids) == 1
    assert load_model(scans.fit_model(other, tmp_path / "c.safetensors")).model_id not in ids


def test_law_4_a_trained_fit_gives_the_same_model_twice(tmp_path):
    """Law 4."""
    ids = {
        load_model(
            scans.fit_model(SIMULATED, tmp_path / name / "model", encoder="cae", num_passes=1)
        ).model_id
        for name in ("a", "b")
    }
    assert len(ids) == 1


# ---- 5. certified, 6. yesterday's scores stay bounds


def test_law_5_the_certified_list_is_that_of_brute_force_over_the_published_embeddings(first):
    """Law 5."""
    out, record = first
    objects = load_embeddings(str(out))
    embedding_ND = embedding_matrix(objects).astype(np.float64)
    distance_NN = np.sqrt(((embedding_ND[:, None] - embedding_ND[None]) ** 2).sum(axis=2))
    np.fill_diagonal(distance_NN, np.inf)
    score_N = np.sort(distance_NN, axis=1)[:, K - 1]
    ids = objects["object_id"].to_pylist()
    expected = [ids[i] for i in sorted(range(len(ids)), key=lambda i: (-score_N[i], ids[i]))]

    catalog = read_catalog(str(out))
    assert catalog["object_id"].to_pylist()[:TOP] == expected[:TOP]
    assert catalog["certified"].to_pylist() == [True] * TOP + [False] * (len(ids) - TOP)
    by_id = dict(zip(ids, score_N, strict=True))
    rows = catalog.slice(0, TOP).to_pylist()
    got = [row["outlier_score"] for row in rows]
    np.testing.assert_allclose(got, [by_id[row["object_id"]] for row in rows], rtol=1e-12)
    assert {row["score_kind"] for row in rows} == {"exact"}
    assert record.proof.threshold == got[-1]
    assert record.proof.next_bound < record.proof.threshold
    assert record.proof.model_id == record.model.model_id == rows[0]["model_id"]


@pytest.mark.parametrize("index", ["flat", "ivf-flat"])
@pytest.mark.parametrize("score", ["kth", "mean"])
def test_law_6_adding_objects_never_raises_a_score(index, score):
    """Law 6."""
    random = np.random.default_rng(9)
    new_ND = random.normal(size=(700, 6)).astype(np.float32)
    new_ND[650:] = new_ND[:50] + np.float32(0.01)  # near neighbors for some of the old ones
    ids = [f"o{i:04d}" for i in random.permutation(700)]
    config = SearchConfig(k=K, top=700, score=score, index=index)
    before = search(new_ND[:600], ids[:600], config)
    after = search(new_ND, ids, config)
    assert before.is_exact_N.all()
    assert (after.score_N[:600] <= before.score_N).all()
    assert (after.score_N[:50] < before.score_N[:50]).all()


def test_law_6_a_later_scan_uses_the_frozen_model_and_keeps_yesterday_s_numbers(
    first, model_path, tmp_path
):
    """Law 6: neither the model file nor an old embedding changes when objects are added."""
    out = tmp_path / "run"
    record = scans.scan_here(LONGER, out, search__top=TOP, encoder__name=model_path)
    model = out / "model" / "model.safetensors"
    assert model.read_bytes() == Path(model_path).read_bytes()
    assert record.model.model_id == first[1].model.model_id
    old = {path.name: path.read_bytes() for path in (first[0] / "embeddings").iterdir()}
    new = {path.name: path.read_bytes() for path in (out / "embeddings").iterdir()}
    assert len(new) > len(old)
    assert {name: new[name] for name in old} == old
    scores = [
        dict(zip(*read_catalog(str(run)).select(["object_id", "outlier_score"]), strict=True))
        for run in (first[0], out)
    ]
    assert all(scores[1][key].as_py() <= score.as_py() for key, score in scores[0].items())


# ---- 7. no silent fallback


def test_law_7_a_gpu_that_is_not_there_is_an_error_and_auto_is_written_down(first, tmp_path):
    """Law 7."""
    with pytest.raises(ConfigError, match=r"a worker needs 0\.75 CPUs and 64 GPUs, the cluster"):
        scans.scan_here(SIMULATED, tmp_path / "run", num_gpus=64)
    assert not (tmp_path / "run" / "run.json").exists()
    backends = json.loads((first[0] / "run.json").read_text())["backends"]
    assert backends["device"] in ("cpu", "cuda")
    assert backends["index"] == "flat"
    assert backends["index_reason"] == "120 objects are at most 100000"
    assert backends["products_reason"]


# ---- 9. errors by who acts


@pytest.mark.parametrize(
    ("survey", "settings", "message"),
    [
        ("{folder}/nothing", {}, "no survey files in"),
        (SIMULATED, {"workers": "900"}, "workers is 900, but only"),
        (SIMULATED, {"search.k": 0}, "k is 0, expected at least 1"),
        (SIMULATED, {"encoder.name": "{folder}/no.safetensors"}, "no.safetensors"),
        ("sim:galaxies?count=0", {}, "holds no objects"),
        ("sim:galaxies?sise=16", {}, "survey option 'sise' is unknown"),
    ],
)
def test_law_9_what_the_user_must_change_ends_with_2_before_a_row_is_read(
    tmp_path, survey, settings, message
):
    """Law 9."""
    survey = survey.format(folder=tmp_path)
    settings = {
        k: v.format(folder=tmp_path) if isinstance(v, str) else v for k, v in settings.items()
    }
    command = scans.scan_command(survey, tmp_path / "run", **settings)
    with scans.workers_here():
        ended = CliRunner().invoke(cli, ["scan", *command[4:]])
    assert ended.exit_code == 2, ended.output
    (line,) = [text for text in ended.stderr.splitlines() if text.startswith("astroray: ")]
    assert message in line
    folders = {path.name for path in (tmp_path / "run").glob("*") if path.is_dir()}
    assert folders <= {"ledger", "logs"}
    assert marks(tmp_path / "run") == {}


def test_law_9_what_the_machine_refuses_ends_with_1(tmp_path):
    """Law 9."""
    (tmp_path / "file").write_text("no folder")
    command = scans.scan_command(SIMULATED, tmp_path / "file" / "run")
    with scans.workers_here():
        ended = CliRunner().invoke(cli, ["scan", *command[4:]])
    assert ended.exit_code == 1, ended.output
    assert "astroray: cannot write" in ended.stderr
    assert "choose another --out" in ended.stderr
