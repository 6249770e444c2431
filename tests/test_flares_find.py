"""`astroray flares find`: shards of light curves become tables of flares and stars."""

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from astroray import attempts, inspection, ledger, schema, storage
from astroray.cli import cli
from astroray.errors import ConfigError, LedgerError
from astroray.find_flares import FindConfig, _read_parts, find_flares
from astroray.flares.events import FlareRule
from astroray.flares.find import FindPlan, find_in_light_curve, find_in_shard
from astroray.flares.inject import ED_EDGES_S
from astroray.flares.stars import split_candidates, stars_of, stars_table
from astroray.run_files import flare_part_file
from astroray.storage import describe
from astroray.storage.parquet import publish_parquet
from astroray.surveys import light_curves
from astroray.surveys.shards import SurveyUri
from tests.flares_made import light_curve, star
from tests.light_curves_made import write_mission

FLARES = ((2.0, 6.0, 0.05), (4.5, 20.0, 0.1))


def write_star(folder, number, *, flares=FLARES, **changes):
    """A TESS file of TIC `number`; returns its path."""
    time_d, flux = star(days=6, flares=flares, seed=number)
    primary = {"OBJECT": f"TIC {number}", "TICID": number}
    path = Path(folder) / f"tess-{number:04d}_lc.fits"
    path.parent.mkdir(exist_ok=True)
    write_mission(path, "tess", **({"time": time_d, "flux": flux, "primary": primary} | changes))
    return path


def shard_of(*paths):
    uri = SurveyUri.parse(f"{Path(paths[0]).parent}?format=light_curves")
    (shard,) = light_curves.list_shards([describe(str(path)) for path in paths], uri)
    return shard


def plan_in(folder, **changes):
    facts = {"session": "S1", "rule": FlareRule(), "num_injections": 5, "seed": 0}
    return FindPlan(run_dir=str(folder), **(facts | changes))


def table_of(folder, table, shard):
    return pq.read_table(flare_part_file(str(folder), table, shard.name))


def test_a_profile_does_not_reach_beyond_a_gap(tmp_path):
    time_d, flux = star(days=6, flares=((2.02, 6.0, 0.05),))
    kept_T = (time_d < 1500.5) | (time_d > 1502.0)
    found = find_in_light_curve(
        light_curve(time_d[kept_T], flux[kept_T]), plan_in(tmp_path), shard="a"
    )
    (event, profile) = next(
        one for one in zip(found.events, found.profiles, strict=True) if not one[0].refused
    )
    assert event.peak_d == pytest.approx(1502.02, abs=0.003)
    after_d, flux_P = profile
    assert -0.05 < after_d[0] < 0
    assert np.isfinite(flux_P).all()


def test_a_shard_becomes_flares_with_times_and_energies(tmp_path):
    shard = shard_of(write_star(tmp_path / "in", 5), write_star(tmp_path / "in", 6, flares=()))
    receipt = find_in_shard(plan_in(tmp_path), shard)
    assert (receipt.rows_read, receipt.rows_embedded, receipt.rows_rejected) == (2, 2, 0)
    candidates = table_of(tmp_path, "candidates", shard)
    flares = [row for row in candidates.to_pylist() if row["class"] is None]
    assert [row["object_id"] for row in flares] == ["TIC 5"] * 2
    assert [row["peak"] - 1500 for row in flares] == pytest.approx([2.0, 4.5], abs=0.003)
    assert {(row["time_zero"], row["row"], row["shard"]) for row in flares} == {
        ("BTJD", 0, shard.name)
    }
    for row, (_, width_min, _) in zip(flares, FLARES, strict=True):
        at = int(np.argmin(np.abs(row["profile_time"])))
        assert row["profile_flux"][at] == pytest.approx(row["amplitude"], rel=1e-6)
        assert len(row["profile_time"]) == len(row["profile_flux"]) > row["num_points"]
        assert row["energy_err"] / row["energy"] == pytest.approx(
            row["equivalent_duration_err"] / row["equivalent_duration"]
        )
        assert row["fwhm"] == pytest.approx(width_min / 1440, abs=4 * row["fwhm_err"])
    assert 1e31 < flares[0]["energy"] < flares[1]["energy"] < 1e34
    refused = [row for row in candidates.to_pylist() if row["class"]]
    assert all(row["reason"] and row["profile_flux"] is None for row in refused)
    assert all(row["fwhm"] is None and row["equivalent_duration_err"] for row in refused)
    curves = table_of(tmp_path, "light_curves", shard).to_pylist()
    assert [(row["num_flares"], row["num_cadences"]) for row in curves] == [(2, 4320), (0, 4320)]
    assert curves[0]["observed"] == pytest.approx(6.0)
    assert sum(curves[0]["num_injected"]) == 5
    assert [row["num_mirrored"] for row in curves] == [0, 0]
    assert len(curves[0]["num_injected"]) == len(ED_EDGES_S) - 1


