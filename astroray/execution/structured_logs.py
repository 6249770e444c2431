"""The log of a job as lines of JSON: time, level, logger, message, and what they belong to."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

__all__ = ["log_as_json", "log_context"]

_context: dict[str, str] = {}


def log_as_json() -> None:
    """Writes astroray's messages from INFO on to standard error, one JSON object a line."""
    handler = _StandardError()
    handler.setFormatter(_Json())
    logger = logging.getLogger("astroray")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))  # set by Ray's job server
    if name := job.get("metadata", {}).get("job_submission_id"):
        log_context(job=name)


def log_context(**facts: str) -> None:
    """Puts facts, such as the run id, into every later line of this process."""
    _context.update(facts)


class _StandardError(logging.Handler):
    """Whatever standard error is when a line is written: it moves while Ray's noise is kept out."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")


class _Json(logging.Formatter):
    """One JSON object a record; what was given as `extra={"facts": {...}}` stands in it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context,
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
