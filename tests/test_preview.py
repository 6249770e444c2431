"""A look at a survey says what a scan would read, and what it would reject."""

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from PIL import Image

import astroray
from astroray.cli import cli
from astroray.errors import ConfigError, DataError
from astroray.preview import DRAWN_ASPECT, MAX_PICTURES, PICTURE_PX
from tests.light_curves_made import write_mission
from tests.surveys_made import write_pictures


def test_pictures_are_described_and_a_broken_one_is_named(tmp_path):
    paths = write_pictures(tmp_path, 5)
    paths[1].write_bytes(b"no picture")
    seen = astroray.look(str(tmp_path))
    assert seen.facts["reader"] == "pictures"
    assert seen.facts["files"].startswith("5, 0.0 MB, in 1 shards")
    assert seen.facts["objects"] == "5"
    assert seen.facts["read"] == "4: p0000, p0002, ..., p0004"
    assert seen.facts["images"] == "24 x 24 px, R G B, display values"
    assert seen.facts["positions"].startswith("none")
    assert seen.facts["reject 1"].startswith("1 corrupt, first: ")
    assert "p0001.jpg" in seen.facts["reject 1"]


def test_a_large_image_that_may_be_a_field_is_said_to_be_one_object(tmp_path):
    for size in (128, 300):
        path = tmp_path / f"a{size}.fits"
        fits.PrimaryHDU(np.zeros((size, size), np.float32)).writeto(path)
        said = astroray.look(f"{path}?bands=r").facts.get("or fields", "")
        assert (f"'{path}?bands=r&format=fields'" in said) == (size == 300)


def test_why_a_scan_would_refuse_what_was_read_and_how_it_would_encode_it(tmp_path):
    for name, band in (("a_g", "g"), ("a_r", "r"), ("b_g", "g"), ("b_r", "r")):
        image = np.random.default_rng(5).normal(size=(48, 48)).astype(np.float32)
        header = fits.Header({"FILTER": band})
        fits.PrimaryHDU(image, header).writeto(tmp_path / f"{name}.fits")
    seen = astroray.look(str(tmp_path))
    assert seen.facts["a scan"].startswith("refuses them: the survey mixes flux cutouts in bands g")
    assert (
        "where each file is a band, name the bands as the files do: bands=g,r"
        in seen.facts["a scan"]
    )
    joined = astroray.look(f"{tmp_path}?bands=g,r")
    assert joined.facts["a scan"] == "encodes 48 × 48 px, bands g, r"


def test_a_table_without_positions_is_told_from_none(tmp_path):
    write_pictures(tmp_path, 2)
    (tmp_path / "t.csv").write_text("name,mag\np0000,1\np0001,2\n")
    assert "a table can give them" in astroray.look(str(tmp_path)).facts["positions"]
    seen = astroray.look(f"{tmp_path}?table=t.csv")
    assert "table= gives none" in seen.facts["positions"]


def test_only_as_many_are_read_as_asked_for(tmp_path):
    write_pictures(tmp_path, 5)
    seen = astroray.look(str(tmp_path), n=2)
    assert sum(len(rows.row_B) for rows in seen.slices) == 2
    assert seen.sheet().size == (2 * PICTURE_PX, PICTURE_PX)
    with pytest.raises(ConfigError, match="n is 0"):
        astroray.look(str(tmp_path), n=0)


def test_sizes_values_and_missing_pixels_of_stamps(tmp_path):
    small, large = np.ones((3, 8, 9), np.float32), np.full((3, 10, 9), 7.0, np.float32)
    small[0, :4] = np.nan
    for name, stamp in {"a": small, "b": large}.items():
        np.savez(tmp_path / f"{name}.npz", image=stamp)
    facts = astroray.look(str(tmp_path)).facts
    assert facts["images"] == "9 x 8 to 10 px, b0 b1 b2, flux"
    assert facts["values"] == "1, 7, 7 (1, 50, 99 %)"
    assert facts["missing"] == f"{36 / (3 * 72 + 3 * 90):.1%} of the pixels"


def test_positions_are_those_of_the_simulation():
    facts = astroray.look("sim:galaxies?count=30").facts
    assert facts["files"] == "none"
    assert facts["positions"].startswith("30 of 30, ra ")


def test_light_curves(tmp_path):
    for number in (1, 2):
        cards = {"KEPLERID": number, "OBJECT": f"KIC {number}"}
        write_mission(tmp_path / f"{number}.fits", primary=cards)
    seen = astroray.look(f"{tmp_path}/*.fits?format=light_curves")
    assert seen.facts["curves"] == "200 cadences, 4.066 days, kepler pdcsap"
    assert seen.sheet().size == (2 * DRAWN_ASPECT * PICTURE_PX, PICTURE_PX)


