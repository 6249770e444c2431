"""HDF5 files are read as those of NumPy are, and nothing outside of them."""

import random
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from astroray import surveys
from astroray.errors import ShardError
from astroray.surveys import array_files
from astroray.surveys.array_files import open_arrays
from astroray.surveys.shards import Cutouts, Reject

RNG = np.random.default_rng(6)
IDS = [f"galaxy-{i}é" for i in range(9)]


def write(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return str(path)


def noise(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def read(survey):
    shards = surveys.list_shards(survey).shards
    return [item for shard in shards for item in surveys.read_shard(shard)]


def test_a_stack_is_read_as_that_of_an_npz_with_names_places_and_bands(tmp_path):
    """As the Multimodal Universe has it: bands of each object, text of any length."""
    stack, ivar = noise(9, 2, 7, 8), np.ones((9, 2, 7, 8), np.float32)
    ivar[3, 1, 2, 2] = 0
    places = {"ra": np.arange(9.0), "dec": np.arange(9.0) - 4}
    bands = np.array([["g", "r"]] * 9)
    write(
        tmp_path / "a.hdf5", image_array=stack, image_ivar=ivar, **places,
        object_id=np.array(IDS, object), image_band=bands.astype("S"), label=np.array([b"x"] * 9),
    )  # fmt: skip
    np.savez(tmp_path / "b.npz", image=stack, weight=ivar, **places, id=IDS, bands=bands[0])
    (ours,), (same) = read(f"{tmp_path}/a.hdf5"), read(f"{tmp_path}/b.npz")
    assert ours.bands == ("g", "r")
    assert list(ours.object_id_B) == IDS
    for name in ("image_BCYX", "object_id_B", "ra_deg_B", "dec_deg_B", "row_B"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(same[0], name))
    assert np.isnan(ours.image_BCYX[3, 1, 2, 2])


def test_a_large_file_is_split_and_any_rows_are_read_from_packed_chunks(tmp_path):
    stack = RNG.integers(0, 255, (700, 7, 8, 3)).astype(np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("group/images", data=stack, chunks=(100, 4, 8, 1), compression="gzip")
        file["id"] = np.arange(700)
    survey = f"{tmp_path}/a.h5?shard_rows=300"
    shards = surveys.list_shards(survey).shards
    assert [shard.num_rows for shard in shards] == [300, 300, 100]
    some = list(surveys.read_shard(shards[1], rows=[0, 250, 251, 299]))
    assert [item.row_B.tolist() for item in some] == [[0], [250, 251], [299]]
    assert [name for item in some for name in item.object_id_B] == ["300", "550", "551", "599"]
    found = np.concatenate([item.image_BCYX for item in some])
    expected = stack[[300, 550, 551, 599]].transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(found, expected)
    assert some[0].pixels == "display"
    assert some[0].bands == ("R", "G", "B")


def test_spectra_of_several_lengths_are_a_stack_that_is_filled_up(tmp_path):
    wave, flux = np.full((3, 900), -1.0), np.zeros((3, 900))
    for row, num in enumerate((900, 700, 5)):
        wave[row, :num] = 4000 + np.arange(num) * 2.0
        flux[row, :num] = 1 + 0.1 * RNG.normal(size=num)
    arrays = {"spectrum_lambda": wave, "spectrum_flux": flux, "spectrum_ivar": flux * 0 + 100}
    write(tmp_path / "a.hdf5", **arrays, object_id=np.array(["a", "b", "c"], object))
    spectra, short = read(f"{tmp_path}/a.hdf5?format=spectra")
    assert [len(one.flux) for one in spectra.spectrum_B] == [900, 700]
    assert spectra.object_id_B == ["a", "b"]
    assert (short.row, short.kind) == (2, "short")


def test_a_light_curve_is_read_from_its_columns(tmp_path):
    time = np.arange(600) * 0.02
    write(tmp_path / "tic7.h5", time=time, flux=1 + 0.01 * RNG.normal(size=600))
    (curves,) = read(f"{tmp_path}/*.h5?format=light_curves&time=BTJD")
    assert len(curves.curve_B[0].flux) == 600


def test_what_lies_in_other_files_or_is_no_number_is_not_read(tmp_path):
    secret = write(tmp_path / "secret.dat", image=noise(9, 7, 8))
    (tmp_path / "raw").write_bytes(noise(9, 7, 8).tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink(secret, "image")
        raw = [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("stored", (9, 7, 8), np.float32, external=raw)
        virtual = h5py.VirtualLayout((9, 7, 8), np.float32)
        virtual[:] = h5py.VirtualSource(secret, "image", (9, 7, 8))
        file.create_virtual_dataset("virtual", virtual)
        file["table"] = np.zeros(9, [("x", np.float32)])
        file.create_dataset("lists", (9,), h5py.vlen_dtype(np.float32))
        file.create_dataset("nothing", data=h5py.Empty(np.float32))
        file["own"] = np.arange(9)
    with open_arrays(str(tmp_path / "a.h5")) as opened:
        assert list(opened.headers) == ["own"]
    with pytest.raises(ShardError, match=r"a.h5 has no array of images, got {'own': 'int64"):
        read(f"{tmp_path}/a.h5")


@pytest.mark.parametrize("length", [5000, 40, 12])
def test_a_truncated_file_is_listed_and_refused_when_it_is_read(tmp_path, length):
    path = Path(write(tmp_path / "a.h5", image=noise(90, 7, 8)))
    path.write_bytes(path.read_bytes()[:length])
    (shard,) = surveys.list_shards(str(path)).shards
    with pytest.raises(ShardError, match=r"a.h5 is no whole .npy, .npz or HDF5 file"):
        list(surveys.read_shard(shard))


def test_what_was_never_written_is_not_read_as_zeros(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stack = file.create_dataset("image", (90, 7, 8), np.float32, chunks=(10, 7, 8))
        stack[:40] = noise(40, 7, 8)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("image", (10**9, 7, 8), np.float32)
    for name, words in (("a", "4 chunks, its header says 9"), ("b", "0 bytes, its header says 2")):
        (shard,) = surveys.list_shards(f"{tmp_path}/{name}.h5").shards
        with pytest.raises(ShardError, match=f"array 'image' has {words}"):
            list(surveys.read_shard(shard))


def test_damaged_text_of_any_length_is_one_sentence(tmp_path, monkeypatch):
    """The library reads this one for ever."""
    path = Path(write(tmp_path / "a.h5", image=noise(9, 7, 8), id=np.array(IDS, object)))
    data = bytearray(path.read_bytes())
    place = data.index(b"galaxy-0") - 8  # how long the heap says that it is
    data[place : place + 8] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(data)
    monkeypatch.setattr(array_files, "_TEXT_TIMEOUT_S", 2)
    with pytest.raises(ShardError, match=r"array 'id' gives no text within 2 s, so it is damaged"):
        read(str(path))


def test_damaged_bytes_end_in_rows_or_in_one_sentence(tmp_path):
    """In a process of its own, since the library that reads them is no Python."""
    code = "import sys, pathlib, tests.test_hdf5 as t; t.read_damaged(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]


def read_damaged(folder, *, num_files=100):
    with h5py.File(folder / "whole", "w") as file:
        file.create_dataset("image", data=noise(40, 7, 8), chunks=(10, 7, 8), compression="gzip")
        file["object_id"] = np.array([f"object {i}" for i in range(40)], "S")
    whole = (folder / "whole").read_bytes()
    for seed in range(num_files):
        draw = random.Random(seed)
        data = bytearray(whole)
        for _ in range(draw.choice((1, 4, 30))):
            data[draw.randrange(8, len(data))] = draw.randrange(256)
        (folder / "a.h5").write_bytes(data)
        try:
            items = read(f"{folder}/a.h5")
        except ShardError:
            continue
        assert all(isinstance(item, Cutouts | Reject) for item in items)
