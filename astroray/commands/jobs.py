"""The verbs that hand a job to a running cluster and take it back."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from astroray.errors import ConfigError
from astroray.interrupts import Interrupted
from astroray.terminal import no_script

__all__ = ["ADDRESS_HELP", "cancel", "submit"]

ADDRESS_HELP = "Job server of the cluster.  [default: RAY_ADDRESS, else http://127.0.0.1:8265]"


@click.command(
    context_settings={"ignore_unknown_options": True},
    short_help="Start a job on a running cluster.",
)
@click.argument("job")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--night",
    metavar="WORD",
    help="Tells submissions apart.  [default: that of the job, else today, UTC]",
)
@click.option("--wait", is_flag=True, help="Follow the log; end with the job's exit code.")
@click.option("--driver-cpus", type=float, default=0.0, help="Keep the driver off the head node.")
@click.option("--address", metavar="URL", help=ADDRESS_HELP)
def submit(
    job: str,
    arguments: tuple[str, ...],
    night: str | None,
    wait: bool,
    driver_cpus: float,
    address: str | None,
) -> None:
    """Start jobs/JOB.py on a running cluster, with the ARGUMENTS of that job.

    For example: astroray submit scan --survey s3://sky/images --out s3://runs/images --wait

    The settings are checked here first. The same submission again starts nothing while it runs or
    once it has succeeded; after a failure it is the next attempt, which resumes.
    """
    from astroray.job_command import read_job
    from astroray.submission import Job, JobServer

    script = Path(job) if job.endswith(".py") else Path("jobs", f"{job}.py")
    if not script.is_file():
        raise ConfigError(no_script(script))
    config, out = read_job(script, list(arguments))
    of_job: str = getattr(config, "night", "") or datetime.now(UTC).strftime("%Y-%m-%d")
    server = JobServer(address)
    submitted = server.submit(
        Job(
            script=script,
            arguments=arguments,
            survey=config.survey,
            out=getattr(config, "run_dir", out),  # of a night not the folder of all versions
            night=night or of_job,
        ),
        driver_cpus=driver_cpus,
    )
    name = submitted.submission_id
    click.echo(f"{'submitted' if submitted.is_new else submitted.status.lower()}  {name}", err=True)
    if not wait:
        click.echo(name)
        return
    try:
        sys.exit(server.follow(name, lambda text: click.echo(text, nl=False)))
    except Interrupted as ended:
        click.echo(f"\nthe job goes on; `astroray cancel {name}` stops it", err=True)
        sys.exit(ended.exit_code)


@click.command()
@click.argument("submission_id")
@click.option("--address", metavar="URL", help=ADDRESS_HELP)
def cancel(submission_id: str, address: str | None) -> None:
    """Stop a job that was submitted. What it has done stays; submit it again to go on."""
    from astroray.submission import JobServer

    status = JobServer(address).cancel(submission_id)
    click.echo(f"{status.lower()}  {submission_id}")
    sys.exit(0 if status == "STOPPED" else 1)
