"""The embed stage's worker, without Ray: shards in, published embeddings and receipts out."""

import dataclasses
import hashlib
import io
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from astroray import attempts, ledger, schema, surveys
from astroray.actors.embed import (
    Embedder,
    EmbedPlan,
    ahead,
    pack_shard,
    unpack_shard,
)
from astroray.actors.encode import BatchEncoder
from astroray.actors.fit import finish_model
from astroray.actors.sample import SamplePlan, draw_sample
from astroray.encoders.store import load_model
from astroray.errors import BackendError, ConfigError, ShardError, StorageError
from astroray.preparation import Wishes, prepare
from astroray.receipts import done_shards, read_receipt
from tests.surveys_made import write_pictures

SURVEY = "sim:galaxies?count=60&size=16&shard_rows=25"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    sample = draw_sample(surveys.list_shards(SURVEY).shards, sample_plan(folder))
    path = str(folder / "model.safetensors")
    finish_model(sample, path=path, encoder="pixels", config={"num_bands": 3, "size_px": 16})
    return path


def sample_plan(folder, **changes):
    plan = SamplePlan(folder=str(folder), max_rows=100, wishes=Wishes(), seed=0)
    return dataclasses.replace(plan, **changes)


@pytest.fixture
def plan(tmp_path, model_path):
    return EmbedPlan(
        run_dir=str(tmp_path / "run"), model_path=model_path, session="S1", batch_size=8
    )


def read(plan, shard):
    return pq.read_table(ledger.embeddings_path(plan.run_dir, shard.name))


def test_a_shard_becomes_its_embeddings_a_receipt_and_a_done_mark(plan):
    shard = surveys.list_shards(SURVEY).shards[2]
    receipt = Embedder(plan).embed(shard)
    table = read(plan, shard)
    assert table.schema.equals(schema.embeddings(768))
    assert (receipt.rows_read, receipt.rows_embedded, len(table)) == (10, 10, 10)
    assert table["row"].to_pylist() == list(range(10))
    assert set(table["shard"].to_pylist()) == {shard.name}
    data = Path(ledger.embeddings_path(plan.run_dir, shard.name)).read_bytes()
    assert receipt.checksum == hashlib.sha256(data).hexdigest()
    assert read_receipt(plan.run_dir, shard.name) == receipt


def test_embeddings_do_not_depend_on_how_rows_fall_into_batches(plan, tmp_path):
    shard = surveys.list_shards(SURVEY).shards[0]
    Embedder(plan).embed(shard)
    other = dataclasses.replace(plan, run_dir=str(tmp_path / "other"))
    embedder = Embedder(other)
    embedder.embed(surveys.list_shards(SURVEY).shards[2])  # leaves no rows behind
    embedder.embed(shard)
    assert read(plan, shard).equals(read(other, shard))


def test_a_finished_shard_is_not_read_again(plan, monkeypatch):
    shard = surveys.list_shards(SURVEY).shards[0]
    receipt = Embedder(plan).embed(shard)
    monkeypatch.setattr(surveys, "read_shard", None)
    assert Embedder(plan).embed(shard) == receipt


def test_the_batch_that_ray_hands_over_becomes_receipts(plan):
    shards = surveys.list_shards(SURVEY).shards[:2]
    out = Embedder(plan)({"shard": np.array([pack_shard(shard) for shard in shards])})
    assert [json.loads(text)["shard"] for text in out["receipt"]] == [s.name for s in shards]


def test_a_shard_that_is_begun_in_time_is_finished_and_no_later_one_is_begun(plan):
    shards = surveys.list_shards(SURVEY).shards
    embedder = Embedder(dataclasses.replace(plan, until_s=time.time() + 3600))
    embed = embedder.embed

    def embed_until_it_is_late(shard):
        embedder.plan = dataclasses.replace(embedder.plan, until_s=0.0)
        return embed(shard)

    embedder.embed = embed_until_it_is_late
    out = embedder({"shard": np.array([pack_shard(shard) for shard in shards])})
    assert [json.loads(text)["shard"] for text in out["receipt"]] == [shards[0].name]
    assert done_shards(plan.run_dir) == {shards[0].name}


def test_a_shard_travels_as_text(tmp_path):
    write_pictures(tmp_path, 2)
    (shard,) = surveys.list_shards(str(tmp_path)).shards
    assert unpack_shard(pack_shard(shard)) == shard


def test_a_vanished_file_and_rows_of_another_kind_are_counted_and_the_rest_is_kept(plan, tmp_path):
    paths = write_pictures(tmp_path / "pictures", 5)
    (shard,) = surveys.list_shards(str(tmp_path / "pictures")).shards
    paths[2].unlink()
    receipt = Embedder(plan).embed(shard)  # display pictures for a model of flux
    assert (receipt.rows_read, receipt.rows_embedded, receipt.rows_rejected) == (5, 0, 5)
    kinds = ledger.read_rejects(plan.run_dir)["class"].to_pylist()
    assert sorted(kinds) == ["bands"] * 4 + ["missing"]
    assert len(read(plan, shard)) == 0


