"""The simulated survey: what it promises about its objects, its light and its files."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from astroray import sky, surveys
from astroray.errors import ConfigError
from astroray.surveys import galaxies, simulated
from astroray.surveys.shards import Cutouts, Shard, SurveyUri
from astroray.surveys.simulated_files import write_survey

SKY_NOISE_GRI_NJY = np.array([5.41, 7.68, 12.1])
"""Of an empty pixel, from sky of 22.0, 21.1, 20.3 mag/arcsec2, 10, 10, 8 electrons per nJy and 25
electrons of read noise: g has 230 nJy of sky, so sqrt(230 / 10 + 2.5**2) = 5.41."""


def shards_of(survey: str, known: Sequence[Shard] = ()) -> tuple[Shard, ...]:
    """The survey's shards, as a run lists them."""
    return surveys.list_shards(survey, known=known).shards


def read(survey: str) -> tuple[list[str], np.ndarray]:
    """All object_ids and images of a survey."""
    slices = [part for shard in shards_of(survey) for part in surveys.read_shard(shard)]
    assert all(isinstance(part, Cutouts) for part in slices)
    ids = [name for part in slices for name in part.object_id_B]
    return ids, np.concatenate([part.image_BCYX for part in slices])


def planted(kind: str, count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """The same objects twice: each with `kind` planted, and without."""
    survey = f"sim:galaxies?count={count}&seed=5&kinds={kind}"
    return read(f"{survey}&outliers=1")[1], read(f"{survey}&outliers=0")[1]


def test_an_object_is_the_same_in_shards_of_any_size() -> None:
    ids, image_BCYX = read("sim:galaxies?count=75&outliers=0.4&shard_rows=75")
    other_ids, other_BCYX = read("sim:galaxies?count=75&outliers=0.4&shard_rows=7")
    assert ids == other_ids
    assert ids[74] == "sim7-0000074"
    np.testing.assert_array_equal(image_BCYX, other_BCYX)


def test_single_rows_are_the_rows_of_a_full_read() -> None:
    (_, shard) = shards_of("sim:galaxies?count=160&outliers=0.4&shard_rows=80")
    whole = list(surveys.read_shard(shard))
    (some,) = surveys.read_shard(shard, rows=[66, 3, 17])
    assert some.row_B.tolist() == [3, 17, 66]
    assert some.object_id_B == ["sim7-0000083", "sim7-0000097", "sim7-0000146"]
    image_BCYX = np.concatenate([part.image_BCYX for part in whole])
    np.testing.assert_array_equal(some.image_BCYX, image_BCYX[[3, 17, 66]])
    assert np.concatenate([part.row_B for part in whole]).tolist() == list(range(80))


def test_another_seed_makes_other_objects() -> None:
    (_, one), (_, two) = (read(f"sim:galaxies?count=2&seed={seed}") for seed in (1, 2))
    assert not np.array_equal(one, two)
    assert not np.array_equal(one[0], one[1])


def test_shard_names_tell_apart_all_that_changes_their_content() -> None:
    base = "sim:galaxies?count=20&shard_rows=10"
    changes = ["", "&seed=8", "&size=32", "&bands=1", "&outliers=0.5", "&kinds=ring"]
    changes += ["&field_deg=5", "&shard_rows=5"]
    names = [s.name for change in changes for s in shards_of(base + change)]
    assert len(set(names)) == len(names) == 18


def test_a_longer_survey_begins_with_the_same_shards() -> None:
    short = shards_of("sim:galaxies?count=20&shard_rows=10")
    long = shards_of("sim:galaxies?count=35&shard_rows=10", known=short)
    assert long[:2] == short
    assert [shard.num_rows for shard in long] == [10, 10, 10, 5]


def test_shards_survive_json() -> None:
    (shard,) = shards_of("sim:galaxies?count=3&kinds=ring,merger")
    assert json.loads(json.dumps(shard.params)) == shard.params


def test_the_planted_fraction_and_kinds_are_as_asked() -> None:
    truth = simulated.truth_table("sim:galaxies?count=4000&outliers=0.1&kinds=merger,ring")
    kinds = {row["values"]: row["counts"] for row in truth["kind"].value_counts().to_pylist()}
    assert set(kinds) == {"smooth", "spiral", "ring", "merger"}
    assert kinds["ring"] + kinds["merger"] == pytest.approx(400, abs=80)
    assert kinds["ring"] == pytest.approx(200, abs=60)
    assert pc.sum(truth["is_outlier"]).as_py() == kinds["ring"] + kinds["merger"]
    everything = simulated.truth_table("sim:galaxies?count=200&outliers=1")
    assert set(everything["kind"].to_pylist()) == set(galaxies.KINDS)
    assert set(everything["host"].to_pylist()) == {"smooth", "spiral"}


def test_a_larger_fraction_keeps_the_outliers_of_a_smaller_one() -> None:
    few, more = (simulated.truth_table(f"sim:galaxies?count=500&outliers={x}") for x in (0.05, 0.2))
    kept = np.array(few["is_outlier"])
    assert np.array(more["is_outlier"])[kept].all()
    assert few["kind"].filter(kept).equals(more["kind"].filter(kept))


def test_truth_by_shard_is_the_truth_of_the_survey() -> None:
    survey = "sim:galaxies?count=25&shard_rows=10&outliers=0.5"
    whole = simulated.truth_table(survey)
    parts = [simulated.truth_table(shard) for shard in shards_of(survey)]
    assert whole["magnitude"].to_pylist() == [m for p in parts for m in p["magnitude"].to_pylist()]
    assert whole["object_id"].to_pylist() == read(survey)[0]


def test_positions_fill_the_field_and_have_their_healpix() -> None:
    truth = simulated.truth_table("sim:galaxies?count=3000&field_deg=4")
    ra, dec = np.array(truth["ra"]), np.array(truth["dec"])
    east_deg = (ra - 150) * np.cos(np.radians(2.2))
    for offset_deg in (east_deg, dec - 2.2):
        assert -2 <= offset_deg.min() < -1.9
        assert 1.9 < offset_deg.max() <= 2
    np.testing.assert_array_equal(np.array(truth["_healpix_29"]), sky.healpix_29(ra, dec))


@pytest.mark.parametrize("host", ["smooth", "spiral"])
def test_the_light_of_an_object_is_that_of_its_magnitude(host: str) -> None:
    survey = "sim:galaxies?count=100&outliers=0&bands=1&size=200"
    truth = simulated.truth_table(survey)
    bright = (np.array(truth["magnitude"]) < 19.5) & (np.array(truth["host"]) == host)
    (shard,) = shards_of(survey)
    parts = list(surveys.read_shard(shard, rows=np.flatnonzero(bright)))
    sums = np.concatenate([part.image_BCYX.sum(axis=(1, 2, 3)) for part in parts])
    ratio = sums / 10 ** (0.4 * (31.4 - np.array(truth["magnitude"])[bright]))
    assert len(ratio) > 5
    assert np.median(ratio) == pytest.approx(1, abs=0.03)  # neighbors add, the edge takes
    assert np.all(np.abs(ratio - 1) < 0.15)


def test_position_angles_run_from_north_through_east() -> None:
    survey = "sim:galaxies?count=200&outliers=0&bands=1"
    truth = simulated.truth_table(survey)
    flat = (np.array(truth["axis_ratio"]) < 0.65) & (np.array(truth["magnitude"]) < 20)
    angle_deg = np.array(truth["position_angle_deg"])[flat]
    image_BYX = read(survey)[1][flat, 0]
    north, east = np.mgrid[:64, :64] - 31.5
    east = -east  # row 0 is the southern edge, column 0 the eastern one
    weight_BYX = np.where((image_BYX > 60) & (np.hypot(north, east) < 20), image_BYX, 0)
    mixed_B = (weight_BYX * 2 * north * east).sum(axis=(1, 2))
    difference_B = (weight_BYX * (north**2 - east**2)).sum(axis=(1, 2))
    wrong_deg = np.degrees(np.arctan2(mixed_B, difference_B)) / 2 - angle_deg
    assert len(wrong_deg) > 20
    assert np.median(np.abs((wrong_deg + 90) % 180 - 90)) < 3  # arms and neighbors turn a few


def test_half_of_a_smooth_galaxys_light_lies_within_its_half_light_ellipse() -> None:
    x = galaxies._pixels(np.zeros((1, 2)), 1000)
    one = np.ones(1)
    for index in (1.0, 2.5, 4.0):
        profile = galaxies._sersic(
            (x[0] ** 2)[:, None, :] + (x[1] ** 2)[:, :, None], one, 400 * one, one, index * one
        )[0]
        inside = np.hypot(x[0][0][None, :], x[1][0][:, None]) <= 400
        assert profile[inside].sum() == pytest.approx(0.5, abs=0.01)


def test_arms_move_light_around_circles_and_make_none() -> None:
    many = simulated._draw(simulated._Options(count=40, outliers=0), np.arange(40)).galaxies
    disk = np.flatnonzero(many.host == "spiral")
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False, dtype=np.float32)
    radius = np.array([2, 8, 20], np.float32)[:, None]
    major, minor = (
        np.broadcast_to(radius * f(angle), (len(disk), 3, 400)) for f in (np.cos, np.sin)
    )
    factor = galaxies._arms(many, disk, major, minor, major**2 + minor**2, np.full(len(disk), 8.0))
    np.testing.assert_allclose(factor.mean(axis=-1), 1, atol=1e-3)
    assert np.all(factor >= 0)
    assert factor[:, 2].max() > 2.5


