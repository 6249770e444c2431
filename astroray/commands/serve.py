"""The verbs that serve a run: `astroray serve` and `astroray token`."""

import os
import signal
import threading

import click

from astroray.terminal import config_option, parse_setting

__all__ = ["serve", "token"]

TOKENS = "~/.config/astroray/tokens.json"


@click.command(short_help="Answer questions about a run over HTTP.")
@click.argument("run_dir", type=click.Path())
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="[default: 8000]")
@click.option(
    "--flares",
    type=click.Path(),
    metavar="MODEL",
    help="Model file of `astroray train flares` to forecast by.",
)
@click.option(
    "--tokens",
    type=click.Path(),
    metavar="FILE",
    help=f"File of hashed tokens.  [default: {TOKENS}]",
)
@config_option
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting of the file, e.g. encoder.max_replicas=4.",
)
def serve(
    run_dir: str,
    host: str | None,
    port: int | None,
    flares: str | None,
    tokens: str | None,
    file: str | None,
    settings: tuple[str, ...],
) -> None:
    """Answer questions about the finished run in RUN_DIR over HTTP, until interrupted.

    Catalog, cone searches, pictures and neighbors; scores of uploads, and with --flares forecasts
    of flares in uploaded light curves. RUN_DIR may be a folder of versions, whose newest finished
    one is served, or a link: when a night is added, the link is moved to another finished run, or
    the run is scanned again, the new one is served.
    """
    from astroray.run_folders import finished_run
    from astroray.settings import load_settings
    from astroray.web.listening import listen
    from astroray.web.security import Tokens
    from astroray.web.serve_config import ServeConfig

    flags = {"host": host, "port": port, "flares": flares, "tokens": tokens}
    flags |= dict(parse_setting(text) for text in settings)
    config: ServeConfig = load_settings(ServeConfig, file, {**flags, "run_dir": run_dir})
    finished_run(run_dir)
    if not os.environ.get("RAY_ADDRESS"):  # the proxy of a cluster listens on its head
        with listen(config.host, config.port):
            pass  # a port that is taken is said before anything starts
    if config.flares:
        from astroray.forecast.model_file import load_forecaster

        load_forecaster(config.flares)  # what is wrong with it is said before anything starts
    known = Tokens(config.tokens)
    if not known.all():
        secret = known.issue("owner", ["admin"])
        click.echo(f"{known.path} had no token; this one may do everything, and is shown once:")
        click.echo(f"  {secret}")
    from astroray.execution.workers import metrics_addresses
    from astroray.serving import serving

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    click.echo("starting Ray and the replicas, which takes about half a minute")
    with serving(config) as address:
        click.echo(f"serving  {address}  (endpoints: {address}/, stop with Ctrl-C)")
        click.echo(f"metrics  {', '.join(metrics_addresses())}")
        stop.wait()
    click.echo("stopped")


@click.group()
def token() -> None:
    """Issue, list and revoke the tokens that requests carry."""


_FILE = click.option(
    "--tokens", default=TOKENS, show_default=True, type=click.Path(), metavar="FILE"
)


@token.command(short_help="Issue a token and print it, once.")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=["read"],
    show_default=True,
    type=click.Choice(["read", "label", "admin"]),
    help="May be given several times.",
)
@click.option("--expires", default="", metavar="DATE", help="Last moment, UTC.  [default: never]")
@_FILE
def add(name: str, scopes: tuple[str, ...], expires: str, tokens: str) -> None:
    """Issue a token for NAME and print it; it is kept nowhere and cannot be printed again."""
    from astroray.web.security import Tokens

    click.echo(Tokens(tokens).issue(name, scopes, expires=expires))


@token.command("list")
@_FILE
def list_tokens(tokens: str) -> None:
    """Say which tokens there are."""
    from astroray.web.security import Tokens

    known = Tokens(tokens)
    if not known.all():
        click.echo(f"no token in {known.path}; `astroray token add NAME` issues one")
    for one in known.all():
        until = f"until {one.expires}" if one.expires else "no end"
        until += ", expired" if one.is_expired else ""
        click.echo(f"{one.name:<20}{','.join(one.scopes):<20}since {one.created}  {until}")


@token.command(short_help="Take a token away.")
@click.argument("name")
@_FILE
def revoke(name: str, tokens: str) -> None:
    """Take the token of NAME away; servers that run refuse it from their next request."""
    from astroray.web.security import Tokens

    Tokens(tokens).revoke(name)
    click.echo(f"revoked {name}")