def test_a_survey_of_which_nothing_is_read_has_reasons_and_no_picture(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK broken")
    seen = astroray.look(str(tmp_path))
    assert seen.facts["read"] == "no object of the first 1 of 1 shards"
    assert seen.facts["reject 1"].startswith("1 unreadable, first: ")
    assert "<img" not in seen._repr_html_()
    assert "1 unreadable, first: " in seen._repr_html_()
    with pytest.raises(DataError, match="no picture"):
        seen.sheet()


def test_what_the_preparation_of_a_scan_rejects_is_said_too(tmp_path):
    image_NYX = np.random.default_rng(5).normal(size=(8, 32, 32)).astype(np.float32)
    image_NYX[1], image_NYX[2, :20] = 7.0, np.nan
    np.save(tmp_path / "stack.npy", image_NYX)
    seen = astroray.look(str(tmp_path))
    assert seen.facts["read"].startswith("8: ")
    assert {one.kind: (one.row, one.stage) for one in seen.rejects} == {
        "constant": (1, "prepare"),
        "missing": (2, "prepare"),
    }
    assert seen.facts["reject 1"].startswith("1 ")


def test_a_sheet_ends_somewhere_and_shows_in_notebooks():
    page = astroray.look("sim:galaxies?count=60", n=60)._repr_html_()
    assert "<pre>reader     simulated\n" in page
    png = page.partition("base64,")[2].partition('"')[0]
    sheet = Image.open(io.BytesIO(base64.b64decode(png)))
    assert sheet.size == (8 * PICTURE_PX, MAX_PICTURES // 8 * PICTURE_PX)
    assert np.asarray(sheet).std() > 1


def test_the_verb_prints_the_facts_and_draws(tmp_path):
    write_pictures(tmp_path / "survey", 3)
    out = tmp_path / "look.png"
    done = CliRunner().invoke(cli, ["look", str(tmp_path / "survey"), "--picture", str(out)])
    assert done.exit_code == 0
    assert "objects    3\n" in done.output
    with Image.open(out) as sheet:
        assert sheet.size == (3 * PICTURE_PX, PICTURE_PX)
    wrong = CliRunner().invoke(cli, ["look", str(tmp_path / "survey"), "--picture", "look.what"])
    assert wrong.exit_code == 2
    assert "try look.png" in wrong.output


def test_a_look_loads_neither_torch_nor_ray():
    code = "import sys, astroray; astroray.look('sim:galaxies?count=2', n=2).sheet(); "
    code += "assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_look_reads_both_ends_of_a_survey(tmp_path):
    write_pictures(tmp_path / "a", 4)
    for number in range(3):
        Image.new("RGB", (50, 40), (9, number, 9)).save(tmp_path / f"z{number}.png")
    seen = astroray.look(tmp_path, n=4)
    assert seen.facts["read"] == "4: a/p0000, a/p0001, ..., z2"
    assert seen.facts["images"].startswith("24 to 50 x 24 to 40 px")


def test_a_survey_that_a_scan_would_refuse_for_its_last_file_is_told_so(tmp_path):
    for number in range(8):
        image = np.random.default_rng(number).normal(size=(20, 20)).astype(np.float32)
        header = fits.Header({"FILTER": "g" if number < 6 else "r"})
        fits.PrimaryHDU(image, header).writeto(tmp_path / f"s{number}.fits")
    seen = astroray.look(f"{tmp_path}?shard_files=2", n=4)
    assert seen.facts["read"] == "4: s0, s1, ..., s7"
    assert seen.facts["a scan"].startswith("refuses them: the survey mixes")


@pytest.mark.parametrize(
    ("ra", "said"),
    [
        ([359.9, 0.1, 0.2], "ra 359.9000 to 0.2000"),
        ([10.0, 12.0, 11.0], "ra 10.0000 to 12.0000"),
        ([7.0, 7.0, 7.0], "ra 7.0000 to 7.0000"),
    ],
)
def test_a_field_across_ra_0_is_as_narrow_as_it_is(tmp_path, ra, said):
    stamps = np.random.default_rng(3).normal(size=(3, 1, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "a.npz", images=stamps, ra=ra, dec=[0.0, 1.0, 2.0])
    assert said in astroray.look(tmp_path).facts["positions"]
