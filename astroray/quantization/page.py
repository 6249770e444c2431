"""What a person is shown of a quantized model: one HTML file that needs no network."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from astroray import provenance, storage
from astroray.actors.quantize import Layer, Quantization
from astroray.quantization.activations import Ranges, outlier_channels
from astroray.templates import load_template
from astroray.templates.svg import svg_text

__all__ = ["write_page"]

WIDTH, HEIGHT = 560, 92
BOTTOM = HEIGHT - 16
SCHEME_WORDS = {
    "w8a8": "8 bits",
    "w8a8o": "8 bits, outlier channels in 16",
    "osc-w4a4": "4 bits (int4, groups of 32), outlier channels in 16",
    "osc-mxfp4": "4 bits (MXFP4), outlier channels in 16",
    "osc-nvfp4": "4 bits (NVFP4), outlier channels in 16",
}


def write_page(path: str, found: Quantization, *, model: str, survey: str) -> str:
    """Publishes the page of a quantized model at `path`, and returns that.

    model, survey  what was quantized, and observed
    """
    figures = {name: channel_figure(one, name) for name, one in found.ranges.items()}
    html = load_template("astroray.quantization", "page.html.jinja", share=_share).render(
        found=found,
        model=model,
        survey=survey,
        words=SCHEME_WORDS,
        shown=found.choice if found.choice in found.schemes else next(iter(found.schemes)),
        figures=figures,
        totals={name: _total(layers) for name, layers in found.schemes.items()},
        versions=provenance.versions(),
        machine=provenance.machine(),
    )
    storage.publish(path, html.encode())
    return path


def channel_figure(ranges: Ranges, name: str) -> Markup:
    """The largest magnitude of each input channel of a layer, outlier channels marked.

    In units of the threshold above which a number is an outlier, drawn as a line.
    """
    tall_K = ranges.amax_K.numpy() / (ranges.threshold or 1.0)
    kept = set(outlier_channels(ranges).tolist())
    largest = float(tall_K.max(initial=0.0))
    top = max(1.25, largest)
    step = WIDTH / max(1, len(tall_K))
    bars = []
    for channel, tall in enumerate(tall_K):
        y = BOTTOM - (BOTTOM - 4) * tall / top
        label = f"channel {channel}: {tall:.2f}" + (", kept in 16 bits" if channel in kept else "")
        kind = "bar top" if channel in kept else "bar"
        bars.append(
            f'<rect class="{kind}" x="{channel * step:.2f}" y="{y:.1f}" '
            f'width="{max(step - 0.4, 0.6):.2f}" height="{BOTTOM - y:.1f}">'
            f"<title>{label}</title></rect>"
        )
    y = BOTTOM - (BOTTOM - 4) / top
    line = f'<path class="threshold" d="M0 {y:.1f}H{WIDTH}"/>'
    words = f"{len(tall_K)} channels, largest {largest:.2f} thresholds"
    foot = [
        svg_text(0, HEIGHT - 3, words),
        svg_text(WIDTH, HEIGHT - 3, f"{len(kept)} kept", anchor="end"),
    ]
    return Markup(
        f'<svg class="figure" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Largest magnitude of the channels of {escape(name)}">'
        f"{''.join([*bars, line, *foot])}</svg>"
    )


def _total(layers: Sequence[Layer]) -> dict[str, float]:
    """Bytes of all layers, and the median error."""
    errors = [layer.error_db for layer in layers if layer.error_db is not None]
    return {
        "bytes_before": sum(layer.bytes_before for layer in layers),
        "bytes_after": sum(layer.bytes_after for layer in layers),
        "error_db": float(np.median(errors)) if errors else float("nan"),
        "outliers": sum(layer.num_outliers for layer in layers),
    }


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