def test_seeing_blurs_a_point_to_its_width_and_keeps_its_flux() -> None:
    many = simulated._draw(simulated._Options(outliers=0), np.arange(3)).galaxies
    planes_PBYX = np.zeros((2, 3, 81, 81), np.float32)
    planes_PBYX[0, :, 40, 40] = 1000.0
    image_BYX = galaxies._blur(many, planes_PBYX, "r")[:, 0]
    np.testing.assert_allclose(image_BYX.sum(axis=(1, 2)), 1000, rtol=0.02)
    for b in range(3):
        profile = image_BYX[b, 32, 32:]
        half = np.interp(-profile[0] / 2, -profile, np.arange(len(profile)))
        assert 2 * half * 0.2 == pytest.approx(0.73 * many.seeing[b], rel=0.05)


def test_noise_has_the_level_of_sky_and_read_noise() -> None:
    truth = simulated.truth_table("sim:galaxies?count=200&outliers=0")
    small = np.array(truth["half_light_radius_arcsec"]) < 0.7
    _, image_BCYX = read("sim:galaxies?count=200&outliers=0&size=96")
    corner = image_BCYX[small][:, :, :16, :16]  # neighbors lie within the middle 64 pixels
    np.testing.assert_allclose(corner.std(axis=(0, 2, 3)), SKY_NOISE_GRI_NJY, rtol=0.15)
    assert np.all(np.abs(corner.mean(axis=(0, 2, 3))) < 0.2 * SKY_NOISE_GRI_NJY)