def test_a_done_shard_is_not_read_again(tmp_path):
    path = write_star(tmp_path / "in", 5)
    shard = shard_of(path)
    first = find_in_shard(plan_in(tmp_path), shard)
    path.unlink()
    assert find_in_shard(plan_in(tmp_path), shard) == first


def test_bad_light_curves_are_counted_with_their_reason(tmp_path):
    time_d, flux = star(days=6)
    paths = [
        write_star(tmp_path / "in", 1),
        write_star(tmp_path / "in", 2, time=time_d[:12], flux=flux[:12]),
        write_star(tmp_path / "in", 3, flux=np.full(len(flux), -5.0)),
        write_star(tmp_path / "in", 4, flux=np.full(len(flux), np.nan)),
        tmp_path / "in" / "torn_lc.fits",
    ]
    paths[4].write_bytes(paths[0].read_bytes()[:5000])
    shard = shard_of(*paths)
    receipt = find_in_shard(plan_in(tmp_path, num_injections=0), shard)
    assert (receipt.rows_read, receipt.rows_embedded, receipt.rows_rejected) == (5, 1, 4)
    rejects = ledger.read_rejects(str(tmp_path)).sort_by("row").to_pylist()
    assert [row["row"] for row in rejects] == [1, 2, 3, 4]
    assert [row["stage"] for row in rejects] == ["detrend", "detrend", "read", "read"]
    assert "no 30 points stand together" in rejects[0]["reason"]
    assert "median flux is -5" in rejects[1]["reason"]


def test_a_shard_that_cannot_be_read_or_kills_its_worker_is_one_reject(tmp_path):
    path = tmp_path / "in.parquet"
    rows = {"object_id": ["a"], "time": [[1.0, 2.0]], "flux": [[1.0, 2.0]]}
    pq.write_table(pa.table(rows), path)
    uri = SurveyUri.parse(f"{path}?format=light_curves&time=BTJD")
    (shard,) = light_curves.list_shards([describe(str(path))], uri)
    path.write_bytes(b"PAR1 no more")
    receipt = find_in_shard(plan_in(tmp_path / "a"), shard)
    assert (receipt.shard_rejected, receipt.rows_read) == (True, 0)
    for _ in range(3):
        attempts.begin_attempt(str(tmp_path / "b"), shard.name, "S1")
    assert find_in_shard(plan_in(tmp_path / "b"), shard).shard_rejected
    (reject,) = ledger.read_rejects(str(tmp_path / "b")).to_pylist()
    assert (reject["class"], reject["row"]) == ("quarantine", None)


def test_made_flares_depend_on_seed_shard_and_row_alone():
    curve = light_curve(*star(days=6))
    found = [
        find_in_light_curve(curve, plan_in("x", num_injections=20, seed=seed), shard=shard).facts[
            "num_injected"
        ]
        for seed, shard in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
    ]
    assert found[0] == found[1]
    assert found[0] not in found[2:]


