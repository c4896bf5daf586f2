"""`tickertape deploy cloud-run` and `tickertape deploy kuberay`.

Both write the files that describe the service, then run other programs' commands; with `--dry-run` they only show them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickertape.cli.generated import DataclassCommand
from tickertape.cli.messages import say

if TYPE_CHECKING:
    from tickertape.deploy.cloud_run import CloudRun
    from tickertape.deploy.kuberay import KubeRay

app = typer.Typer(
    name="deploy", help="Deploy the service to Cloud Run or to a Kubernetes cluster.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip


Output = Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Folder for the generated files.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write the files and print the commands without running them.")]


@app.command("cloud-run", cls=DataclassCommand, context_settings={"obj": "tickertape.deploy.cloud_run:CloudRun"})
def cloud_run(context: typer.Context, output: Output = Path("deploy"), dry_run: DryRun = False) -> None:
    """Build the image with Cloud Build, deploy it to Cloud Run, and test it. Run this in the checkout.

    Callers must be allowed by the project (roles/run.invoker) unless asked otherwise.

    \b
    Examples:
      tickertape deploy cloud-run --project my-project --region europe-west1 --dry-run
      tickertape deploy cloud-run --project my-project --region europe-west1 --model ./my-checkpoint
      tickertape deploy cloud-run --project my-project --region europe-west4 --gpu nvidia-l4
    """  # noqa: D301 - typer's mark for unwrapped text
    wanted: CloudRun = context.obj
    if not wanted.tag:
        wanted = replace(wanted, tag=datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S"))
    commands = _write(wanted, output)
    if wanted.allow_unauthenticated:
        say("everybody on the internet will be able to call the service, and you pay for it")
    if dry_run:
        _show(commands)
        return
    _to_cloud_run(wanted, commands)


@app.command("kuberay", cls=DataclassCommand, context_settings={"obj": "tickertape.deploy.kuberay:KubeRay"})
def kuberay(context: typer.Context, output: Output = Path("deploy"), dry_run: DryRun = False) -> None:
    """Run the service on a Kubernetes cluster that has KubeRay.

    \b
    Examples:
      tickertape deploy kuberay --namespace speech --image registry.example/tickertape:1 --dry-run
      tickertape deploy kuberay --namespace speech --image registry.example/tickertape:1 --engines-max 16
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.deploy.commands import run

    wanted: KubeRay = context.obj
    commands = _write(wanted, output)
    if dry_run:
        _show(commands)
        return
    run(commands["look for KubeRay"], "looking for KubeRay", capture=True)
    run(commands["deploy"], "deploying")
    run(commands["wait"], "waiting")
    typer.echo(f"To reach it: {shlex.join(commands['forward the port'])}\nLog: {shlex.join(commands['read the log'])}")


def _to_cloud_run(wanted: CloudRun, commands: Mapping[str, Sequence[str]]) -> None:
    """Run the commands. Raises `CommandError` if one fails."""
    from tickertape.deploy.cloud_run import SERVICES
    from tickertape.deploy.commands import CommandError, run
    from tickertape.deploy.smoke_test import smoke_test

    if not run(commands["show the account"], "looking for the account", capture=True):
        raise CommandError("gcloud is not logged in. Run: gcloud auth login")
    enabled = run(commands["list the enabled APIs"], "looking for the APIs", capture=True).split()
    if missing := [name for name in SERVICES if name not in enabled]:
        advice = f"gcloud services enable {' '.join(missing)} --project={wanted.project}"
        raise CommandError(f"The project lacks {len(missing)} API(s). Run: {advice}")
    try:
        run(commands["look for the repository"], "looking for the repository", capture=True)
    except CommandError as error:
        if "NOT_FOUND" not in error.output:
            raise
        run(commands["create the repository"], "creating the repository")
    run(commands["build the image"], "building the image")
    run(commands["deploy"], "deploying")
    if wanted.allow_unauthenticated:
        run(commands["allow public access"], "allowing public access")
    address = run(commands["show the address"], "asking for the address", capture=True)
    token = commands.get("make a token for the smoke test")
    outcome = smoke_test(address, token=run(token, "asking for a token", capture=True) if token else "")
    typer.echo(f"{address}\nSmoke test: {outcome}.\nLog: {shlex.join(commands['read the log'])}")


def _write(wanted: CloudRun | KubeRay, output: Path) -> Mapping[str, Sequence[str]]:
    """Write the files and return the commands."""
    from tickertape.deploy.manifests import write_files

    for path in write_files(output, wanted.files()):
        say(f"wrote {path.as_posix()}")
    return wanted.commands(output.as_posix())


def _show(commands: Mapping[str, Sequence[str]]) -> None:
    """A shell script with a comment for each command."""
    for purpose, command in commands.items():
        typer.echo(f"# {purpose}\n{shlex.join(command)}")
