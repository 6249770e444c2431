"""Moments are written alike, whatever they are told by."""

from datetime import UTC, datetime, timedelta, timezone

from astroray import moments


def test_a_moment_is_in_utc_whatever_its_zone_and_whether_it_is_a_number():
    evening = datetime(2026, 11, 28, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert moments.in_utc(evening) == "2026-11-29T04:30:00Z"
    assert moments.in_utc(evening.timestamp()) == "2026-11-29T04:30:00Z"


def test_now_can_be_read_back():
    before = datetime.now(UTC).replace(microsecond=0)
    assert before <= datetime.fromisoformat(moments.now()) <= datetime.now(UTC)
