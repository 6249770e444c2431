"""`python -m astroray`: the command line where the environment's scripts are not on the path."""

from astroray.cli import cli

cli()