def test_ellipticals_are_redder_than_spirals() -> None:
    survey = "sim:galaxies?count=300&outliers=0"
    host = np.array(simulated.truth_table(survey)["host"])
    image_BCYX = read(survey)[1][:, :, 20:44, 20:44]
    color_B = -2.5 * np.log10(image_BCYX[:, 0].sum(axis=(1, 2)) / image_BCYX[:, 1].sum(axis=(1, 2)))
    smooth, spiral = np.median(color_B[host == "smooth"]), np.median(color_B[host == "spiral"])
    assert 0.6 < smooth < 1.3
    assert spiral < smooth - 0.15


def test_rings_are_bright_and_blue_around_their_core() -> None:
    survey = "sim:galaxies?count=24&seed=5&kinds=ring&outliers=1"
    radius_B = np.array(simulated.truth_table(survey)["half_light_radius_arcsec"]) / 0.2
    image_BCYX = read(survey)[1]
    y, x = np.mgrid[:64, :64] - 31.5
    for radius_px, (g, r, _) in zip(radius_B, image_BCYX, strict=True):
        core = np.hypot(x, y) < 2
        ring = np.abs(np.hypot(x, y) - radius_px * 0.95) < 1.5
        assert g[ring].mean() > 0
        assert g[ring].sum() / r[ring].sum() > 1.2 * g[core].sum() / r[core].sum()


