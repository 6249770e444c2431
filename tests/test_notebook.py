"""What a notebook gets: a scan, and a finished run as tables, pictures and neighbors."""

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import astroray
from astroray import ledger, storage
from astroray.archive import Archive
from astroray.catalog import pixels, versions
from astroray.catalog.exports import to_pandas
from astroray.errors import BackendError, ConfigError, DataError
from astroray.report.thumbnails import publish_thumbnails
from tests import scans
from tests.served_run import make_run
from tests.surveys_made import write_pictures
from tests.test_catalog import THIRD_PARTY

SURVEY = "sim:galaxies?count=120&seed=3&shard_rows=40"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("notebook"), SURVEY)


@pytest.fixture(scope="module")
def run(path):
    return astroray.open_run(path)


def test_a_run_is_opened_without_torch_and_ray_and_names_what_there_is(path):
    code = (
        f"import astroray, sys; run = astroray.open_run({path!r}); run.to_pandas(); run.rejects();"
        "print([name for name in ('torch', 'ray', 'lsdb') if name in sys.modules], dir(astroray))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[] [")
    assert {"Run", "open_run", "scan"} <= set(astroray.__all__)
    assert "'open_run'" in done.stdout


def test_its_tables_say_the_same_in_each_library(run):
    table, frame, stars = run.table, run.to_pandas(), run.to_astropy()
    assert table.equals(versions.read_version(run.path).combine_chunks())
    assert list(frame["rank"]) == list(stars["rank"]) == list(range(1, 121))
    assert list(frame.columns) == stars.colnames == table.column_names
    assert str(stars["ra"].unit) == "deg"
    np.testing.assert_array_equal(frame["outlier_score"], stars["outlier_score"])


def test_a_healpix_index_beside_a_missing_one_keeps_all_its_digits(run, tmp_path):
    index = run.table.schema.get_field_index("_healpix_29")
    some = run.table["_healpix_29"].to_pylist()
    some[5] = None
    field = run.table.schema.field(index)
    holed = run.table.set_column(index, field, pa.array(some, field.type))
    frame = to_pandas(holed)
    assert frame["_healpix_29"].isna().sum() == 1
    kept = [None if value is pandas.NA else int(value) for value in frame["_healpix_29"]]
    assert kept == some


@THIRD_PARTY
def test_lsdb_opens_its_catalog(run):
    catalog = run.to_lsdb()
    best = catalog.query("rank <= 3").compute()
    assert sorted(best["object_id"]) == sorted(run.table["object_id"].slice(0, 3).to_pylist())


@THIRD_PARTY
def test_lsdb_reads_a_run_on_s3_with_the_credentials_of_astroray(run, s3, monkeypatch):
    import lsdb

    place = s3.new_prefix()
    for file in (path for path in Path(run.path).rglob("*") if path.is_file()):
        name = file.relative_to(run.path).as_posix()
        storage.publish(storage.join(place, name), file.read_bytes())
    asked = []
    monkeypatch.setattr(lsdb, "open_catalog", lambda *args, **named: asked.append((args, named)))
    remote = astroray.open_run(place)
    remote.to_lsdb()
    assert asked == [((f"{place}/catalog",), {"storage_options": {"anon": False}})]

    def lacks(*_args, **_named):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(lsdb, "open_catalog", lacks)
    with pytest.raises(ConfigError, match="pip install s3fs"):
        remote.to_lsdb()


def test_neighbors_and_embeddings_are_those_of_the_catalog(run):
    first = run.to_pandas().iloc[0]
    near = run.similar(first["object_id"], 3)
    assert list(near["object_id"]) == list(first["neighbor_id"][:3])
    np.testing.assert_array_equal(near["distance"], first["neighbor_distance"][:3])
    embedding_ND = run.embeddings()
    assert embedding_ND.shape == (120, run.record.model.dim)
    np.testing.assert_array_equal(embedding_ND, Archive(run.path).embedding_ND)
    assert astroray.load_model(run.path).model_id == run.record.model.model_id
    assert "equal to the last bit" in run.explain(first["object_id"]).verdict


