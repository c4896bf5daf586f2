"""`tickertape deploy cloud-run` and `tickertape deploy kuberay`.

Both write the files that describe the service, then run other programs' commands; with `--dry-run` they only show them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tickertape.deploy.cloud_run import CloudRun

GPU_CPU, GPU_MEMORY = 8, "32Gi"  # that a Cloud Run service with a GPU gets unless told otherwise
CPU, MEMORY = 8, "4Gi"

app = typer.Typer(
    name="deploy", help="Deploy the service to Cloud Run or to a Kubernetes cluster.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip


def added_to(parent: typer.Typer) -> typer.Typer:
    """Add these commands to the command line."""
    parent.add_typer(app)
    return parent


# fmt: off
Output = Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Folder for the generated files.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write the files and print the commands without running them.")]
KeysSecret = Annotated[str, typer.Option(
    "--keys-secret", metavar="NAME", help="Secret with the file of hashed API keys.")]
Project = Annotated[str, typer.Option("--project", help="Google Cloud project.")]
Region = Annotated[str, typer.Option("--region", help="Region, such as europe-west1.")]
Repository = Annotated[str, typer.Option("--repository", help="Artifact Registry repository; created if missing.")]
Service = Annotated[str, typer.Option("--service", help="Name of the service.")]
Baked = Annotated[str, typer.Option(
    "--model", metavar="CHECKPOINT", help="Checkpoint to bake into the image: a folder below this one, or a hub id. "
    "With --bucket: a prepared folder in the bucket.")]
Cpu = Annotated[int | None, typer.Option("--cpu", help="CPUs of an instance.  [default: 8]")]
Memory = Annotated[str | None, typer.Option(
    "--memory", metavar="SIZE", help="Memory of an instance.  [default: 4Gi; 32Gi with a GPU]")]
MaxInstances = Annotated[int, typer.Option("--max-instances", min=1, help="Maximum number of instances.")]
MinInstances = Annotated[int, typer.Option("--min-instances", min=0, help="Minimum number of instances.")]
Gpu = Annotated[str, typer.Option("--gpu", metavar="TYPE", help="nvidia-l4 or nvidia-rtx-pro-6000. Default: no GPU.")]
Concurrency = Annotated[int, typer.Option(
    "--concurrency", min=0, metavar="N", help="Concurrent requests per instance. 0: as many as it can batch.")]
Unauthenticated = Annotated[bool, typer.Option(
    "--allow-unauthenticated", help="Allow requests from the internet without authentication by Google.")]
ServiceAccount = Annotated[str, typer.Option(
    "--service-account", metavar="EMAIL", help="Service account of the service. Default: the project's.")]
Bucket = Annotated[str, typer.Option("--bucket", help="Bucket with prepared checkpoints, mounted read-only.")]
ObjectHosts = Annotated[str, typer.Option(
    "--object-hosts", metavar="NAME,...", help="Hosts, and buckets as gs://NAME, whose recordings callers may name "
    "instead of sending them. Without: none.")]
Ray = Annotated[bool, typer.Option("--ray/--no-ray", help="Run engines on Ray, or everything in one process.")]
Tag = Annotated[str, typer.Option("--tag", help="Tag of the image. Default: the current time.")]
Namespace = Annotated[str, typer.Option("--namespace", help="Namespace; created if missing.")]
Image = Annotated[str, typer.Option("--image", help="Image reference for the cluster's nodes.")]
Name = Annotated[str, typer.Option("--name", help="Name of the service.")]
Path_ = Annotated[str, typer.Option(
    "--model", metavar="FOLDER", help="Prepared checkpoint in the image; with --claim, the folder in the claim.")]
Engines = Annotated[int, typer.Option("--engines", min=1, help="Number of engines, each in its own pod.")]
EnginesMax = Annotated[int, typer.Option("--engines-max", min=1, help="Maximum number of engines under load.")]
PodCpu = Annotated[int, typer.Option("--cpu", min=1, help="CPUs of an engine.")]
PodMemory = Annotated[str, typer.Option("--memory", metavar="SIZE", help="Memory of an engine's pod.")]
Ingresses = Annotated[int, typer.Option("--ingresses", min=1, help="Number of pods for requests and audio decoding.")]
Gpus = Annotated[int, typer.Option("--gpus", min=0, help="GPUs of an engine.")]
Claim = Annotated[str, typer.Option(
    "--claim", metavar="NAME", help="PersistentVolumeClaim with prepared checkpoints, mounted read-only.")]
Context = Annotated[str, typer.Option("--context", help="kubectl's context. Default: the current one.")]
# fmt: on


@app.command("cloud-run")
def cloud_run(  # noqa: PLR0917 - typer passes them all by name
    project: Project,
    region: Region,
    repository: Repository = "tickertape",
    service: Service = "tickertape",
    model: Baked = "checkpoint",
    cpu: Cpu = None,
    memory: Memory = None,
    max_instances: MaxInstances = 2,
    min_instances: MinInstances = 0,
    gpu: Gpu = "",
    concurrency: Concurrency = 0,
    allow_unauthenticated: Unauthenticated = False,
    service_account: ServiceAccount = "",
    keys_secret: KeysSecret = "",
    bucket: Bucket = "",
    object_hosts: ObjectHosts = "",
    ray: Ray = True,
    tag: Tag = "",
    output: Output = Path("deploy"),
    dry_run: DryRun = False,
) -> None:
    """Build the image with Cloud Build, deploy it to Cloud Run, and test it. Run this in the checkout.

    Callers must be allowed by the project (roles/run.invoker) unless asked otherwise.

    \b
    Examples:
      tickertape deploy cloud-run --project my-project --region europe-west1 --dry-run
      tickertape deploy cloud-run --project my-project --region europe-west1 --model ./my-checkpoint
      tickertape deploy cloud-run --project my-project --region europe-west4 --gpu nvidia-l4
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.deploy.cloud_run import CloudRun

    wanted = CloudRun(
        project=project, region=region, repository=repository, service=service, model=model,
        cpu=cpu or (GPU_CPU if gpu else CPU), memory=memory or (GPU_MEMORY if gpu else MEMORY),
        max_instances=max_instances, min_instances=min_instances, gpu=gpu, concurrency=concurrency,
        allow_unauthenticated=allow_unauthenticated, service_account=service_account, keys_secret=keys_secret,
        bucket=bucket, object_hosts=object_hosts, ray=ray,
        tag=tag or datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S"),
    )  # fmt: skip
    _check_model(wanted)
    _write(output, wanted.files())
    commands = wanted.commands(output.as_posix())
    if allow_unauthenticated:
        _say("everybody on the internet will be able to call the service, and you pay for it")
    if dry_run:
        _show(commands)
        return
    _to_cloud_run(wanted, commands)


