"""The endpoint that forecasts flares: light curves in, a calibrated probability by window out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from astroray.errors import DataError
from astroray.flares.detrend import DetrendConfig
from astroray.surveys.light_curve_rows import LightCurve
from astroray.surveys.shards import Reject, reject
from astroray.web import answers
from astroray.web.curve_uploads import CurveLimits, Stated, read_curves
from astroray.web.routes import known_parameters, refusing, taking_uploads
from astroray.web.security import needs

__all__ = ["FlareForecast", "Forecaster", "build_flare_router"]

MAX_SPAN_D = 6000.0
"""From the first cadence of a star to its last, in all light curves: windows are laid over it."""
MAX_CELLS = 600_000
"""Cells that the light curves of one upload may cost, at about a tenth of a second of one core for
a thousand: a minute. Looks for flares, day by day, take most of it."""
LOOK_CELLS = 130
"""Cells that a look costs beside those that it looks at."""
MAX_REASONS = 20


TimeName = Annotated[
    str, Query(max_length=20, description="BKJD, BTJD, BJD or MJD, where the file has none")
]
MissionName = Annotated[
    str, Query(max_length=20, description="kepler, k2, tess or other, where the file has none")
]
Newest = Annotated[bool, Query(description="only the last window of each star")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlareForecast:
    """What the forecaster makes of an upload."""

    model_id: str
    alarm: float
    """Probability from which a flare is forecast."""
    strangers: str
    """What the model was trained on, where stars are of another mission; else empty."""
    table: pa.Table | None
    """FORECASTS; None where no window is left."""
    rejects: Sequence[Reject]
    dropped: Mapping[str, int]
    """Windows left out, by reason."""


class Forecaster(Protocol):
    """What forecasts flares: a model somewhere on a cluster."""

    async def forecast(self, items: Sequence[LightCurve | Reject]) -> FlareForecast:
        """Forecasts of all windows of light curves. Raises BusyError."""


def build_flare_router(
    forecaster: Forecaster | None, run_id: str, limits: CurveLimits
) -> APIRouter:
    """The route below /v1/flares; `run_id` is that of the run that is served beside it.

    Without a forecaster it says what is missing, and is not in the OpenAPI document.
    """
    router = APIRouter(prefix="/v1/flares", include_in_schema=forecaster is not None)
    if forecaster is None:

        @router.post("/forecast", dependencies=[Depends(needs("read"))])
        def explain() -> None:
            raise HTTPException(
                404, "no flare model is served; start the server with --flares MODEL"
            )

        return router

    @router.post(
        "/forecast",
        response_model=answers.Forecasts,
        dependencies=[Depends(needs("read")), Depends(known_parameters)],
        **taking_uploads("light_curves"),
    )
    async def forecast(
        request: Request,
        response: Response,
        time: TimeName = "",
        mission: MissionName = "",
        newest: Newest = False,
    ) -> dict[str, Any]:
        """The probability that a star flares within 24 h after each window of its light curves.

        Light curves are those of Kepler, K2 and TESS (FITS), or rows of a Parquet file. Those of
        one star are taken together.
        """
        data = await request.body()
        with refusing():
            stated = Stated(time=time, mission=mission)
            items = await run_in_threadpool(read_bounded, data, stated, limits)
            _expect_some([item for item in items if isinstance(item, Reject)], len(items))
            found = await forecaster.forecast(items)
            _expect_some(found.rejects, len(items))
        response.headers["x-astroray-model"] = found.model_id
        rows = found.table.to_pylist() if found.table is not None else []
        return {
            "run_id": run_id,
            "model_id": found.model_id,
            "alarm": found.alarm,
            "warning": f"the model was {found.strangers}" if found.strangers else "",
            "windows": [row for row in rows if row["newest"] or not newest],
            "dropped": dict(found.dropped),
            "num_rejected": len(found.rejects),
            "rejects": [
                {"row": one.row or 0, "reason": one.reason} for one in found.rejects[:MAX_REASONS]
            ],
        }

    return router


def _expect_some(rejects: Sequence[Reject], num_items: int) -> None:
    """Raises DataError where every light curve of an upload is a reject."""
    if len(rejects) == num_items:
        reasons = "; ".join(one.reason for one in rejects[:3]) or "the file has no row"
        raise DataError(f"no light curve can be used: {reasons}"[:2000])


def read_bounded(data: bytes, stated: Stated, limits: CurveLimits) -> list[LightCurve | Reject]:
    """The light curves of an upload; rejects from where on to forecast would cost too much.

    Raises DataError where the file cannot be used as a whole.
    """
    items = read_curves(data, stated, limits=limits)
    budget = _Budget()
    return [budget.spend(item) if isinstance(item, LightCurve) else item for item in items]


class _Budget:
    """Cells that the light curves of one upload may cost; days that none observed cost nothing."""

    def __init__(self) -> None:
        self._left = float(MAX_CELLS)
        self._edges_d: dict[str, tuple[float, float]] = {}
        """By star: first and last day of its light curves so far."""

    def spend(self, curve: LightCurve) -> LightCurve | Reject:
        """The light curve, or a reject where its star spans too long, or too few cells are left."""
        first_d, last_d = float(curve.time_d[0]), float(curve.time_d[-1])
        known = self._edges_d.get(curve.object_id, (first_d, first_d))
        edges_d = (min(known[0], first_d), max(known[1], last_d))
        span_d = edges_d[1] - edges_d[0]
        if span_d > MAX_SPAN_D:
            reason = f"spans {span_d:.6g} d, expected at most {MAX_SPAN_D:g}; send it in parts"
            return reject(curve.row, "span", f"{curve.object_id} {reason}")
        cells = count_cells(curve)
        if cells > self._left:
            reason = (
                f"costs {cells:.3g} cells of its cadence, {curve.cadence_s:.3g} s; of the "
                f"{MAX_CELLS} of an upload {self._left:.3g} are left: bin it to longer cadences, "
                "or send it alone"
            )
            return reject(curve.row, "span", f"{curve.object_id} {reason}")
        self._left -= cells
        self._edges_d[curve.object_id] = edges_d
        return curve


def count_cells(curve: LightCurve) -> float:
    """Cells that a light curve costs: those of the grid of `flares.detrend`, where pauses are cut
    out and leave room for one window, and a look a day."""
    config = DetrendConfig()
    cadence_d = curve.cadence_s / 86400.0
    step_T = np.diff(curve.time_d) / cadence_d
    is_pause_T = step_T > max(config.max_gap_d / cadence_d, 6.5)
    window = max(config.windows_d) / cadence_d + 13
    cells = float(step_T[~is_pause_T].sum() + (1 + is_pause_T.sum()) * window)
    return cells * (1 + LOOK_CELLS * cadence_d)
