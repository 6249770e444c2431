"""What runs in a report: code of this version around the map's facts, and what a server adds."""

import json
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from astroray.templates import load_template

__all__ = ["has_live_map", "render_script", "script_at_desk"]


def render_script(facts: Mapping[str, Any], desk: Mapping[str, str] | None = None) -> Markup:
    """The script of a report whose map draws these facts, `map.map_data`; without a map where {}.

    It may stand in HTML as it is.

    desk  of a page that a labelling server gives out: whose it is (`user`), and under which name
          the browser hands its objects to the labelling page (`key`); a file that nobody serves
          has no code that would ask for anything
    """
    template = load_template("astroray.report", "script.js.jinja")
    return Markup(template.render(map=dict(facts), desk=desk))


def script_at_desk(script: str, desk: Mapping[str, str]) -> Markup | None:
    """The script of a written report as a labelling server gives it out.

    None where it is not, to the character, what this version makes of the facts that it holds:
    code of another version or another hand is not to be trusted with more than its own page.
    """
    found = re.search(r"^const MAP = (\{.*\});$", script, re.MULTILINE)
    try:
        facts = json.loads(found[1]) if found else {}
    except ValueError:
        return None
    if str(render_script(facts)).strip() != script.strip():
        return None
    return render_script(facts, desk)


def has_live_map(page: str) -> bool:
    """Whether a written page has a map that a notebook can ask what is selected on it."""
    return "const hearHost" in page