@app.command("kuberay")
def kuberay(  # noqa: PLR0917 - typer passes them all by name
    namespace: Namespace,
    image: Image,
    name: Name = "tickertape",
    model: Path_ = "/srv/models/demo",
    engines: Engines = 2,
    engines_max: EnginesMax = 4,
    cpu: PodCpu = 4,
    memory: PodMemory = "8Gi",
    ingresses: Ingresses = 2,
    gpus: Gpus = 0,
    claim: Claim = "",
    keys_secret: KeysSecret = "",
    object_hosts: ObjectHosts = "",
    context: Context = "",
    output: Output = Path("deploy"),
    dry_run: DryRun = False,
) -> None:
    """Run the service on a Kubernetes cluster that has KubeRay.

    \b
    Examples:
      tickertape deploy kuberay --namespace speech --image registry.example/tickertape:1 --dry-run
      tickertape deploy kuberay --namespace speech --image registry.example/tickertape:1 --engines-max 16
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.deploy.commands import run
    from tickertape.deploy.kuberay import KubeRay

    wanted = KubeRay(
        namespace=namespace, image=image, name=name, model=model, engines=engines, engines_max=engines_max, cpu=cpu,
        memory=memory, ingresses=ingresses, gpus=gpus, claim=claim, keys_secret=keys_secret,
        object_hosts=object_hosts, context=context,
    )  # fmt: skip
    _write(output, wanted.files())
    commands = wanted.commands(output.as_posix())
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
        raise CommandError("gcloud is not logged in. Run: gcloud auth login", "not_logged_in")
    enabled = run(commands["list the enabled APIs"], "looking for the APIs", capture=True).split()
    if missing := [name for name in SERVICES if name not in enabled]:
        advice = f"gcloud services enable {' '.join(missing)} --project={wanted.project}"
        raise CommandError(f"The project lacks {len(missing)} API(s). Run: {advice}", "api_disabled")
    try:
        run(commands["look for the repository"], "looking for the repository", capture=True)
    except CommandError as error:
        if error.code != "not_found":
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


def _check_model(wanted: CloudRun) -> None:
    """Raise `OptionError` for a folder outside the checkout, which the build cannot read."""
    from tickertape.errors import OptionError

    folder = Path(wanted.model)
    outside = folder.is_absolute() or ".." in folder.parts
    if outside and not wanted.bucket:
        raise OptionError("--model must be a folder below this one, or a hub id: Cloud Build gets no other.", "model")


def _write(output: Path, files: Mapping[str, str]) -> None:
    from tickertape.deploy.manifests import write_files

    for path in write_files(output, files):
        _say(f"wrote {path.as_posix()}")


def _show(commands: Mapping[str, Sequence[str]]) -> None:
    """A shell script with a comment for each command."""
    for purpose, command in commands.items():
        typer.echo(f"# {purpose}\n{shlex.join(command)}")


def _say(text: str) -> None:
    typer.echo(f"tickertape: {text}", err=True)