def test_mergers_are_lopsided() -> None:
    def lopsided(survey: str) -> float:
        r_BYX = read(survey)[1][:, 1]
        seen_BYX = r_BYX > 8 * SKY_NOISE_GRI_NJY[1]
        difference = np.abs(r_BYX - r_BYX[:, ::-1, ::-1]) * seen_BYX
        return float(np.median(difference.sum(axis=(1, 2)) / (r_BYX * seen_BYX).sum(axis=(1, 2))))

    survey = "sim:galaxies?count=24&seed=5&kinds=merger&outliers="
    assert lopsided(f"{survey}1") > 2.5 * lopsided(f"{survey}0")


def test_lensed_arcs_are_bluer_than_the_galaxy_that_bends_them() -> None:
    survey = "sim:galaxies?count=24&seed=5&kinds=lensed_arc&outliers=1"
    radius_B = np.array(simulated.truth_table(survey)["half_light_radius_arcsec"])
    y, x = (np.mgrid[:64, :64] - 31.5) * 0.2
    for radius, (g, r, _) in zip(radius_B, read(survey)[1], strict=True):
        core, arc = np.hypot(x, y) < 0.5, np.abs(np.hypot(x, y) - 0.5 - 1.3 * radius) < 0.4
        assert g[arc].sum() / r[arc].sum() > 1.15 * g[core].sum() / r[core].sum()


def test_a_satellite_trail_is_one_straight_line_in_one_band() -> None:
    with_it, without = planted("satellite_trail")
    for difference_CYX in with_it - without:
        (band,) = np.flatnonzero(difference_CYX.any(axis=(1, 2)))
        row, column = np.nonzero(difference_CYX[band] > 0.5 * difference_CYX[band].max())
        spread = np.linalg.svd(np.stack([row, column]) - [[row.mean()], [column.mean()]])[1]
        width_px, length_px = np.sort(spread / np.sqrt(len(row)))
        assert width_px < 2
        assert length_px > 8
        assert difference_CYX.max() > 5 * SKY_NOISE_GRI_NJY[band]


