"""How a page's template is loaded, and what all pages share: their head, colors, type and tiles.

A page is one HTML file that needs nothing else. It begins with `head.html.jinja`, and its style
includes `base.css`, that of a result `result.css`, a long one's `chapters.css`.
"""

import importlib.resources
import math
from collections.abc import Callable
from typing import Any

import jinja2

from astroray.words import plural

__all__ = ["load_template"]


def load_template(
    package: str,
    name: str,
    *,
    undefined: type[jinja2.Undefined] = jinja2.StrictUndefined,
    **filters: Callable[..., Any],
) -> jinja2.Template:
    """The template `name` that lies beside the modules of a package, with filters of its own.

    It is escaped by default, and a missing value is an error. It may include other files that lie
    there, and those here. All have the filters `decimals`, a number of so many decimals, `signed`,
    one of three with its sign, `plural`, a noun for so many, and `counted`, a number and its noun.
    """

    def read(name: str) -> str:
        own = importlib.resources.files(package).joinpath(name)
        shared = importlib.resources.files(__name__).joinpath(name)
        return (own if own.is_file() else shared).read_text("utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        undefined=undefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    of_all = {"decimals": _decimals, "signed": _signed, "plural": plural, "counted": _counted}
    environment.filters.update(of_all | filters)
    return environment.get_template(name)


def _decimals(value: float | None, digits: int) -> str:
    """A dash for what there is none of."""
    return f"{value:,.{digits}f}" if value is not None and math.isfinite(value) else "–"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {plural(noun, count)}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
