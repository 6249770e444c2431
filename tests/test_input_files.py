"""Packed files are those that were packed, in order, at any place."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astroray.storage import FileList, InputFile


def make_files(number: int) -> list[InputFile]:
    return [
        InputFile(path=f"/sky/{i // 100:03d}/\u00e9 {i:06d}.jpg", size_bytes=i, version=f"{i * 7}")
        for i in range(number)
    ]


FILES = make_files(1_300)
PACKED = FileList(FILES)


def test_packed_files_are_the_files_in_their_order():
    assert PACKED == FILES == list(PACKED)
    assert tuple(FILES) == PACKED == pickle.loads(pickle.dumps(PACKED))
    assert len(PACKED) == 1_300
    assert list(PACKED.paths) == [file.path for file in FILES]
    assert FileList() == []
    assert not FileList()
    assert FILES[:-1] != PACKED
    assert [*FILES[:-1], FILES[0]] != PACKED
    assert FileList(FILES[1:]) != PACKED


@given(st.slices(1_300))
def test_a_part_of_packed_files_is_that_of_the_files(places):
    assert PACKED[places] == tuple(FILES[places])
    assert PACKED.paths[places] == [file.path for file in FILES[places]]


def test_whole_blocks_are_shared_rather_than_packed_again():
    part = PACKED[512:1_024]
    assert isinstance(part, FileList)
    assert part._blocks[0] is PACKED._blocks[1]


@pytest.mark.parametrize("place", [0, 511, 512, 1_299, -1, -1_300])
def test_a_file_is_found_by_its_place(place):
    assert PACKED[place] == FILES[place]
    assert PACKED.paths[place] == FILES[place].path


@pytest.mark.parametrize("place", [1_300, -1_301])
def test_a_place_beyond_the_files_is_an_error(place):
    with pytest.raises(IndexError):
        PACKED[place]


def test_files_in_another_order_are_put_in_order_of_path():
    assert FileList.by_path(reversed(FILES)) == FILES
    assert FileList.by_path(PACKED) is PACKED


def test_a_file_takes_few_bytes():
    assert sum(map(len, PACKED._blocks)) / len(PACKED) < 40
