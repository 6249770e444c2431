"""How a page's template is loaded: escaped by default, and an error where a value is missing."""

import importlib.resources
from collections.abc import Callable
from typing import Any

import jinja2

__all__ = ["load_template"]


def load_template(
    package: str,
    name: str,
    *,
    undefined: type[jinja2.Undefined] = jinja2.StrictUndefined,
    **filters: Callable[..., Any],
) -> jinja2.Template:
    """The template `name` that lies beside the modules of a package, with filters of its own.

    It may include other files that lie there.
    """

    def read(name: str) -> str:
        return importlib.resources.files(package).joinpath(name).read_text("utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        undefined=undefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