def test_light_curves_of_a_star_are_put_together():
    def curve(name, num_flares):
        return {
            **{"object_id": name, "ra": 1.0, "dec": 2.0, "_healpix_29": 3, "shard": "s"},
            **{"row": num_flares, "mission": "tess", "flux_kind": "sap", "cadence": 120.0},
            **{"window": 1.2, "noise": 0.001, "num_cadences": 100, "observed": 10.0},
            **{"num_flares": num_flares, "num_refused": 1, "teff": None, "radius": 0.5},
            "num_mirrored": 0,
            "num_injected": [4] * (len(ED_EDGES_S) - 1),
            "num_recovered": [4] * (len(ED_EDGES_S) - 1),
        }

    rows = [curve("b", 1), curve("a", 2), curve("a", 3)]
    curves = pa.Table.from_pylist(rows, schema=schema.FLARE_CURVES)
    flares = schema.FLARES.empty_table().to_pydict()
    names = ["a"] * 5 + ["b"]
    flares = {name: [None] * 6 for name in flares} | {"object_id": names}
    flares["equivalent_duration"] = [1.0, 2.0, 3.0, 4.0, 50.0, 6.0]
    stars = list(stars_of(curves, pa.table(flares, schema=schema.FLARES)))
    table = stars_table(stars).to_pylist()
    assert [row["object_id"] for row in table] == ["a", "b"]
    assert (table[0]["num_light_curves"], table[0]["num_flares"]) == (2, 5)
    assert (table[0]["rate"], table[0]["observed"]) == (0.25, 20.0)
    assert (table[0]["teff"], table[0]["radius"]) == (None, 0.5)
    assert table[0]["num_injected"][0] == 8
    assert table[0]["slope"] > 1
    assert table[1]["slope"] is None


def test_candidates_are_split_and_sorted():
    empty = {name: [None] * 3 for name in schema.REFUSED_FLARES.names}
    rows = empty | {"object_id": ["b", "a", "a"], "peak": [1.0, 3.0, 2.0]}
    rows |= {"class": [None, None, "single"]}
    flares, refused = split_candidates(pa.table(rows, schema=schema.REFUSED_FLARES))
    assert flares["object_id"].to_pylist() == ["a", "b"]
    assert refused["peak"].to_pylist() == [2.0]
    assert flares.schema.equals(schema.FLARES)


def check_that_damage_is_found(folder, config):
    """A torn part is named and done again; a table of fewer rows is counted."""
    (part, *_) = sorted((folder / "parts" / "candidates").iterdir())
    whole, flares = part.read_bytes(), folder / "flares.parquet"
    part.write_bytes(whole[:-9])
    assert len(inspection.verify_run(config.out)) == 1
    (fault,), taken = inspection.repair_run(config.out)
    assert len(taken) == 1
    assert "its receipt says" in fault
    find_flares(config)
    assert inspection.verify_run(config.out) == []
    assert part.read_bytes() == whole
    pq.write_table(pq.read_table(flares).slice(1), flares)
    assert any("flares.parquet has" in fault for fault in inspection.verify_run(config.out))


def check_that_its_flares_are_exported(folder):
    """As FITS that astropy reads, with units; what is not known is NaN, profiles are left out."""
    from astropy.table import QTable

    out = folder / "flares.fits"
    words = ["export", str(folder / "one"), "--format", "fits", "--out", str(out)]
    result = CliRunner().invoke(cli, words)
    assert result.output == f"6 rows  {out}\n"
    got, flares = QTable.read(out), pq.read_table(folder / "one" / "flares.parquet")
    assert got.colnames == [name for name in flares.schema.names if "profile" not in name]
    assert got["energy"].unit == "erg"
    assert got["equivalent_duration"].to_value("s").tolist() == (
        flares["equivalent_duration"].to_pylist()
    )
    assert set(got["time_zero"].astype(str)) == {"BTJD"}
    assert "already there" in CliRunner().invoke(cli, words).output


