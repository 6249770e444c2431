"""What is compared with the embeddings of a run is encoded in its numbers, with its attention."""

import dataclasses
import functools
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from astroray import serving, surveys
from astroray.actors.answer import Answerer
from astroray.actors.encode import BatchEncoder
from astroray.actors.run_model import RunModel, model_of_run
from astroray.archive import Archive
from astroray.cli import cli
from astroray.config import ScanConfig, load_config
from astroray.encoders import read_model_file
from astroray.errors import BackendError, LedgerError
from astroray.explain import explain_object
from astroray.report.night import list_commands
from astroray.run_record import Backends, RunRecord
from astroray.settings import from_dict
from astroray.similar import find_similar
from astroray.surveys.shards import Cutouts
from astroray.terminal import parse_setting
from astroray.web.serve_config import ServeConfig
from benchmarks.bad_uploads import fits_bytes
from tests.runs_made import make_model
from tests.scans import fit_model
from tests.served_run import make_run

SURVEY = "sim:galaxies?count=120&seed=3&size=32"
TOP = 5
KINDS = ("w8a8o", "osc-w4a4", "bf16", "torch-int8", "none vfa")


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """The run directory of a scan with `vit-tiny` by numbers and attention, each made once."""

    @functools.cache
    def make(kind):
        numbers, _, attention = kind.partition(" ")
        return make_run(
            tmp_path_factory.mktemp(kind.replace(" ", "-")), SURVEY, encoder="vit-tiny",
            quantize=numbers, attention=attention or "auto",
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def cutouts():
    shard = surveys.list_shards(SURVEY).shards[0]
    return next(item for item in surveys.read_shard(shard) if isinstance(item, Cutouts))


@pytest.fixture(scope="module")
def prepared(cutouts, run_of):
    """Images [B, C, Y, X] of the first objects, as every one of the models takes them."""
    from astroray.encoders.store import load_model

    return load_model(Archive(run_of("w8a8o")).model.path).prepare(cutouts).input_BCYX[:12]


def stored(archive, cutouts, num):
    rows = [archive.find(name) for name in cutouts.object_id_B[:num]]
    return archive.embedding_ND[rows], np.array(rows)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "torch-int8"])
def test_an_object_that_is_uploaded_lies_where_the_run_has_it(run_of, cutouts, prepared, kind):
    archive = Archive(run_of(kind))
    answerer = Answerer(device="cpu", num_threads=1)
    found_BD = np.stack(answerer.embed([(archive.model, image) for image in prepared]))
    stored_BD, _ = stored(archive, cutouts, len(prepared))
    plain = BatchEncoder(
        model_path=archive.model.path, batch_size=1, device="cpu", num_threads=1,
        attention="sdpa",
    )  # fmt: skip
    away, away_in_float32 = (
        np.abs(one_BD - stored_BD).max() for one_BD in (found_BD, plain.embed(prepared))
    )
    assert away < 1e-4
    assert away_in_float32 > 10 * away
    assert away_in_float32 > (1e-6 if "vfa" in kind else 5e-5)  # by AVX2 5e-6, else 1e-4 and more


def test_numbers_that_round_a_whole_batch_answer_each_upload_as_if_it_came_alone(run_of, prepared):
    model = Archive(run_of("torch-int8")).model
    requests = [(model, image) for image in (*prepared[:4], 20 * prepared[4])]
    answerer = Answerer(device="cpu", num_threads=1)
    together = answerer.embed(requests)
    for request, embedding_D in zip(requests, together, strict=True):
        np.testing.assert_array_equal(answerer.embed([request])[0], embedding_D)


