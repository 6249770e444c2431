"""The pictures that a server keeps, bounded by bytes; those of a file are drawn by one reading."""

import threading

from astroray.picture_store import PictureStore


def test_pictures_are_kept_up_to_so_many_bytes_and_the_one_unused_for_longest_goes():
    made = []

    def draw(sheet, rows):
        made.extend(rows)
        return {row: bytes(row) for row in rows}

    store = PictureStore(draw, max_bytes=100)
    for row in (40, 41, 40, 30, 40, 41):
        assert store.get("sheet", row) == bytes(row)
    assert made == [40, 41, 30, 41]  # 30 took the place of 41, which was used longer ago than 40
    assert store.num_bytes == 81
    assert store.get("sheet", 101) == bytes(101)
    store.get("sheet", 40)
    assert made[4:] == [101]  # which is not kept, and drives nobody out


def test_a_picture_that_cannot_be_made_is_asked_for_again():
    there = {}
    store = PictureStore(lambda sheet, rows: there, max_bytes=100)
    assert store.get("sheet", 1) is None
    there[1] = b"picture"
    assert store.get("sheet", 1) == b"picture"
    there.clear()
    assert store.get("sheet", 1) == b"picture"


def test_who_asks_while_a_sheet_is_read_is_answered_by_the_next_reading_of_it():
    readings, begun, go_on = [], threading.Event(), threading.Event()

    def draw(sheet, rows):
        readings.append((sheet, rows))
        begun.set()
        assert go_on.wait(60)
        return {row: f"{sheet} {row}".encode() for row in rows}

    store = PictureStore(draw, max_bytes=1000)
    found = {}

    def ask(row):
        found[row] = store.get("a", row)

    askers = [threading.Thread(target=ask, args=(row,)) for row in range(6)]
    askers[0].start()
    assert begun.wait(60)
    for asker in askers[1:]:
        asker.start()
    while store._waiting.get("a", set()) != {1, 2, 3, 4, 5}:
        pass
    go_on.set()
    for asker in askers:
        asker.join(60)
    assert found == {row: f"a {row}".encode() for row in range(6)}
    assert readings == [("a", [0]), ("a", [1, 2, 3, 4, 5])]
    store.draw_ahead("a", [4, 5, 6, 7])
    assert readings[2:] == [("a", [6, 7])]
    assert store.get("a", 7) == b"a 7"
    assert len(readings) == 3
