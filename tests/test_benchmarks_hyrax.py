"""A scan beside Hyrax: what both are given, how what they did is read and compared."""

import json
import os
import sys

import numpy as np
import pytest

from benchmarks import hyrax, hyrax_jobs, processes
from benchmarks.hyrax_jobs import Found, Images, Theirs, Took
from benchmarks.rows import MeasurementError

PEER = """#!{python}
import json, pathlib, sys, time
import numpy as np
job = json.loads(pathlib.Path(sys.argv[-1]).read_text())
lines = pathlib.Path(job["table"]).read_text().splitlines()[1:]
names = [line.split(",")[0] for line in lines[::3]]
data = pathlib.Path(job["results"], "1-infer-a", "lance_db", "results.lance", "data")
data.mkdir(parents=True)
(data / "x.lance").write_bytes(b"123")
near = [[other for other in names if other != name] for name in names]
near = [[name, *some] if place else [some[0], name, *some[1:]]
        for place, (name, some) in enumerate(zip(names, near))]
np.savez(job["answer"] + ".npz", ids=np.array(names), embedding=np.eye(len(names)),
         nearest=np.array(near))
answer = dict(error="", embedded_s=time.time())
pathlib.Path(job["answer"] + ".json").write_text(json.dumps(answer))
"""


def found(vector_ND, nearest=None, digests=None):
    names = [str(at) for at in range(len(vector_ND))]
    stored = dict(zip(names, np.array(vector_ND, np.float32), strict=True))
    return Found(stored=stored, nearest=nearest or {}, digests=digests or {})


@pytest.fixture
def images(tmp_path):
    return Images.simulate(3, tmp_path / "images")


def test_both_are_given_the_same_files_and_damage_stays_where_it_is_made(images, tmp_path):
    lines = images.table.read_text().splitlines()
    assert lines[:2] == ["object_id,filter,filename", "1000001,g,1000001_g.fits"]
    assert len(lines) == 10
    assert all((images.folder / line.split(",")[2]).exists() for line in lines[1:])
    some = images.first(2, tmp_path / "some")
    assert some.names == images.names[:2]
    before = (images.folder / "1000002_g.fits").read_bytes()
    some.damage("1000002")
    assert len((some.folder / "1000002_g.fits").read_bytes()) == len(before) // 2
    assert (images.folder / "1000002_g.fits").read_bytes() == before


def test_hyrax_is_asked_by_its_own_python_and_an_object_is_no_neighbor_of_itself(
    images, tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "SAMPLE_EVERY_S", 0.01)  # the peer's job is a short one
    python = tmp_path / "python"
    python.write_text(PEER.format(python=sys.executable))
    python.chmod(0o755)
    job = Theirs(images=images, python=str(python), network={}, out=tmp_path / "out")
    took = job.run()
    assert 0 < took.embed_s <= took.total_s
    assert took.disk_mb == pytest.approx(3e-6)
    came = job.found()
    assert list(came.stored) == ["1000001", "1000002", "1000003"]
    assert came.nearest["1000001"] == ["1000002", "1000003"]
    assert list(came.digests) == ["results/1-infer-a/lance_db/results.lance/data/x.lance"[8:]]
    python.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no module named hyrax')\n")
    failing = Theirs(images=images, python=str(python), network={}, out=tmp_path / "other")
    with pytest.raises(MeasurementError, match="Hyrax failed: no module named hyrax"):
        failing.run()


def test_a_command_is_killed_once_enough_is_stored(tmp_path):
    write = "import pathlib, sys, time\nfor at in range(10_000):\n"
    write += " pathlib.Path(sys.argv[1], f'{at}.x').touch(); time.sleep(0.001)\n"
    command = [sys.executable, "-c", write, str(tmp_path)]
    ran = hyrax_jobs._call(command, f"{tmp_path}/*.x", 5)
    assert ran.code == -9
    assert 5 <= len(os.listdir(tmp_path)) < 10_000


def test_embeddings_agree_but_for_the_center_and_else_nothing_is_compared():
    vector_ND = np.random.default_rng(0).normal(size=(5, 3))
    assert hyrax.difference(found(vector_ND), found(vector_ND + np.arange(3))) < 1e-6
    with pytest.raises(MeasurementError, match="embeddings differ from Hyrax's by"):
        hyrax.difference(found(vector_ND), found(vector_ND * 1.01))
    with pytest.raises(MeasurementError, match="5 objects are embedded here and 4 by Hyrax, 4 by"):
        hyrax.difference(found(vector_ND), found(vector_ND[:4]))


def test_what_is_nearest_is_judged_by_the_stored_embeddings(monkeypatch):
    monkeypatch.setattr(hyrax, "NUM_NEAREST", 1)
    nearest = {"0": ["1"], "1": ["0"], "2": ["1"], "3": ["0"]}
    assert hyrax.true_share(found([[0.0], [1.0], [3.0], [7.0]], nearest)) == 0.75


def test_two_runs_are_equal_by_the_bytes_of_every_file():
    one, other = (found([], digests=dict(zip("abc", text, strict=True))) for text in ("xyz", "xyw"))
    assert hyrax.equal_share(one, one) == 1
    assert hyrax.equal_share(one, other) == pytest.approx(2 / 3)
    assert hyrax.equal_share(one, found([], digests={"d": "x"})) == 0
    assert hyrax.equal_embeddings(found([[1.0], [2.0]]), found([[1.0], [2.0 + 1e-6]])) == 0.5


def test_objects_a_second_leave_the_start_out_and_a_ratio_is_of_one_turn():
    def pair(start_s, per_s):
        few, many = (
            Took(embed_s=start_s + num / per_s, total_s=0, embed_cpu_s=0, total_cpu_s=0,
                 peak_mb=0, disk_mb=0)
            for num in (100, 400)
        )  # fmt: skip
        return hyrax.Pair(few=few, many=many, num_more=300)

    pairs = [[pair(9.0, 100.0), pair(9.0, 300.0)], [pair(1.0, 50.0), pair(2.0, 100.0)]]
    fields = hyrax.compare(pairs, "per_s", lambda one: one.per_s)
    assert fields["value"] == pytest.approx(2.5)
    assert fields["facts"] == pytest.approx({"ours_per_s": 200, "hyrax_per_s": 75})


def test_without_hyrax_every_row_says_so(capsys, tmp_path):
    hyrax.run_benchmark(
        "hyrax",
        "A scan beside Hyrax.",
        lambda quick, scratch: hyrax.measure(quick, scratch, python=""),
        ["--json", "--scratch", str(tmp_path)],
    )
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert len(rows) == len(hyrax.CLAIMS)
    assert {row["reason"] for row in rows} == {
        "no --hyrax-python PYTHON of an environment that has Hyrax"
    }
