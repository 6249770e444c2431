"""How the numbers of an evaluation are written: rows in the shape of a benchmark's."""

import json
import math
from collections.abc import Mapping
from typing import Any

from astroray import storage
from astroray.evaluation.metrics import Estimate

__all__ = ["measured_row", "publish_rows", "rounded"]


def measured_row(
    what: str,
    number: Estimate | float | None,
    *,
    unit: str = "",
    goal_is: str = "at least",
    peer: str = "",
    runs: int = 1,
) -> dict[str, Any]:
    """A row without a goal, ok where it has a value; what is not finite is null: JSON has no NaN.

    number  with its interval where it has one; None: it could not be measured
    """
    value, low, high = (
        (number.value, number.low, number.high)
        if isinstance(number, Estimate)
        else (number, None, None)
    )
    return {
        "what": what,
        "value": rounded(value),
        "unit": unit,
        "goal": None,
        "goal_is": goal_is,
        "ok": rounded(value) is not None,
        "peer": peer,
        "limit": None,
        "low": rounded(low),
        "high": rounded(high),
        "runs": runs,
        "error": None,
    }


def rounded(value: float | None) -> float | None:
    """To five digits, a whole number as it is; None where it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.5g}")


def publish_rows(folder: str, document: Mapping[str, Any]) -> None:
    """Publishes `rows.json` in the folder of an evaluation."""
    data = json.dumps(document, indent=1, allow_nan=False).encode()
    storage.publish(storage.join(folder, "rows.json"), data)