def test_embeddings_of_some_objects_are_asked_with_again(run):
    ids = run.table["object_id"].take([7, 2]).to_pylist()
    embedding_ND = run.embeddings(ids)
    np.testing.assert_array_equal(embedding_ND, run.embeddings()[[7, 2]])
    np.testing.assert_array_equal(run.embeddings(ids[1]), embedding_ND[1:])
    near = run.similar(embedding_ND[1], 3)
    assert near["object_id"][0] == ids[1], "an embedding is no object, so the object is found"
    assert near["distance"][0] == 0
    pandas.testing.assert_frame_equal(near.iloc[1:].reset_index(drop=True), run.similar(ids[1], 2))
    middle_D = embedding_ND.mean(axis=0)
    apart_N = np.linalg.norm(run.embeddings().astype(float) - middle_D, axis=1)
    nearest = run.table["object_id"].take(np.argsort(apart_N, kind="stable")[:5]).to_pylist()
    assert list(run.similar(middle_D, 5)["object_id"]) == nearest
    with pytest.raises(ConfigError, match=r"no object 'M31' in"):
        run.embeddings(["M31"])
    with pytest.raises(ConfigError, match=r"is float32 \(2, \d+\), expected the numbers \(\d+,\)"):
        run.similar(embedding_ND)
    with pytest.raises(ConfigError, match="not finite"):
        run.similar(np.full_like(middle_D, np.nan))


def test_an_object_is_drawn_and_a_stranger_is_refused_by_name(run):
    first = run.table["object_id"][0].as_py()
    assert run.picture(first, size_px=80).size == (80, 80)
    with pytest.raises(ConfigError, match=r"no object 'M31' in .*expected one of its 120"):
        run.picture("M31")
    with pytest.raises(ConfigError, match=r"'M31' is neither an object of"):
        run.similar("M31")
    last = run.table["object_id"][119].as_py()
    for ask in (run.picture, run.explain, run.similar):  # a name that is written otherwise
        with pytest.raises(ConfigError, match=rf"such as ([^,;]+, )*{last}[,;]"):
            ask(f"galaxies/{last.upper()}")
    with pytest.raises(ConfigError, match=r"the object is a Series, expected its identifier"):
        run.picture(run.to_pandas().iloc[0])


def test_the_page_of_an_evaluation_draws_what_the_run_has_not_kept(run, tmp_path):
    labels = run.to_pandas()[["object_id"]].assign(is_odd=[i % 3 == 0 for i in range(120)])
    evaluation = run.evaluate(labels, "is_odd=true")
    page = Path(evaluation.write(str(tmp_path))).read_text()
    assert page.count("<figcaption>") == page.count("<use ") == 40 + 24
    assert f"95 % interval {evaluation.compared.auc['the list', ''].low:.3f}" in page


def test_a_number_that_is_no_count_and_an_identifier_that_is_a_number_are_said(run):
    first = run.table["object_id"][0].as_py()
    for count in (0, -1, 2.5):
        with pytest.raises(ConfigError, match=r"n is .*, expected a whole number from 1"):
            run.similar(first, n=count)
        with pytest.raises(ConfigError, match=r"size_px is .*, expected a whole number from 1"):
            run.picture(first, size_px=count)
    for ask in (run.similar, run.picture, run.explain):
        with pytest.raises(ConfigError, match=r"'1237'"):
            ask(1237)


def test_a_notebook_shows_proof_and_pictures_and_no_foreign_markup(run):
    shown = run._repr_html_()
    assert run.record.proof.sentence.replace("<", "&lt;") in shown
    assert "<img" not in shown
    first, second = run.table["object_id"].slice(0, 2).to_pylist()
    publish_thumbnails(run.path, {first: b"jpeg", second: b"jpeg"})
    assert run._repr_html_().count("data:image/jpeg;base64,") == 2
    evil = astroray.Run(run.path, dataclasses.replace(run.record, survey="<script>"))
    assert "<script>" not in evil._repr_html_()


