"""The job of a night: what it embeds, what it refuses, and that a kill changes no byte."""

import dataclasses
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from astroray import faults, inspection, ledger, pipeline
from astroray.actors.night import rank_night
from astroray.catalog import versions
from astroray.errors import ConfigError, LedgerError
from astroray.explain import explain_object
from astroray.labelling.labels import Label, LabelLog
from astroray.neighbors.search import SearchConfig
from astroray.nightly import NightConfig, run_night
from astroray.receipts import done_shards, undo_shard
from astroray.retention import delete_files, export_version, find_prunable
from astroray.run_record import RunRecord
from astroray.storage.leases import hold_lease
from astroray.surveys.simulated_files import write_survey
from benchmarks.embedded_runs import begin_night, plan_of, publish_shard
from tests import scans
from tests.surveys_made import write_pictures
from tests.test_nightly import certified, cloud, files_of, scan, shard

SURVEY = "sim:galaxies?count=60&seed=3&shard_rows=20&size=24"


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A folder of two shards, the scan of them, and a third shard that is not there yet."""
    folder = tmp_path_factory.mktemp("nightly")
    write_survey(SURVEY, str(folder / "made"))
    *old, new = sorted((folder / "made" / "shards").glob("*.parquet"))
    (folder / "sky").mkdir()
    for path in old:
        shutil.copy2(path, folder / "sky")
    scans.scan_here(folder / "sky", folder / "ref")
    return folder / "sky", folder / "ref", new


def night_of(made: tuple[Path, Path, Path], out: Path, **settings: object) -> NightConfig:
    sky, ref, _ = made
    known = {"survey": str(sky), "reference": str(ref), "out": str(out), "workers": "1"}
    return NightConfig(**{**known, **settings})


def run_here(night: NightConfig) -> RunRecord:
    with scans.workers_here():
        return run_night(night)


@pytest.fixture(scope="module")
def night_after(reference, tmp_path_factory) -> tuple[NightConfig, RunRecord]:
    """The night of the third shard, and what its run left in its record."""
    night = night_of(
        reference, tmp_path_factory.mktemp("after") / "night", survey=str(reference[2])
    )
    before = files_of(reference[1])
    record = run_here(night)
    assert files_of(reference[1]) == before
    return night, record


def test_a_night_embeds_what_is_new_and_its_reference_is_left_alone(
    reference, night_after, tmp_path, monkeypatch
):
    sky, ref, new = reference
    shutil.copytree(sky, tmp_path / "sky")
    night, record = night_after
    assert record.night.coverage.shards_new == 1
    assert record.night.found.objects_new == 20
    assert record.counts.catalog == 60
    assert record.counts.inherited == 40
    shutil.copy2(new, tmp_path / "sky")
    model = str(ref / "model" / "model.safetensors")
    scans.scan_here(tmp_path / "sky", tmp_path / "all", encoder__name=model)
    assert (
        certified(Path(night.out))
        .drop_columns(["score_kind"])
        .equals(certified(tmp_path / "all").drop_columns(["score_kind"]))
    )
    assert inspection.verify_run(night.out) == []
    read = inspection.read_status(night.out)
    facts = read.facts()
    assert (facts["state"], facts["shards_done"], facts["shards"]) == ("done", 3, 3)
    assert facts["reference"] == str(ref)
    status = read.words()
    assert status["shards done"] == "3 of 3"
    assert status["night"].startswith("1 after")
    page = Path(night.out, "report", "index.html").read_text("utf-8")
    assert "What this night changed" in page
    # Its rows are traced over both versions, to the last bit.
    table = versions.read_version(night.out)
    for row in (0, len(table) - 1):
        found = explain_object(night.out, table["object_id"][row].as_py())
        assert "equal to the last bit" in found.verdict or "the bound holds" in found.verdict
        assert found.encoded == "read and encoded again, equal to the last bit"
    done = files_of(Path(night.out))
    monkeypatch.setenv("HOME", str(Path(night.out).parent))
    for out in (night.out, "~/night"):
        assert run_here(dataclasses.replace(night, out=out)).counts == record.counts
        assert files_of(Path(night.out)) == done


def test_a_file_that_came_in_half_beside_others_is_embedded_by_the_night_after_it_is_whole(
    tmp_path,
):
    made = write_pictures(tmp_path / "made", 9)
    sky, runs = tmp_path / "sky", tmp_path / "runs"
    sky.mkdir()

    def arrive(*numbers: int, half: int) -> None:
        (sky / made[half].name).write_bytes(made[half].read_bytes()[:300])
        for number in numbers:
            shutil.copy2(made[number], sky)

    def add_night(name: str) -> list[int | None]:
        night = NightConfig(survey=str(sky), reference=str(runs), out=str(runs / name))
        counts = run_here(night).counts
        assert inspection.verify_run(night.out) == []
        return [counts.catalog, counts.rows_rejected, counts.shards]

    arrive(0, 1, 2, half=3)
    scans.scan_here(sky, runs / "ref")
    arrive(3, 4, half=5)
    assert add_night("n1") == [5, 1, 1]  # the mended one and both new ones are a shard
    arrive(half=5)  # written anew, and as bad as before
    assert add_night("n2") == [5, 1, 1]
    runs = runs.rename(tmp_path / "moved")  # a folder of versions may be
    arrive(5, 6, half=6)
    assert add_night("n3") == [7, 0, 2]
    arrive(half=7)
    arrive(half=8)
    assert add_night("n4") == [7, 2, 1]  # a shard of which nothing is read
    arrive(7, half=8)
    assert add_night("n5") == [8, 1, 1]
    shutil.copy2(made[8], sky)
    assert add_night("n6") == [9, 0, 1]
    scans.scan_here(sky, tmp_path / "all", encoder__name=str(runs / "ref"))
    now, anew = (
        certified(one).drop_columns("score_kind") for one in (runs / "n6", tmp_path / "all")
    )
    assert now.equals(anew)
    arrive(half=0)  # it is in the catalog
    with pytest.raises(LedgerError, match="1 finished shard has other files"):
        add_night("n7")


def test_an_object_of_a_file_a_band_is_embedded_by_the_night_after_all_of_them_are_whole(tmp_path):
    sky, runs = tmp_path / "sky", tmp_path / "runs"
    sky.mkdir()
    random = np.random.default_rng(0)
    made = {
        f"o{i}_{band}.fits": fits.PrimaryHDU(random.normal(5, 2, (12, 12)).astype(np.float32))
        for i in range(9)
        for band in "gr"
    }
    survey = f"{sky}?bands=g,r"

    def arrive(numbers: Iterable[int], half: Sequence[str] = ()) -> None:
        for name, image in made.items():
            if int(name[1]) in numbers and (name in half or not (sky / name).exists()):
                image.writeto(sky / name, overwrite=True)
            if name in half:
                (sky / name).write_bytes((sky / name).read_bytes()[:2900])

    def mend(name: str) -> None:
        made[name].writeto(sky / name, overwrite=True)

    def add_night(name: str) -> list[int | None]:
        night = NightConfig(survey=survey, reference=str(runs), out=str(runs / name))
        counts = run_here(night).counts
        assert inspection.verify_run(night.out) == []
        return [counts.catalog, counts.rows_rejected]

    arrive(range(5), half=["o3_g.fits", "o4_g.fits", "o4_r.fits"])
    scans.scan_here(survey, runs / "ref")
    mend("o3_g.fits")
    assert add_night("n1") == [4, 0]
    arrive([5, 6], half=["o5_g.fits", "o6_g.fits"])  # a shard of which nothing is read
    mend("o4_g.fits")  # and not its other band
    assert add_night("n2") == [4, 3]
    mend("o5_g.fits")
    mend("o4_r.fits")
    assert add_night("n3") == [6, 1]
    mend("o6_g.fits")
    arrive([7, 8])
    assert add_night("n4") == [9, 0]
    assert add_night("n5") == [9, 0]
    scans.scan_here(survey, tmp_path / "all", encoder__name=str(runs / "ref"))
    now, anew = (
        certified(one).drop_columns("score_kind") for one in (runs / "n5", tmp_path / "all")
    )
    assert now.equals(anew)
    mend("o3_r.fits")
    (sky / "o3_r.fits").write_bytes((sky / "o3_r.fits").read_bytes() + bytes(2880))
    with pytest.raises(LedgerError, match="1 finished shard has other files"):
        add_night("n6")


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_night_on_ray_follows_a_scan_that_was_asked_to_search_by_partitions(
    ray_cluster, reference, night_after, tmp_path
):
    sky, ref, new = reference
    model = str(ref / "model" / "model.safetensors")
    by_parts = tmp_path / "parts"
    scans.scan_here(sky, by_parts, encoder__name=model, search__index="sharded")
    again = night_of(reference, tmp_path / "night", survey=str(new), reference=str(by_parts))
    record = run_night(again)
    assert record.backends.index == "sharded"
    assert record.backends.index_reason.startswith("asked for; ")
    assert inspection.verify_run(str(tmp_path / "night")) == []
    same, record = night_after
    assert record.backends.index == "flat"
    assert certified(tmp_path / "night").equals(certified(Path(same.out)))


def test_a_self_contained_copy_needs_no_other_version_and_is_a_reference(reference, tmp_path):
    _sky, ref, new = reference
    shutil.copytree(ref, tmp_path / "ref")
    old, night, copy = (str(tmp_path / name) for name in ("ref", "night", "copy"))
    run_here(night_of(reference, Path(night), survey=str(new), reference=old))
    with pytest.raises(ConfigError, match=r"was made of .*, expected the older version first"):
        find_prunable(night, old)
    said = LabelLog(old).append(Label(object_id="a", user="ana", model_id="m", interest=4))
    needed = {Path(file.path).name for file in find_prunable(old, night)}
    assert "index.html" in needed
    assert "run.json" not in needed
    assert not any(name.endswith(".jsonl") for name in needed)  # nothing makes a label again
    assert not {path.name for path in Path(old, "embeddings").iterdir()} & needed
    record = export_version(night, copy)
    assert (record.counts.rows_embedded, record.counts.catalog) == (60, 60)
    whole = versions.read_version(copy)
    assert whole.equals(versions.read_version(night))
    assert inspection.verify_run(copy) == []
    assert LabelLog(copy).read() == LabelLog(night).read() == [said]
    delete_files(find_prunable(old, copy))
    assert [path for path in Path(old).rglob("*") if path.is_file()] == []
    with pytest.raises(LedgerError, match="this version refers to it"):
        versions.read_version(night)
    again = night_of(reference, tmp_path / "next", survey=str(new), reference=copy)
    record = run_here(again)
    assert record.night.found.objects_new == 0
    assert record.proof.num_certified == 5
    assert explain_object(copy, whole["object_id"][0].as_py()).verdict.startswith("equal to")


def test_changed_withdrawn_and_unfinished_references_are_refused_before_ray_starts(
    reference, tmp_path, monkeypatch
):
    monkeypatch.delattr("astroray.execution.workers.cluster")
    sky, ref, new = reference
    first = sorted(sky.glob("*.parquet"))[0]
    aside, stat = tmp_path / "aside", first.stat()
    shutil.move(first, aside)
    try:
        with pytest.raises(LedgerError, match="1 of the reference's files was withdrawn"):
            run_night(night_of(reference, tmp_path / "night"))
        shutil.copy2(new, first)
        with pytest.raises(LedgerError, match="other files than when they were read"):
            run_night(night_of(reference, tmp_path / "night"))
    finally:
        shutil.copy2(aside, first)
    assert first.stat().st_mtime_ns == stat.st_mtime_ns
    with pytest.raises(ConfigError, match=r"holds no run\.json"):
        run_night(night_of(reference, tmp_path / "night", reference=str(tmp_path / "none")))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(ref, unfinished)
    record = RunRecord.load(str(unfinished))
    of_flares = dataclasses.replace(record, config={"rule": {}})
    for other, words in (
        (dataclasses.replace(record, state="failed"), "a run that is failed, expected one that"),
        (of_flares, "is a run of flares find, expected one of a scan or night"),
    ):
        other.publish(str(unfinished))
        with pytest.raises(ConfigError, match=words):
            run_night(night_of(reference, tmp_path / "night", reference=str(unfinished)))
    dataclasses.replace(record, state="failed").publish(str(unfinished))
    with pytest.raises(LedgerError, match="belongs to another run"):
        run_night(night_of(reference, unfinished))
    with pytest.raises(ConfigError, match="expected two folders"):
        night_of(reference, ref)


def test_a_scan_that_a_night_goes_on_from_is_resumed_and_takes_no_other_files(reference, tmp_path):
    sky, ref, new = reference
    shutil.copytree(sky, tmp_path / "sky")
    scans.scan_here(tmp_path / "sky", tmp_path / "ref", encoder__name=str(ref))
    night = night_of(
        reference, tmp_path / "night", survey=str(new), reference=str(tmp_path / "ref")
    )
    run_here(night)
    before = files_of(tmp_path / "ref" / "catalog")
    shard_name = ledger.listed_names(str(tmp_path / "ref"))[0]
    undo_shard(str(tmp_path / "ref"), shard_name)
    assert shard_name not in done_shards(str(tmp_path / "ref"))
    scans.scan_here(tmp_path / "sky", tmp_path / "ref", encoder__name=str(ref))
    assert inspection.read_status(str(tmp_path / "ref")).record.state == "done"
    assert inspection.verify_run(night.out) == []
    shutil.copy2(new, tmp_path / "sky")
    with pytest.raises(LedgerError, match=r"what the night .*night is made of.*--reference NEWEST"):
        scans.scan_here(tmp_path / "sky", tmp_path / "ref", encoder__name=str(ref))
    assert files_of(tmp_path / "ref" / "catalog") == before
    assert inspection.verify_run(night.out) == []
    shutil.rmtree(night.out)
    record = scans.scan_here(tmp_path / "sky", tmp_path / "ref", encoder__name=str(ref))
    assert record.counts.catalog == 60


def test_a_file_that_came_in_half_is_embedded_by_the_night_after_it_is_whole(reference, tmp_path):
    _, _, new = reference
    late, broken = tmp_path / "sky" / new.name, tmp_path / "sky" / "z.parquet"
    late.parent.mkdir()
    for path in (late, broken):
        path.write_bytes(new.read_bytes()[:3000])
    first = night_of(reference, tmp_path / "first", survey=str(late.parent))
    assert run_here(first).counts.shards_rejected == 2
    shutil.copy2(new, late)
    second = dataclasses.replace(first, reference=first.out, out=str(tmp_path / "second"))
    record = run_here(second)
    assert (record.counts.catalog, record.counts.shards_rejected) == (60, 0)
    status = inspection.read_status(second.out)
    assert (status.done.shards, status.num_shards, status.done.shards_rejected) == (4, 4, 1)
    export_version(second.out, str(tmp_path / "copy"))
    for run_dir in (second.out, str(tmp_path / "copy")):
        assert inspection.verify_run(run_dir) == []
    late.unlink()
    third = dataclasses.replace(second, out=str(tmp_path / "third"))
    assert run_here(third).counts.catalog == 40, "the first night had read nothing of that file"
    with pytest.raises(LedgerError, match="was withdrawn"):
        run_here(dataclasses.replace(third, reference=second.out, out=str(tmp_path / "fourth")))


def test_a_night_without_time_leaves_the_shards_to_the_next_one(reference, tmp_path):
    _, _, new = reference
    late = night_of(reference, tmp_path / "late", survey=str(new), finish_by_s=1.0)
    record = run_here(late)
    assert record.night.coverage.shards_left == 1
    assert record.counts.catalog == 40
    assert certified(tmp_path / "late").equals(certified(reference[1])), "nothing is new: it stands"
    assert inspection.verify_run(str(tmp_path / "late")) == []
    after = night_of(
        reference, tmp_path / "after", survey=str(new), reference=str(tmp_path / "late")
    )
    record = run_here(after)
    assert record.night.found.objects_new == 20
    assert record.proof.num_certified == 5


def test_a_night_with_nothing_new_says_in_which_numbers_its_embeddings_are(reference, tmp_path):
    night = night_of(reference, tmp_path / "night")
    record = run_here(night)
    assert record.night.coverage.shards_new == 0
    words = inspection.read_status(night.out).words()
    assert words["model"] == f"{record.model.model_id} in float32"


def test_a_reference_is_known_by_where_it_lies_whatever_link_leads_to_it(
    reference, tmp_path, monkeypatch
):
    told = []
    monkeypatch.setattr(pipeline, "scan", lambda config, *, show, night: told.append(night))
    (tmp_path / "latest").symlink_to(reference[1])
    run_night(night_of(reference, tmp_path / "night", reference=str(tmp_path / "latest")))
    (night,) = told
    assert night.inherited.versions == [night.reference] == [str(reference[1])]


def test_two_nights_at_once_are_not_let_in(reference, tmp_path):
    with (
        hold_lease(str(tmp_path / "night")),
        pytest.raises(LedgerError, match="is being written by"),
    ):
        run_night(night_of(reference, tmp_path / "night"))


class Killed(BaseException):
    """What a kill leaves: nothing after it runs."""


def test_a_night_that_was_killed_before_it_listed_anything_is_sound(
    reference, tmp_path, monkeypatch
):
    def reach(point: str, detail: str = "") -> None:
        if point == "inherited":
            raise Killed

    monkeypatch.setattr(faults, "reach", reach)
    with pytest.raises(Killed):
        run_here(night_of(reference, tmp_path / "night"))
    assert inspection.verify_run(str(tmp_path / "night")) == []


def test_a_kill_at_any_point_of_the_search_is_repaired_to_the_same_bytes(tmp_path, monkeypatch):
    config = SearchConfig(k=3, top=5)
    scan(tmp_path / "ref", {"a": shard("a", cloud(60))}, config)
    for name in ("killed", "calm"):
        begin_night(str(tmp_path / "ref"), str(tmp_path / name))
        publish_shard(str(tmp_path / name), "b", *shard("b", cloud(9, seed=1)))
    rank_night(plan_of(str(tmp_path / "calm"), config))
    for point in ("search.found", "search.neighbors", "search.file", "search.catalog"):

        def reach(reached: str, detail: str = "", point: str = point) -> None:
            if reached == point:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(faults, "reach", reach)
            with pytest.raises(Killed):
                rank_night(plan_of(str(tmp_path / "killed"), config))
    rank_night(plan_of(str(tmp_path / "killed"), config))
    killed, calm = (
        {str(Path(path).relative_to(tmp_path / name)): data for path, data in files.items()}
        for name, files in ((n, files_of(tmp_path / n)) for n in ("killed", "calm"))
    )
    assert killed == calm
