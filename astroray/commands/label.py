"""The verb that opens the labelling page: `astroray label`."""

import contextlib
import getpass

import click

__all__ = ["label"]


@click.command(short_help="Open a page to say what objects are.")
@click.argument("run_dir", type=click.Path())
@click.option(
    "--user",
    "users",
    multiple=True,
    metavar="NAME",
    help="Who labels; several times for several people, each with an address of their own.  "
    "[default: the login name]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, help="[default: one that is free]")
@click.option(
    "--export",
    "table",
    type=click.Path(),
    metavar="FILE",
    help="Write the labels as a table, and end.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "votable", "fits"]),
    default="csv",
    show_default=True,
    help="Of --export.",
)
@click.option("--overwrite", is_flag=True, help="Let --export take the place of a file.")
def label(
    run_dir: str,
    users: tuple[str, ...],
    host: str,
    port: int,
    table: str | None,
    kind: str,
    overwrite: bool,
) -> None:
    """Look at the most unusual objects of the finished run in RUN_DIR and say what they are.

    A page on this machine, for the keyboard: 1 to 5 for interest, j and k, u to undo. After each
    round the labels say which objects come next; the certified ranking stays as it is. Labels are
    kept in RUN_DIR/labels.
    """
    from astroray.labelling.label_server import export_labels, labelling_app, run_app
    from astroray.web.listening import listen

    if table is not None:
        click.echo(f"{export_labels(run_dir, table, kind, overwrite=overwrite)} labels  {table}")
        return
    names = users or (getpass.getuser(),)
    with (
        labelling_app(run_dir, names) as (app, secret_of),
        listen(host, port) as (listening, address),
    ):
        for name in names:
            click.echo(f"{name:<10} {address}/ui/login#token={secret_of[name]}")
        click.echo("open it in a browser; Ctrl-C stops, and what was labelled is kept")
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it, no mishap
            run_app(app, listening)
    click.echo("stopped")
