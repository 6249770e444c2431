"""What a person is shown of a run that was measured by labels: one HTML file without a network.

Shape letters: N labelled objects by rank, P points of a curve.
"""

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas
from markupsafe import Markup

from astroray import ledger
from astroray.actors.embed import pack_shard
from astroray.actors.render import render_rows
from astroray.evaluation.metrics import NUM_RESAMPLES
from astroray.report.figures import round_numbers
from astroray.report.thumbnails import read_thumbnails
from astroray.run_folders import finished_run
from astroray.templates import load_template
from astroray.templates.svg import svg_text

if TYPE_CHECKING:  # it is loaded by those that it has numbers for
    from astroray.evaluation.own_labels import Compared

__all__ = ["render_page"]

NUM_CASES = 24
"""Pictures of each kind of case."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 300, 46, 12, 12, 40
NUM_POINTS = 300
"""Of a curve; so that the page of a million objects is as small as that of a thousand."""


class _Case(NamedTuple):
    """A labelled object as the page shows it."""

    object_id: str
    rank: int
    """In the whole list."""
    value: str


class _Curves(NamedTuple):
    """A figure: interesting objects found against labelled objects looked at."""

    last: int
    figure: Markup


def render_page(compared: "Compared", document: Mapping[str, Any]) -> str:
    """The page of one evaluation.

    document  as `rows.json` holds it

    A picture that the run has not kept is read from the survey; one that cannot be is left out.
    """
    record = finished_run(compared.folder)
    is_interesting_N = compared.is_interesting_N
    interesting_N, others_N = np.flatnonzero(is_interesting_N), np.flatnonzero(~is_interesting_N)
    last_N = interesting_N[NUM_CASES:][::-1]  # none twice
    places = {
        "Interesting, highest in the list": interesting_N[:NUM_CASES],
        **({"Interesting, lowest in the list": last_N[:NUM_CASES]} if len(last_N) else {}),
        "Others, highest in the list": others_N[:NUM_CASES],
    }
    jpegs = _pictures(
        compared.folder, compared.found.objects.iloc[np.concatenate([*places.values()])]
    )
    num_labelled = len(is_interesting_N)
    return load_template("astroray.evaluation", "own_page.html.jinja").render(
        compared=compared,
        document=document,
        record=record,
        names=list(compared.scores),
        curves=[
            _curves(compared, max(compared.lengths), with_band=True),
            _curves(compared, num_labelled, with_band=False),  # all are all, of whatever order
        ],
        better=_beaten(compared, above=True),
        worse=_beaten(compared, above=False),
        cases={what: _cases(compared, place_M) for what, place_M in places.items()},
        picture_of={object_id: f"p{i}" for i, object_id in enumerate(jpegs)},
        pictures=[base64.b64encode(jpeg).decode() for jpeg in jpegs.values()],
        num_resamples=NUM_RESAMPLES,
    )


def _beaten(compared: "Compared", *, above: bool) -> list[str]:
    """Scores whose AUC is below the list's, or above it, by the interval of the difference."""
    return [
        peer
        for (_, peer), number in compared.auc.items()
        if peer and (number.low > 0 if above else number.high < 0)
    ]


def _cases(compared: "Compared", place_M: np.ndarray) -> list[_Case]:
    objects, value_N = compared.found.objects, compared.found.value_N
    return [
        _Case(
            object_id=objects["object_id"].iloc[i],
            rank=int(objects["rank"].iloc[i]),
            value=value_N[i],
        )
        for i in place_M
    ]


def _pictures(folder: str, objects: pandas.DataFrame) -> dict[str, bytes]:
    """JPEG by identifier: as the run has kept it, else drawn from the survey's own file."""
    wanted = set(objects["object_id"])
    jpegs = {name: jpeg for name, jpeg in read_thumbnails(folder).items() if name in wanted}
    lacking = objects[~objects["object_id"].isin(list(jpegs))]
    if len(lacking):
        rows = {shard: sorted({*map(int, of["row"])}) for shard, of in lacking.groupby("shard")}
        drawn = render_rows(
            {
                "shard": [pack_shard(ledger.find_shard(folder, str(name))) for name in rows],
                "rows": [json.dumps(of_shard) for of_shard in rows.values()],
            }
        )
        jpegs |= dict(zip(drawn["object_id"], drawn["thumbnail"], strict=True))
    return jpegs


def _curves(compared: "Compared", last: int, *, with_band: bool) -> _Curves:
    """The first `last` labelled objects, with or without the 95 % interval of the list."""
    looked_P = np.unique(np.linspace(0, last, NUM_POINTS + 1).round().astype(int))
    found = {name: compared.found_after(name, looked_P) for name in compared.scores}
    random_P = looked_P * compared.share
    low_P, high_P = compared.interval_of(next(iter(found.values())), looked_P)
    tops = [*found.values(), random_P, *([high_P] if with_band else [])]
    top = max(1.0, *(float(value_P.max()) for value_P in tops))

    def points(value_P: np.ndarray) -> list[str]:
        x_P = LEFT + looked_P / last * (WIDTH - LEFT - RIGHT)
        y_P = HEIGHT - BOTTOM - value_P / top * (HEIGHT - TOP - BOTTOM)
        return [f"{x:.1f} {y:.1f}" for x, y in zip(x_P, y_P, strict=True)]

    lines = [
        f'<path class="score s{i}" d="M{"L".join(points(found_P))}"><title>{name}</title></path>'
        for i, (name, found_P) in enumerate(found.items())
    ]
    parts = [
        *_axes(last, top),
        f'<path class="band" d="M{"L".join([*points(high_P), *points(low_P)[::-1]])}Z"/>'
        if with_band
        else "",
        f'<path class="chance" d="M{"L".join([points(random_P)[0], points(random_P)[-1]])}"/>',
        *reversed(lines),  # the list on top
    ]
    said = f"Interesting found among the first {last} labelled objects"
    return _Curves(
        last,
        Markup(
            f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">'
            f"{''.join(parts)}</svg>"
        ),
    )


def _axes(last: int, top: float) -> list[str]:
    parts = []
    for value in round_numbers(0, top, count=5):
        y = HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(svg_text(LEFT - 7, y + 4, f"{value:,.6g}", anchor="end"))
    for value in round_numbers(0, last, count=4):
        x = LEFT + value / last * (WIDTH - LEFT - RIGHT)
        parts.append(svg_text(x, HEIGHT - BOTTOM + 18, f"{value:,.6g}", anchor="middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*parts, svg_text(middle, HEIGHT - 5, "labelled objects looked at", anchor="middle")]
