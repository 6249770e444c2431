"""How a moment is written, in records, ledgers, leases and messages: UTC, ISO 8601, in seconds."""

from datetime import UTC, datetime

__all__ = ["in_utc", "now"]


def now() -> str:
    """This moment."""
    return in_utc(datetime.now(UTC))


def in_utc(moment: datetime | float) -> str:
    """A moment; a number counts seconds since 1970."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