def test_a_shard_that_cannot_be_read_is_one_reject(plan, monkeypatch):
    shard = surveys.list_shards(SURVEY).shards[0]
    gone = dataclasses.replace(shard, name="gone")

    def refuse(shard):
        raise ShardError(f"{shard.name} is cut off")
        yield

    monkeypatch.setattr(surveys, "read_shard", refuse)
    receipt = Embedder(plan).embed(gone)
    assert receipt.shard_rejected
    assert receipt.rows_read == 0
    (reject,) = ledger.read_rejects(plan.run_dir).to_pylist()
    assert (reject["row"], reject["class"], reject["reason"]) == (
        None,
        "unreadable",
        "gone is cut off",
    )


def test_a_shard_that_killed_its_worker_too_often_is_quarantined(plan):
    shard = surveys.list_shards(SURVEY).shards[0]
    for _ in range(attempts.MAX_DEATHS):
        attempts.begin_attempt(plan.run_dir, shard.name, plan.session)
    receipt = Embedder(plan).embed(shard)
    assert receipt.shard_rejected
    (reject,) = ledger.read_rejects(plan.run_dir).to_pylist()
    assert reject["class"] == "quarantine"
    assert "killed its worker 3 times" in reject["reason"]


def test_an_impossible_position_rejects_the_row(plan, monkeypatch):
    shard = surveys.list_shards(SURVEY).shards[2]
    items = list(surveys.read_shard(shard))
    dec = items[0].dec_deg_B.copy()
    dec[3] = 91.0
    items[0] = dataclasses.replace(items[0], dec_deg_B=dec)
    monkeypatch.setattr(surveys, "read_shard", lambda shard: iter(items))
    receipt = Embedder(plan).embed(shard)
    assert (receipt.rows_embedded, receipt.rows_rejected) == (9, 1)
    assert 3 not in read(plan, shard)["row"].to_pylist()
    assert "dec is 91.0 deg" in ledger.read_rejects(plan.run_dir)["reason"][0].as_py()


@pytest.mark.parametrize("ra", [-999.0, 400.0, np.inf])
def test_an_impossible_right_ascension_rejects_the_row(plan, monkeypatch, ra):
    shard = surveys.list_shards(SURVEY).shards[2]
    items = list(surveys.read_shard(shard))
    ra_deg_B = items[0].ra_deg_B.copy()
    ra_deg_B[:2] = ra, -10.0
    items[0] = dataclasses.replace(items[0], ra_deg_B=ra_deg_B)
    monkeypatch.setattr(surveys, "read_shard", lambda shard: iter(items))
    Embedder(plan).embed(shard)
    assert read(plan, shard)["ra"][0].as_py() == 350.0
    assert f"ra is {ra}" in ledger.read_rejects(plan.run_dir)["reason"][0].as_py()


def test_a_reader_that_loses_a_row_rejects_the_shard(plan, monkeypatch):
    shard = surveys.list_shards(SURVEY).shards[2]
    (rows,) = surveys.read_shard(shard)
    short = rows.take(np.arange(len(rows.row_B) - 1))
    monkeypatch.setattr(surveys, "read_shard", lambda shard: iter([short]))
    receipt = Embedder(plan).embed(shard)
    assert (receipt.shard_rejected, receipt.rows_embedded) == (True, 0)
    assert "gave 9 rows, expected 10" in ledger.read_rejects(plan.run_dir)["reason"][0].as_py()


def test_numbers_that_are_not_finite_are_rejected_not_published(plan):
    shard = surveys.list_shards(SURVEY).shards[2]
    embedder = Embedder(plan)
    center_D = embedder.encoder.model.center_D.clone()
    center_D[0] = torch.nan
    embedder.encoder.model = dataclasses.replace(embedder.encoder.model, center_D=center_D)
    receipt = embedder.embed(shard)
    assert (receipt.rows_read, receipt.rows_embedded, receipt.rows_rejected) == (10, 0, 10)
    assert set(ledger.read_rejects(plan.run_dir)["class"].to_pylist()) == {"nonfinite"}


def test_trouble_of_the_store_stops_the_run_rather_than_rejecting(plan, tmp_path):
    (tmp_path / "run").write_text("a file where the run directory should be")
    with pytest.raises(StorageError, match="choose another --out"):
        Embedder(plan).embed(surveys.list_shards(SURVEY).shards[0])


