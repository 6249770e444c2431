"""The verb `astroray quantize`."""

import click

from astroray.terminal import status_line

__all__ = ["quantize"]

SCHEMES = ("auto", "w8a8", "w8a8o", "osc-w4a4", "osc-mxfp4", "osc-nvfp4")


@click.command(short_help="Put a model on 8 or 4 bits where that is faster.")
@click.argument("model", type=click.Path())
@click.option("--observe", required=True, metavar="SURVEY", help="Objects to measure ranges on.")
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    metavar="MODEL",
    help="New model file, local or s3://.",
)
@click.option(
    "--scheme",
    type=click.Choice(SCHEMES),
    default="auto",
    show_default=True,
    help="auto: the fastest numbers and attention that keep the outlier list, measured here.",
)
@click.option("--rows", type=int, help="Objects drawn from SURVEY.  [default: 512, for auto 16384]")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
def quantize(model: str, observe: str, out: str, scheme: str, rows: int | None, seed: int) -> None:
    """Quantize the layers of MODEL: 8 or 4 bits, outlier channels in 16 (OSC).

    `astroray scan --encoder NEW` then selects with the quantized layers, and the attention that
    auto chose beside them, and encodes the shortlist and its neighbors again with MODEL's own
    network, which the new file holds too. A page of what was found is written beside it.
    """
    from astroray.quantization.encoder import QuantizeConfig, quantize_encoder

    config = QuantizeConfig(
        model=model, survey=observe, out=out, scheme=scheme, max_rows=rows, seed=seed
    )
    with status_line() as show:
        found, page = quantize_encoder(
            config, show=lambda progress: show(progress.stage, f"{progress.stage}  {progress.note}")
        )
    if found.decision:
        width = max(len(way.name) for way in found.decision.ways)
        for way in found.decision.ways:
            speed = "     –" if way.speed is None else f"{way.speed:6.2f}"
            kept = "     –" if way.kept is None else f"{way.kept:6.1%}"
            line = f"{way.name:<{width}} {speed} x float32  list kept {kept}  {way.brief}"
            click.echo(line.rstrip())
        for detail in found.decision.details:
            click.echo(f"note     {detail}")
        click.echo(f"choice   {found.decision.chosen}: {found.decision.reason}")
    for name, layers in found.schemes.items():
        before, after = (
            sum(layer.bytes_before for layer in layers),
            sum(layer.bytes_after for layer in layers),
        )
        kept_apart = sum(layer.num_outliers for layer in layers)
        click.echo(
            f"{name:<10}{len(layers)} layers, {after / before:.2f} of the bytes in bfloat16, "
            f"{kept_apart} outlier channels"
        )
    click.echo(f"model_id {found.model_id}\nmodel    {out}\npage     {page}")
