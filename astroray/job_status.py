"""Where a submitted job stands, and its run, for a person and for a program."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from astroray.inspection import RunStatus

__all__ = ["JobStatus"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobStatus:
    """Where a submitted job stands."""

    submission_id: str
    status: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED."""
    about: Mapping[str, str]
    """Survey, out, night and attempt, as they were submitted."""
    started: str
    """UTC, ISO 8601; empty until then, as `ended`."""
    ended: str
    exit_code: int | None
    """None until it has ended."""
    last_words: str
    """Of a failed one."""
    run: RunStatus | None
    """None where it has not begun, or cannot be seen from here."""
    unseen: str = ""
    """Why nothing of the run can be known here, and what to do."""

    def words(self) -> dict[str, str]:
        """For a person."""
        status = {"job": self.submission_id, "status": self.status, **self.about}
        code = "" if self.exit_code is None else str(self.exit_code)
        more = {"started": self.started, "ended": self.ended, "exit code": code}
        more["last words"] = self.last_words
        status |= {name: text for name, text in more.items() if text}
        if self.unseen:
            return {**status, "run": self.unseen}
        run = self.run.words() if self.run else {}
        return status | {
            f"run {name}" if name in status else name: text for name, text in run.items()
        }

    def facts(self) -> dict[str, Any]:
        """For a program, as JSON has it."""
        return {
            "job": self.submission_id,
            "status": self.status,
            **self.about,
            "started": self.started or None,
            "ended": self.ended or None,
            "exit_code": self.exit_code,
            "last_words": self.last_words or None,
            "run": self.run.facts() if self.run else None,
        }