def test_out_of_memory_halves_the_batch_and_changes_no_number(plan, monkeypatch):
    image_BCYX = np.random.default_rng(0).uniform(0, 1, (8, 3, 16, 16)).astype(np.float32)
    whole = BatchEncoder(model_path=plan.model_path, batch_size=8, device="cpu", num_threads=1)
    expected = whole.push(image_BCYX)
    halved = BatchEncoder(model_path=plan.model_path, batch_size=8, device="cpu", num_threads=1)
    forward = halved._forward

    def small_memory(piece_BCYX):
        if len(piece_BCYX) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(piece_BCYX)

    monkeypatch.setattr(halved, "_forward", small_memory)
    np.testing.assert_array_equal(halved.push(image_BCYX), expected)


def test_a_batch_that_was_cut_is_whole_again_once_there_is_memory(plan, monkeypatch):
    encoder = BatchEncoder(model_path=plan.model_path, batch_size=8, device="cpu", num_threads=1)
    forward, sizes, room = encoder._forward, [], 2

    def small_memory(piece_BCYX):
        sizes.append(len(piece_BCYX))
        if len(piece_BCYX) > room:
            raise torch.OutOfMemoryError("out of memory")
        return forward(piece_BCYX)

    monkeypatch.setattr(encoder, "_forward", small_memory)
    image_BCYX = np.zeros((8, 3, 16, 16), np.float32)
    for _ in range(200):
        encoder.push(image_BCYX)
    assert sizes[:2] == [8, 4]
    assert 3 <= sum(size > room for size in sizes) <= 6, "it is tried again, and ever more seldom"
    room = 8
    for _ in range(600):
        encoder.push(image_BCYX)
    assert sizes[-1] == 8


def test_one_object_that_does_not_fit_is_an_error_of_the_machine(plan, monkeypatch):
    encoder = BatchEncoder(model_path=plan.model_path, batch_size=4, device="cpu", num_threads=1)

    def no_memory(piece_BCYX):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(encoder, "_forward", no_memory)
    with pytest.raises(BackendError, match="one object does not fit"):
        encoder.push(np.zeros((4, 3, 16, 16), np.float32))


def test_reading_ahead_keeps_order_and_passes_errors_on():
    assert list(ahead(iter(range(50)))) == list(range(50))

    def failing():
        yield 1
        raise ValueError("broken")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_a_sample_is_drawn_once_and_is_the_same_again(tmp_path):
    shards = surveys.list_shards(SURVEY).shards
    plan = sample_plan(tmp_path / "a", max_rows=30)
    first = draw_sample(shards, plan)
    assert first.num_rows == 30
    again = draw_sample(list(reversed(shards)), sample_plan(tmp_path / "b", max_rows=30))
    np.testing.assert_array_equal(np.load(first.path), np.load(again.path))
    assert draw_sample([], plan) == first  # taken as it stands


def test_another_seed_draws_another_sample(tmp_path):
    shards = surveys.list_shards(SURVEY).shards
    samples = [
        np.load(draw_sample(shards, sample_plan(tmp_path / str(s), max_rows=20, seed=s)).path)
        for s in range(4)
    ]
    assert any(not np.array_equal(samples[0], other) for other in samples[1:])


def test_a_survey_of_nothing_but_rejects_cannot_be_fitted(tmp_path):
    paths = write_pictures(tmp_path / "pictures", 3)
    for path in paths:
        path.write_bytes(b"no picture")
    shards = surveys.list_shards(f"{tmp_path}/pictures?bands=RGB").shards
    with pytest.raises(ConfigError, match=r"no image .* the first because .*p0000.jpg"):
        draw_sample(shards, sample_plan(tmp_path))


def test_the_model_of_a_fit_embeds_its_sample_around_zero(model_path):
    model = load_model(model_path)
    assert model.encoder == "pixels"
    assert model.fit["num_rows"] == 60
    shards = surveys.list_shards(SURVEY).shards
    slices = [item for shard in shards for item in surveys.read_shard(shard)]
    prepared = [prepare(item, model.preparation).input_BCYX for item in slices]
    embedding_ND = model.embed(torch.from_numpy(np.concatenate(prepared)))
    assert embedding_ND.mean(dim=0).abs().max() < 2e-3  # the sample is kept in float16


def test_embeddings_are_read_back_in_order_and_by_their_receipts(plan):
    from astroray.actors.search import embedding_matrix, load_embeddings
    from astroray.errors import LedgerError

    embedder = Embedder(plan)
    shards = surveys.list_shards(SURVEY).shards
    for shard in reversed(shards):
        embedder.embed(shard)
    objects = load_embeddings(plan.run_dir)
    assert len(objects) == 60
    assert objects["shard"].to_pylist() == sorted(objects["shard"].to_pylist())
    assert embedding_matrix(objects).shape == (60, 768)
    path = Path(ledger.embeddings_path(plan.run_dir, shards[1].name))
    sink = io.BytesIO(path.read_bytes())
    path.write_bytes(sink.getvalue()[:-1] + b"x")
    with pytest.raises(LedgerError, match="differs from its receipt"):
        load_embeddings(plan.run_dir)