def test_a_night_is_its_whole_version_and_lsdb_is_told_where_to_get_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    reference = make_run(tmp_path / "a", SURVEY, shards=slice(0, 2))
    run = astroray.open_run(
        make_run(tmp_path / "b", SURVEY, reference=reference, shards=slice(2, 3))
    )
    assert len(run.table) == len(run.embeddings()) == 120
    if run.record.night:
        with pytest.raises(ConfigError, match=r"is a night.*--self-contained"):
            run.to_lsdb()


def test_what_is_no_finished_run_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no run.json, expected the --out of a scan"):
        astroray.open_run(tmp_path)


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_scan_from_python_is_that_of_the_command_and_goes_on(tmp_path, ray_cluster, capsys):
    pictures = tmp_path / "my pictures"
    write_pictures(pictures, 12)
    (pictures / "broken.jpg").write_bytes(b"no jpeg")
    asked = {"encoder": "pca", "k": 3, "top": 5, "workers": 1, "settings": {"encoder.size_px": 16}}
    with pytest.warns(UserWarning, match=r"7.7% of the rows .* were rejected"):
        run = astroray.scan(pictures, out=tmp_path / "run", **asked)
    assert "embed" in capsys.readouterr().err
    assert run.record.config["search"]["k"] == 3
    assert len(run.table) == 12
    assert list(run.rejects()["class"]) == ["corrupt"]
    assert run._repr_html_().count("<img") == 8
    with pytest.raises(ConfigError, match=r"no object of .* has a position"):
        run.to_lsdb()
    marks = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "ledger" / "done").iterdir()}
    with scans.workers_here(), pytest.warns(UserWarning, match="were rejected"):
        again = astroray.scan(pictures, out=tmp_path / "run", show=False, **asked)
    assert again.table.equals(run.table)
    assert marks == {p: p.stat().st_mtime_ns for p in marks}
    first = run.table["object_id"][0].as_py()
    trace = run.explain(first)
    (file,) = trace.files  # of a shard of many files the one of this object
    assert repr(trace).splitlines()[2].startswith(f"file      {file.path}, ")
    assert len(repr(trace.shard)) < 400
    assert file.path == f"{pictures}/{first}.jpg"
    shard = ledger.read_listing(run.path)[0]
    for file in shard.inputs:
        (pictures / file.path.rsplit("/", 1)[1]).unlink()
    with pytest.raises(DataError, match="no picture of"):
        run.picture(first)
    assert pq.read_table(tmp_path / "run" / pixels.FOLDER / "objects.parquet").num_rows == 12


def test_a_list_of_files_is_refused_in_favor_of_a_glob(tmp_path):
    with pytest.raises(ConfigError, match="survey is a list, expected one path, glob"):
        astroray.scan(["a.fits", "b.fits"], out=tmp_path / "run")  # type: ignore[arg-type]


def test_a_scan_without_faiss_ends_before_it_begins(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "faiss" else find(name)
    )
    with pytest.raises(BackendError, match="FAISS cannot be imported"):
        astroray.scan(SURVEY, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_notebook_shows_an_error_by_its_message_and_a_stop_as_one(monkeypatch, tmp_path):
    assert ConfigError("k is 0")._render_traceback_() == ["ConfigError: k is 0"]

    def interrupt(config, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("astroray.pipeline.scan", interrupt)
    with pytest.raises(KeyboardInterrupt) as stopped:
        astroray.scan(SURVEY, out=tmp_path, show=False)
    (shown,) = stopped.value._render_traceback_()
    assert shown == "interrupted; what is done stays, the same command goes on"
