"""The job `astroray flares forecast`: a probability for each star and window, tables, a page.

forecasts.parquet   FORECASTS, by star and time
rejects.parquet     light curves that gave none, and why
forecast.json       model, counts, windows left out by reason, skill where flares came
index.html          reliability, and the stars most likely to flare next
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from astroray import ledger, schema, storage
from astroray.errors import ConfigError, DataError
from astroray.execution import workers
from astroray.flares.windows import Windows
from astroray.forecast.collect import StarPlace, collect_windows, star_windows
from astroray.forecast.fit import forecast_logits
from astroray.forecast.forecast_record import ForecastRecord, describe_forecasts
from astroray.forecast.model_file import TrainedForecaster, load_forecaster
from astroray.forecast.page import write_page
from astroray.forecast.star_groups import StarGroup
from astroray.forecast.star_tasks import map_stars
from astroray.forecast.train import flare_shards
from astroray.run_files import record_file
from astroray.storage.parquet import publish_parquet
from astroray.surveys.light_curve_rows import LightCurve
from astroray.surveys.shards import Reject

__all__ = ["ForecastConfig", "Forecasts", "forecast_curves", "forecast_flares", "forecast_group"]

Show = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForecastConfig:
    """What is forecast, by which model; raises ConfigError on values that cannot work."""

    survey: str
    model: str
    """Model file of `astroray train flares`."""
    out: str

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out is empty, expected a folder or s3://...; give --out DIR")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecasts:
    """What came of some light curves."""

    table: pa.Table | None
    """FORECASTS; None where no window is left."""
    rejects: Sequence[Reject]
    dropped: Mapping[str, int]
    """Windows left out, by reason."""
    missions: Mapping[str, int]
    """Stars by the mission of their light curves."""


def forecast_flares(config: ForecastConfig, *, show: Show = lambda text: None) -> ForecastRecord:
    """Forecasts every window of a survey, the newest of each star included.

    Raises ConfigError on a file that is no model, a survey without light curves, and a folder that
    holds a run, DataError where no star has a window.
    """
    if storage.exists(record_file(config.out)):
        raise ConfigError(
            f"{config.out} holds a run, whose rejects and page would be lost; give another --out"
        )
    trained = load_forecaster(config.model)
    shards = flare_shards(config.survey)
    with workers.cluster(log_dir=""):
        found = map_stars(shards, forecast_group, config.model, show=show)
    tables = [one.table for one in found if one.table is not None]
    rejected = [reject for one in found for reject in one.rejects]
    if not tables:
        raise DataError(
            f"no star of {config.survey} has a window of 512 cadences: {len(rejected)} light "
            f"curves were rejected{', first: ' + rejected[0].reason if rejected else ''}"
        )
    forecasts = pa.concat_tables(tables)
    forecasts = forecasts.sort_by([("object_id", "ascending"), ("end", "ascending")])
    dropped, missions = Counter[str](), Counter[str]()
    for one in found:
        dropped.update(one.dropped)
        missions.update(one.missions)
    rejects = ledger.rejects_table(sorted(rejected, key=_in_order))
    record = describe_forecasts(
        forecasts,
        trained,
        survey=config.survey,
        model=config.model,
        dropped=dropped,
        missions=missions,
        rejects=rejects,
    )
    publish_parquet(storage.join(config.out, "forecasts.parquet"), forecasts)
    publish_parquet(storage.join(config.out, "rejects.parquet"), rejects)
    text = json.dumps(dataclasses.asdict(record), indent=1)
    storage.publish(storage.join(config.out, "forecast.json"), text.encode())
    write_page(config.out, record, forecasts)
    return record


def forecast_group(group: StarGroup, model: str) -> Forecasts:
    """What a model file forecasts of the stars of a group."""
    return _forecast(collect_windows(group, unanswered=True), load_forecaster(model))


def forecast_curves(
    items: Iterable[LightCurve | Reject], trained: TrainedForecaster, name: str
) -> Forecasts:
    """The same of light curves that are at hand; `name` stands for that of their shard."""
    named = ((name, item) for item in items)
    return _forecast(star_windows(named, unanswered=True), trained)


def _forecast(
    found: tuple[Windows | None, list[Reject], Mapping[str, StarPlace]],
    trained: TrainedForecaster,
) -> Forecasts:
    windows, rejects, places = found
    if windows is None:
        return Forecasts(table=None, rejects=rejects, dropped={}, missions={})
    table = None
    if len(windows):
        probability_W = trained.calibration.probability(forecast_logits(trained.model, windows))
        table = _table(windows, probability_W, places, trained.alarm)
    dropped = {reason: count for reason, count in windows.dropped.items() if count}
    return Forecasts(table=table, rejects=rejects, dropped=dropped, missions=windows.missions)


def _in_order(reject: Reject) -> tuple[str, int]:
    return reject.shard, -1 if reject.row is None else reject.row


def _table(
    windows: Windows,
    probability_W: np.ndarray,
    places: Mapping[str, StarPlace],
    alarm: float,
) -> pa.Table:
    names = [windows.star_ids[star] for star in windows.star_W]
    answers = zip(windows.label_W.tolist(), windows.answered_W.tolist(), strict=True)
    identity = schema.identity(
        names,
        np.array([places[name].ra_deg for name in names], np.float64),
        np.array([places[name].dec_deg for name in names], np.float64),
    )
    columns = {
        "shard": [places[name].shard for name in names],
        "end": windows.end_W,
        "time_zero": [places[name].time_zero for name in names],
        "probability": probability_W,
        "alarm": probability_W >= alarm,
        "newest": np.append(windows.star_W[1:] != windows.star_W[:-1], True),
        "flared": [label if answered else None for label, answered in answers],
    }
    rest = {
        name: pa.array(column, schema.FORECASTS.field(name).type)
        for name, column in columns.items()
    }
    return schema.conform(pa.table({**identity, **rest}), schema.FORECASTS, "forecasts")