@pytest.mark.ray
def test_a_survey_is_searched_the_same_with_one_worker_and_two_and_resumes(
    ray_cluster, tmp_path, monkeypatch
):
    folder = tmp_path / "in"
    for number in (1, 2, 3):
        write_star(folder, number, flares=FLARES if number < 3 else ())
    (folder / "torn_lc.fits").write_bytes(b"SIMPLE  =")
    config = FindConfig(
        survey=f"{folder}?shard_files=2", out=str(tmp_path / "one"), num_injections=5, workers="1"
    )
    other = dataclasses.replace(config, out=str(tmp_path / "two"), workers="2")
    record = find_flares(config)
    find_flares(other)
    assert record.state == "done"
    assert {
        name: getattr(record.counts, name) for name in ("shards", "rows_read", "stars", "flares")
    } == {
        "shards": 2,
        "rows_read": 4,
        "stars": 3,
        "flares": 4,
    }
    assert record.counts.rows_rejected == 1
    for name in ("flares", "refused", "light_curves", "stars", "rejects"):
        path = f"{name}.parquet"
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    before = sorted((tmp_path / "one" / "ledger" / "attempts").rglob("*"))
    write_star(folder, 9)
    monkeypatch.chdir(folder.parent)  # a run goes on from any folder
    again = find_flares(dataclasses.replace(config, survey="in?shard_files=2"))
    assert again.counts.flares == 6
    assert len(sorted((tmp_path / "one" / "ledger" / "attempts").rglob("*.*"))) == 3
    assert set(before) <= set((tmp_path / "one" / "ledger" / "attempts").rglob("*"))
    page = (tmp_path / "one" / "index.html").read_text()
    assert "6 flares, 4 stars searched" in page
    assert page.count(" ± ") == 3 * 6  # width, equivalent duration and energy, each with its error
    assert "nan" not in page.lower().replace("nano", "")
    assert inspection.verify_run(config.out) == inspection.verify_run(other.out) == []
    status = inspection.read_status(config.out).words()
    assert (status["shards done"], status["objects"], status["flares"]) == ("3 of 3", "4", "6")
    check_that_its_flares_are_exported(tmp_path)
    with pytest.raises(ConfigError, match=r"is a run of flares find"):
        inspection.reopen_rejected(config.out)
    check_that_damage_is_found(tmp_path / "two", other)
    with pytest.raises(LedgerError, match="belongs to another run"):
        find_flares(dataclasses.replace(config, rule=FlareRule(sigma=5.0)))
    assert json.loads((tmp_path / "one" / "run.json").read_text())["state"] == "done"


def test_tables_of_shards_are_read_several_at_a_time(tmp_path, monkeypatch):
    names, read, meeting = ("a", "b"), storage.read_bytes, threading.Barrier(2)
    for name in names:
        part = flare_part_file(str(tmp_path), "candidates", name)
        publish_parquet(part, schema.REFUSED_FLARES.empty_table())

    def read_together(path: str) -> bytes:
        meeting.wait(20)
        return read(path)

    monkeypatch.setattr(storage, "read_bytes", read_together)
    found = _read_parts(str(tmp_path), "candidates", names, schema.REFUSED_FLARES)
    assert found.schema == schema.REFUSED_FLARES


def test_a_survey_of_images_is_no_survey_of_light_curves(tmp_path):
    with pytest.raises(ConfigError, match="expected light curves"):
        find_flares(FindConfig(survey="sim:galaxies?count=4", out=str(tmp_path / "out")))
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", ""], "out is empty"),
        (["--out", "x", "--injections", "-1"], "injections is -1"),
        (["--out", "x", "--sigma", "0"], "sigma is 0.0"),
    ],
)
def test_what_the_user_got_wrong_is_said_before_anything_is_read(arguments, message):
    result = CliRunner().invoke(cli, ["flares", "find", "nowhere", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.output


@pytest.mark.parametrize("name", ["FLARES", "REFUSED_FLARES", "FLARE_CURVES", "FLARE_STARS"])
def test_every_column_of_flares_has_a_meaning_and_a_unit_that_astropy_parses(name):
    from astropy import units

    table = getattr(schema, name)
    assert table.names[:4] == schema.IDENTITY.names
    for field in table:
        assert field.metadata[b"doc"], field.name
        units.Unit(field.metadata[b"unit"].decode())


def test_the_light_curve_upside_down_says_how_many_flares_are_false():
    time_d, flux = star(days=6, flares=FLARES)
    curve = light_curve(time_d, 2000.0 - flux)
    facts = find_in_light_curve(curve, plan_in("x", num_injections=0), shard="a").facts
    assert (facts["num_flares"], facts["num_mirrored"]) == (0, 2)