def test_cosmic_rays_are_sharper_than_the_seeing_allows() -> None:
    with_it, without = planted("cosmic_ray")
    for difference_CYX in with_it - without:
        hit_CYX = difference_CYX > 0
        assert 5 < hit_CYX.sum() < 400
        assert difference_CYX.min() == 0
        c, y, x = np.unravel_index(difference_CYX.argmax(), difference_CYX.shape)
        around = difference_CYX[c, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert difference_CYX[c, y, x] > 20 * SKY_NOISE_GRI_NJY[c]
        assert around.min() == 0


def test_dead_columns_are_constant_from_edge_to_edge_and_never_nan() -> None:
    with_it, without = planted("dead_column")
    for image_CYX, host_CYX in zip(with_it, without, strict=True):
        dead_CX = np.ptp(image_CYX, axis=1) == 0
        assert 1 <= dead_CX.any(axis=0).sum() <= 3
        assert np.all(image_CYX.min(axis=1)[dead_CX] <= 0)
        assert np.isfinite(image_CYX).all()
        alive_CYX = np.broadcast_to(~dead_CX[:, None, :], image_CYX.shape)
        np.testing.assert_array_equal(image_CYX[alive_CYX], host_CYX[alive_CYX])


def test_a_survey_of_nothing_has_no_shards_and_of_one_has_one() -> None:
    assert shards_of("sim:galaxies?count=0") == ()
    assert simulated.truth_table("sim:galaxies?count=0").num_rows == 0
    ids, image_BCYX = read("sim:galaxies?count=1")
    assert ids == ["sim7-0000000"]
    assert image_BCYX.shape == (1, 3, 64, 64)
    assert image_BCYX.dtype == np.float32


@pytest.mark.parametrize(("bands", "names"), [(1, "r"), (3, "gri"), (5, "ugriz")])
@pytest.mark.parametrize("size", [16, 33])
def test_bands_and_sizes_are_as_asked(bands: int, names: str, size: int) -> None:
    (shard,) = shards_of(f"sim:galaxies?count=12&outliers=0.9&bands={bands}&size={size}")
    (part,) = surveys.read_shard(shard)
    assert part.bands == tuple(names)
    assert part.pixels == "flux"
    assert part.image_BCYX.shape == (12, bands, size, size)
    assert np.isfinite(part.image_BCYX).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("count=-1", "count .* is -1, expected 0"),
        ("outliers=1.5", "outliers .* is 1.5, expected 0..1"),
        ("outliers=nan", "outliers .* is nan"),
        ("size=8", "size .* is 8, expected 16..256"),
        ("bands=6", "bands .* is 6, expected 1..5"),
        ("shard_rows=0", "shard_rows .* is 0"),
        ("kinds=ring,quasar", "quasar.*expected some of ring,merger"),
        ("field_deg=0", "field_deg .* is 0"),
        ("seed=-3", "seed .* is -3"),
        ("colour=red", "'colour' is unknown"),
        ("count=many", "count is 'many', expected int"),
    ],
)
def test_options_that_cannot_work_are_refused(options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shards_of(f"sim:galaxies?{options}")


def test_only_simulated_surveys_are_simulated() -> None:
    with pytest.raises(ConfigError, match="expected sim:galaxies"):
        simulated.list_shards([], SurveyUri.parse("sim:stars?count=3"))
    with pytest.raises(ConfigError, match=r"'hdf' .*expected sim:galaxies or sim:spectra, as in"):
        write_survey("hdf?threshold=3", "nowhere")


def test_a_written_survey_holds_the_pixels_and_its_truth_beside_them(tmp_path: Path) -> None:
    survey = "sim:galaxies?count=25&shard_rows=10&outliers=0.3&size=16"
    assert write_survey(survey, str(tmp_path)) == f"{tmp_path}/shards"
    assert write_survey(survey, str(tmp_path)) == f"{tmp_path}/shards", "as after an interrupt"
    with pytest.raises(ConfigError, match=r"shards holds sim7-00000-\w+\.parquet, expected no sh"):
        write_survey("sim:galaxies?count=3&size=16", str(tmp_path))
    paths = sorted((tmp_path / "shards").iterdir())
    assert [path.stem for path in paths] == [shard.name for shard in shards_of(survey)]
    pixels = [pq.read_table(path) for path in paths]
    field = pixels[0].schema.field("image")
    meaning = {b"shape": b"[3, 16, 16]", b"bands": b"g,r,i", b"pixels": b"flux"}
    assert field.metadata.items() >= meaning.items()
    assert pixels[0].column_names == ["object_id", "ra", "dec", "image"]
    ids, image_BCYX = read(survey)
    flat = np.concatenate([np.stack(part["image"].to_numpy()) for part in pixels])
    np.testing.assert_array_equal(flat.reshape(-1, 3, 16, 16), image_BCYX)
    truth = pq.read_table(tmp_path / "truth.parquet")
    assert truth["object_id"].to_pylist() == ids
    assert [x for part in pixels for x in part["ra"].to_pylist()] == truth["ra"].to_pylist()
    assert truth.equals(simulated.truth_table(survey))


def test_a_written_survey_of_nothing_has_an_empty_truth(tmp_path: Path) -> None:
    write_survey("sim:galaxies?count=0", str(tmp_path))
    assert pq.read_table(tmp_path / "truth.parquet").num_rows == 0
    assert not (tmp_path / "shards").exists()
