"""The pictures that a server keeps: bounded by bytes, and never one that there is not."""

from astroray.web.picture_cache import PictureCache


def test_pictures_are_kept_up_to_so_many_bytes_and_the_one_unused_for_longest_goes():
    cache, made = PictureCache(100), []

    def ask(key, size):
        def make():
            made.append(key)
            return bytes(size)

        assert cache.get(key, make) == bytes(size)

    for key, size in (("a", 40), ("b", 40), ("a", 40), ("c", 30), ("a", 40), ("b", 40)):
        ask(key, size)
    assert made == ["a", "b", "c", "b"]  # c took the place of b, which was used longer ago than a
    assert cache.num_bytes == 80
    ask("huge", 101)
    ask("a", 40)
    assert made[4:] == ["huge"]  # which is not kept, and drives nobody out


def test_a_picture_that_cannot_be_made_is_asked_for_again():
    cache = PictureCache(100)
    assert cache.get("a", lambda: None) is None
    assert cache.get("a", lambda: b"picture") == b"picture"
    assert cache.get("a", lambda: None) == b"picture"
