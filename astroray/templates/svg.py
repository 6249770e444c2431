"""What the figures of all pages write: text at a place."""

from markupsafe import escape

__all__ = ["svg_text"]


def svg_text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    kind: str = "label",
    is_turned: bool = False,
) -> str:
    """A text element of an SVG, escaped.

    anchor     which part of the text is at the place: start, middle or end
    kind       its class in the page's style
    is_turned  whether it is read upwards
    """
    place = f'x="{x:.1f}" y="{y:.1f}"'
    if is_turned:
        place = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"'
    return f'<text class="{kind}" {place} text-anchor="{anchor}">{escape(text)}</text>'