def test_a_server_that_is_told_an_attention_uses_that(run_of, prepared):
    model = Archive(run_of("none vfa")).model
    assert model.attention == "vfa"
    for asked, expected in (("auto", "vfa "), ("sdpa", "sdpa")):
        encoder = Answerer(device="cpu", num_threads=1, attention=asked).load(model)
        assert encoder.backends["attention"].startswith(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_trace_of_an_object_encodes_it_as_the_run_did(run_of, kind):
    archive = Archive(run_of(kind))
    name = archive.table["object_id"][2 * TOP + 3].as_py()
    explained = explain_object(archive.run_dir, name)
    assert explained.verdict == "equal to the last bit, with the same neighbors"
    if kind == "torch-int8":
        assert explained.encoded.endswith("by the largest of its batch, and is alone now")
        assert 0 < explained.encoded_distance < 0.2 * explained.distance[0]
    else:
        assert explained.encoded == "read and encoded again, equal to the last bit"


def test_an_object_of_a_shard_that_was_taken_back_is_not_explained_but_told_so(run_of, tmp_path):
    out = str(shutil.copytree(run_of("bf16"), tmp_path / "run"))
    shard = next(Path(out, "embeddings").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes() + b"x")
    result = CliRunner().invoke(cli, ["verify", out, "--repair"])
    assert result.exit_code == 1
    assert "\n1 faults\n1 shards are taken back; run the same command again" in result.output
    some = Archive(run_of("bf16")).table["object_id"][2 * TOP + 3].as_py()
    with pytest.raises(LedgerError, match=r"is in the catalog of .* but not done"):
        explain_object(out, some)


@pytest.mark.parametrize("kind", ["w8a8o", "bf16"])
def test_a_score_of_the_reference_is_not_explained_by_embeddings_of_fewer_bits(run_of, kind):
    archive = Archive(run_of(kind))
    for row in (0, 2 * TOP - 1):  # with bf16 they have the model_id of all others
        with pytest.raises(LedgerError, match=rf"encoded again by .* in float32 .* in {kind}"):
            explain_object(archive.run_dir, archive.table["object_id"][row].as_py())


@pytest.mark.parametrize("kind", ["osc-w4a4", "bf16"])
def test_the_rank_of_an_upload_counts_scores_in_the_numbers_of_its_own(run_of, kind):
    archive = Archive(run_of(kind))
    score_N = np.array([
        archive.score_of(archive.nearest(archive.embedding_ND[row], archive.k, exclude=row))
        for row in range(len(archive.table))
    ])  # fmt: skip
    for score in score_N:
        assert archive.rank_of(score) == 1 + np.count_nonzero(score_N > score)
    of_list_N = archive.table["outlier_score"].to_numpy()[: 2 * TOP]
    assert (of_list_N != score_N[: 2 * TOP]).all()  # those are the reference's


def test_a_file_is_compared_in_the_numbers_of_the_run(run_of, cutouts, tmp_path):
    path = tmp_path / "cutout.fits"
    path.write_bytes(fits_bytes(cutouts.image_BCYX[3], cutouts.bands))
    found = find_similar(run_of("osc-w4a4"), str(path), 2)
    assert found.numbers == "osc-w4a4"
    itself, other = found.neighbors
    assert itself["object_id"] == cutouts.object_id_B[3]
    assert itself["distance"] < 1e-3 * other["distance"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_tells_a_command_that_repeats_the_run_in_its_numbers(run_of, kind):
    record = Archive(run_of(kind)).record
    commands = dict(list_commands(run_of(kind), record))
    (command,) = (line for line in commands.values() if line.startswith("astroray scan "))
    words = shlex.split(command)
    flags = dict(parse_setting(words[n + 1]) for n, word in enumerate(words) if word == "--set")
    named = {name: words[words.index(f"--{name}") + 1] for name in ("encoder", "k", "top")}
    flags |= {"encoder.name": named["encoder"]}
    flags |= {f"search.{name}": int(named[name]) for name in ("k", "top")}
    before = from_dict(ScanConfig, record.config, where="run.json")
    again = load_config(words[2], "NEW_FOLDER", None, flags)
    science = [one.science(model_id="m", device="cpu") for one in (before, again)]
    assert science[0] == science[1]
    is_plain = kind.startswith("none")  # a night has one model throughout
    assert any(line.startswith("astroray nightly ") for line in commands.values()) == is_plain


def test_an_exported_program_is_the_reference_and_says_in_what_the_run_differs(run_of, tmp_path):
    archive = Archive(run_of("w8a8o"))
    words = ["export", archive.run_dir, "--format", "onnx", "--out", str(tmp_path / "m.onnx")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    reference_id = archive.table["model_id"][0].as_py()  # of the first object, ranked by it
    assert f"model_id   {reference_id}\n" in done.output
    assert f"stored embeddings of {archive.run_dir}, which are in w8a8o\n" in done.output
    facts = onnx.load(tmp_path / "m.onnx").metadata_props
    assert {one.key: one.value for one in facts}["astroray.model_id"] == reference_id


@pytest.mark.parametrize(
    ("backends", "numbers", "attention"),
    [
        ({}, "none", "vsa"),
        ({"quantize": "none", "attention": "sdpa"}, "none", "sdpa"),
        ({"quantize": "w8a8o native", "attention": "vfa native bf16"}, "w8a8o", "vfa"),
        ({"quantize": "bf16", "attention": "vfa triton int8_qk"}, "bf16", "vfa-int8-qk"),
        ({"quantize": "osc-w4a4 native+triton", "attention": "vsa sdpa bf16"}, "osc-w4a4", "vsa"),
    ],
)
def test_what_auto_became_is_read_from_the_record(backends, numbers, attention):
    record = RunRecord(
        survey="x", fingerprint="x", created="x", model=make_model("m"),
        backends=Backends(**backends),
        config={"encoder": {"attention": "vsa", "quantize": "auto"}},
    )  # fmt: skip
    model = model_of_run("RUN", record)
    assert (model.quantize, model.attention) == (numbers, attention)
    assert model.numbers == ("float32" if numbers == "none" else numbers)
    assert (model.path, model.model_id) == ("RUN/model/model.safetensors", "m")


def test_numbers_that_a_machine_lacks_are_refused_with_what_to_do(run_of):
    model = Archive(run_of("w8a8o")).model
    with pytest.raises(
        BackendError, match=r"in w8a8o with attention sdpa, .* on meta here: .* Use"
    ):
        model.start(batch_size=1, device="meta", num_threads=1)


def test_another_model_in_the_place_of_the_run_s_is_refused(tmp_path):
    path = fit_model(SURVEY, tmp_path / "m.safetensors")
    held = read_model_file(path).model_id
    with pytest.raises(LedgerError, match=f"holds model {held}, expected 0123"):
        RunModel(path=path, model_id="0123").start(batch_size=1, device="cpu", num_threads=1)


@pytest.mark.ray
def test_a_run_in_numbers_that_the_replicas_lack_is_not_served(ray_cluster, run_of, tmp_path):
    archive = Archive(run_of("w8a8o"))
    (tmp_path / "model").symlink_to(f"{archive.run_dir}/model")
    backends = dataclasses.replace(archive.record.backends, quantize="osc-mxfp4 native")
    dataclasses.replace(archive.record, backends=backends).publish(str(tmp_path))
    config = from_dict(ServeConfig, {"run_dir": str(tmp_path)}, where="the test")
    with pytest.raises(BackendError, match=r"in osc-mxfp4 with .* but the model holds w8a8o"):
        serving.check_model(config)
