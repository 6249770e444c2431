"""How files of spectra become rows: missions, masks, positions, and what is refused and why."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astroray import surveys
from astroray.errors import ConfigError, DataError, ShardError
from astroray.surveys.shards import Reject
from astroray.surveys.spectra import read_shard
from astroray.surveys.spectrum_rows import RawSpectrum, settle
from astroray.web.curve_uploads import CurveLimits
from astroray.web.spectrum_uploads import read_spectra as read_upload
from tests.spectra_made import (
    BRIGHTSKY,
    LOGLAM,
    NEARBADPIXEL,
    NUM,
    fluxes,
    read,
    shards_of,
    write_desi,
    write_lamost,
    write_parquet,
    write_sdss,
)


def test_a_file_of_sdss_is_known_by_its_header_and_says_who_it_is(tmp_path):
    mask = np.zeros(NUM, np.int32)
    mask[10:20], mask[30:40] = BRIGHTSKY, NEARBADPIXEL
    ivar = np.full(NUM, 25.0)
    ivar[50:60] = 0.0
    write_sdss(tmp_path / "spec-0618.fits", mask=mask, ivar=ivar)
    (shard,) = surveys.list_shards(f"{tmp_path}/*.fits").shards
    assert (shard.reader, shard.num_rows, surveys.modality_of(shard)) == ("spectra", 1, "spectra")
    (rows,) = surveys.read_shard(shard)
    (one,) = rows.spectrum_B
    assert (rows.object_id_B, one.origin) == (["SDSS 0618-52049-0372"], "sdss")
    assert (rows.ra_deg_B[0], rows.dec_deg_B[0], one.redshift) == (236.97, 52.81, 0.5)
    np.testing.assert_allclose(one.wavelength, 10**LOGLAM, rtol=1e-6)
    missing = np.flatnonzero(~one.seen_T)
    assert missing.tolist() == [*range(10, 20), *range(50, 60)]
    assert (one.ivar[missing] == 0).all()
    np.testing.assert_allclose(one.flux[one.seen_T], fluxes()[one.seen_T], rtol=1e-6)


def test_which_bits_of_a_mask_count_is_the_user_s_choice(tmp_path):
    mask = np.zeros(NUM, np.int32)
    mask[10:20], mask[30:40] = BRIGHTSKY, NEARBADPIXEL
    path = write_sdss(tmp_path / "spec.fits", mask=mask)
    options = {"default": 10, "any": 20, "none": 0, str(NEARBADPIXEL): 10}
    for option, count in options.items():
        (one,) = read(f"{path}?format=spectra&mask={option}")
        assert np.count_nonzero(~one.seen_T) == count, option
    with pytest.raises(ConfigError, match=r"mask is 'soft'"):
        shards_of(f"{path}?format=spectra&mask=soft")


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("rows", "LAMOST 105172"),
        ("table", "LAMOST 105172"),
        ("old", "LAMOST 55862-B6212_sp06-003"),
    ],
)
def test_every_layout_of_lamost_has_the_same_wavelengths_and_its_own_name(tmp_path, layout, name):
    write_lamost(tmp_path / "spec-1.fits.gz", layout=layout)
    (shard,) = surveys.list_shards(f"{tmp_path}/*.fits.gz").shards
    (rows,) = surveys.read_shard(shard)
    (one,) = rows.spectrum_B
    assert (rows.object_id_B, rows.ra_deg_B.tolist()) == ([name], [332.05])
    np.testing.assert_allclose(one.wavelength, 10**LOGLAM, rtol=1e-6)
    assert one.seen_T.all()


def test_a_file_of_desi_has_a_row_a_target_and_none_for_the_sky(tmp_path):
    write_desi(tmp_path / "coadd-1.fits.gz", dead=(2,), kinds=("TGT", "SKY", "TGT", "", "TGT"))
    (shard,) = surveys.list_shards(f"{tmp_path}/*.fits.gz").shards
    first, reject, last = surveys.read_shard(shard)
    assert (reject.row, reject.kind) == (2, "empty")
    assert [*first.row_B, *last.row_B] == [0, 4]
    assert first.object_id_B == ["DESI 39633297352951412"]  # float64 would end in 408
    assert (last.ra_deg_B[0], last.dec_deg_B[0]) == (219.0, 57.0)
    (one,) = first.spectrum_B
    assert (np.diff(one.wavelength) >= 0).all()
    assert len(one.flux) == 2 * 560
    assert np.count_nonzero(~one.seen_T) == 2  # ALLBADPIX of both arms, SOMEBADPIX is kept
    (again,) = read_shard(shard, rows=[4])
    np.testing.assert_array_equal(again.spectrum_B[0].flux, last.spectrum_B[0].flux)


def test_a_sky_fiber_of_lamost_is_rejected_by_name(tmp_path):
    write_lamost(tmp_path / "a.fits", cards={"FIBERTYP": "Sky"})
    write_lamost(tmp_path / "b.fits")
    reject, one = read(f"{tmp_path}/*.fits?format=spectra")
    assert (reject.row, reject.kind, one.row) == (0, "schema", 1)
    assert "fiber on the sky" in reject.reason


def test_rest_wavelengths_need_a_redshift(tmp_path):
    write_sdss(tmp_path / "a.fits", redshift=1.0)
    write_sdss(tmp_path / "b.fits", redshift=np.nan)
    one, reject = read(f"{tmp_path}/*.fits?format=spectra&rest=true")
    assert one.wavelength[0] == pytest.approx(10 ** LOGLAM[0] / 2, rel=1e-6)
    assert (reject.row, reject.kind) == (1, "redshift")


def test_parquet_rows_are_spectra_in_lists_or_nested_and_units_are_told(tmp_path):
    path = write_parquet(tmp_path / "a.parquet")
    found = read(f"{path}?format=spectra")
    assert [(one.object_id, one.ra_deg) for one in found] == [
        (f"obj {i}", 10.0 + i) for i in range(4)
    ]
    wave = pa.array([(10 ** (LOGLAM - 1)).tolist()])
    parts = [wave, pa.array([fluxes(3).tolist()]), pa.array([[False] * 9 + [True] * (NUM - 9)])]
    nested = pa.StructArray.from_arrays(parts, ["lambda", "flux", "mask"])
    other = tmp_path / "b.parquet"
    pq.write_table(pa.table({"spectrum": nested, "z": [0.25]}), other)
    (reject,) = read(f"{other}?format=spectra&unit=nm")
    assert reject.kind == "masked"
    (one,) = read(f"{other}?format=spectra&unit=nm&mask=none")
    np.testing.assert_allclose(one.wavelength, 10**LOGLAM)
    assert (one.redshift, np.isnan(one.ivar).all()) == (0.25, True)
    assert one.object_id.startswith("b-")
    (wrong,) = read(f"{other}?format=spectra&mask=none")
    assert "say unit=nm" in wrong.reason


def test_an_npz_file_is_one_spectrum_or_a_stack(tmp_path):
    np.savez(tmp_path / "one.npz", loglam=LOGLAM, flux=fluxes(), err=np.full(NUM, 0.2))
    (one,) = read(f"{tmp_path}/one.npz?format=spectra")
    assert one.object_id == "one"
    np.testing.assert_allclose(one.ivar, 25.0)
    stack = np.array([fluxes(seed) for seed in range(5)])
    np.savez(tmp_path / "all.npz", wave=10**LOGLAM, flux=stack, name=list("abcde"))
    survey = f"{tmp_path}/all.npz?format=spectra"
    assert shards_of(survey)[0].num_rows == 5
    assert [found.object_id for found in read(survey)] == list("abcde")
    (third,) = read(survey, rows=[2])
    np.testing.assert_array_equal(third.flux, stack[2])


def test_a_column_z_of_text_is_no_redshift_and_numbered_stacks_are_named_by_their_numbers(tmp_path):
    lists = {"loglam": [LOGLAM.tolist()] * 2, "flux": [fluxes(i).tolist() for i in range(2)]}
    pq.write_table(pa.table({**lists, "z": ["STAR", "QSO"]}), tmp_path / "a.parquet")
    stack = {name: np.array(values) for name, values in lists.items()}
    ids, kinds = np.array([7.0, 8.0], ">f8"), np.array(["STAR", "QSO"])
    np.savez(tmp_path / "a.npz", **stack, id=ids, z=kinds)
    for name, ids in (("a.parquet", None), ("a.npz", ["7", "8"])):
        found = read(f"{tmp_path / name}?format=spectra")
        assert np.isnan([one.redshift for one in found]).tolist() == [True, True]
        assert ids in (None, [one.object_id for one in found])


RAW = RawSpectrum(
    object_id="a", ra_deg=1.0, dec_deg=2.0, wavelength=10**LOGLAM, flux=fluxes(),
    ivar=np.full(NUM, 25.0), mask=None, origin="other",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "kind", "reason"),
    [
        ({"ivar": np.zeros(NUM)}, "empty", "0 pixels with a flux and an inverse variance above 0"),
        ({"flux": np.full(NUM, np.inf)}, "empty", "among 600"),
        ({"mask": np.ones(NUM)}, "masked", "see mask="),
        ({"ivar": np.ones(3)}, "shape", r"columns of \[3, 600\] pixels"),
        ({"wavelength": np.roll(10**LOGLAM, 5)}, "wavelength", "1 steps backwards"),
        ({"wavelength": np.where(LOGLAM < 3.6, np.nan, 10**LOGLAM)}, "wavelength", "no numbers"),
        ({"wavelength": 10 ** (LOGLAM - 4)}, "wavelength", "say unit=nm or unit=um"),
        ({"wavelength": np.full(NUM, 5000.0)}, "wavelength", "expected to lie in"),
        ({n: np.ones(4) for n in ("wavelength", "flux", "ivar")}, "short", "has 4 pixels"),
    ],
)
def test_what_is_no_spectrum_is_a_reject_that_says_why(changed, kind, reason):
    found = settle(dataclasses.replace(RAW, **changed), row=3, where="it")
    assert isinstance(found, Reject)
    assert (found.row, found.stage, found.kind) == (3, "read", kind)
    assert re.search(reason, found.reason), found.reason


def test_wavelengths_that_all_go_backwards_are_turned_around():
    turned = dataclasses.replace(
        RAW, wavelength=RAW.wavelength[::-1], flux=RAW.flux[::-1], ivar=RAW.ivar
    )
    found = settle(turned, row=0, where="it")
    np.testing.assert_array_equal(found.wavelength, RAW.wavelength)
    np.testing.assert_array_equal(found.flux, RAW.flux)


def test_damaged_files_are_rows_that_were_rejected_and_the_others_stay(tmp_path):
    good = write_sdss(tmp_path / "a.fits").read_bytes()
    (tmp_path / "b.fits").write_bytes(good[:3000])
    (tmp_path / "c.fits").write_bytes(b"no file of anything")
    broken = bytearray(good)
    at = broken.index(b"TFORM1")
    broken[at : at + 20] = b"TFORM1  = '999999E' "
    (tmp_path / "d.fits").write_bytes(bytes(broken))
    write_lamost(tmp_path / "e.fits", cards={"COEFF1": 1e300})
    write_lamost(tmp_path / "f.fits", flux=np.full(NUM, 1e38))
    found = read(f"{tmp_path}/*.fits?format=spectra")
    kinds = [one.kind if isinstance(one, Reject) else "good" for one in found]
    assert kinds == ["good", "corrupt", "corrupt", "corrupt", "wavelength", "good"]
    assert [one.row for one in found] == list(range(6))


def test_a_first_file_without_spectra_and_files_of_two_kinds_are_refused(tmp_path):
    pq.write_table(pa.table({"flux": [[1.0]], "a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"no column of wavelength"):
        shards_of(f"{tmp_path}/a.parquet?format=spectra")
    write_sdss(tmp_path / "a.fits")
    with pytest.raises(ConfigError, match=r"expected one kind of fits, npz, parquet"):
        shards_of(f"{tmp_path}?format=spectra")


def test_what_files_hold_is_seen_from_a_good_one_wherever_in_the_folder_it_is(tmp_path):
    for number in range(17):
        (tmp_path / f"a{number:02d}.fits").write_bytes(b"no file of anything")
    write_desi(tmp_path / "b.fits")
    *_, last = shards_of(f"{tmp_path}/*.fits?format=spectra")
    assert len(list(read_shard(last))) == 1
    assert [file.path for file in last.inputs] == [f"{tmp_path}/b.fits"]


def test_a_broken_file_of_many_is_a_shard_that_cannot_be_read(tmp_path):
    write_desi(tmp_path / "a.fits")
    path = write_desi(tmp_path / "b.fits")
    path.write_bytes(path.read_bytes()[:20000])
    good, bad = shards_of(f"{tmp_path}/*.fits?format=spectra")
    assert len(list(read_shard(good))) == 1
    with pytest.raises(ShardError, match="truncated"):
        list(read_shard(bad))


def test_an_upload_is_read_as_a_scan_reads_it_and_no_more_than_allowed(tmp_path):
    data = write_lamost(tmp_path / "a.fits.gz").read_bytes()
    (wanted,) = read(f"{tmp_path}/a.fits.gz?format=spectra")
    rows = read_upload(data, limits=CurveLimits(), params={})
    np.testing.assert_array_equal(rows.spectrum_B[0].flux, wanted.flux)
    desi = write_desi(tmp_path / "b.fits").read_bytes()
    rows = read_upload(desi, limits=CurveLimits(), params={})
    (wanted,) = read_shard(*shards_of(f"{tmp_path}/b.fits"))
    assert rows.row_B.tolist() == wanted.row_B.tolist() == [0, 2]
    np.testing.assert_array_equal(rows.spectrum_B[1].flux, wanted.spectrum_B[1].flux)
    with pytest.raises(DataError, match=r"the images claim \d+ pixels, expected at most 6000"):
        read_upload(desi, limits=CurveLimits(cadences=300), params={})
    many = write_parquet(tmp_path / "c.parquet").read_bytes()
    assert len(read_upload(many, limits=CurveLimits(), params={}).row_B) == 4
