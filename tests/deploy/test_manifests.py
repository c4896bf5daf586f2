"""Deployment: the files against published schemas, the commands against a gcloud and a kubectl that only pretend."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from pydantic import ValidationError

import tickertape.cli.main as cli
from scripts import dashboards
from tickertape.cluster.serve import LEAVING
from tickertape.deploy.cloud_run import CloudRun
from tickertape.deploy.kuberay import KubeRay
from tickertape.deploy.manifests import memory_bytes
from tickertape.deploy.smoke_test import smoke_test
from tickertape.errors import OptionError
from tickertape.server import metrics
from tickertape.server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PLAIN = CloudRun(project="my-project", region="europe-west1", tag="1")
FULL = CloudRun(
    project="my-project", region="europe-west4", tag="1", gpu="nvidia-l4", memory="32Gi", concurrency=16,
    min_instances=1, service_account="tape@my-project.iam.gserviceaccount.com", keys_secret="keys", bucket="models",  # noqa: S106 - a name
    model="calls", allow_unauthenticated=True, ray=False, object_hosts="gs://calls,store.example",
)  # fmt: skip
CLUSTER = KubeRay(namespace="speech", image="registry.example/tickertape:1")
FULL_CLUSTER = KubeRay(
    namespace="speech",
    image="registry.example/tickertape:1",
    claim="models",
    model="calls",
    keys_secret="keys",  # noqa: S106 - a name
    object_hosts="gs://calls,store.example",
    gpus=1,
)


# ---- Cloud Run: files ----


def test_the_example_files_are_current() -> None:
    """The files in deploy/ are what the commands write for the example project."""
    for name, content in {**PLAIN.files(), **CLUSTER.files()}.items():
        assert content == (DEPLOY / name).read_text(), name
    for name, content in dashboards.files().items():
        assert content == (DEPLOY / "observe" / name).read_text(), name


@pytest.mark.parametrize("wanted", [PLAIN, FULL], ids=["plain", "full"])
def test_the_service_is_what_cloud_run_publishes(wanted: CloudRun) -> None:
    """The service has only fields that Google's own description of the API knows, of the right types."""
    assert _complaints("run.v1", "Service", wanted.description()) == []


def test_the_annotations_are_known() -> None:
    """Every annotation is one that Google's description lists for services or revisions."""
    known = _schemas("run.v1")["ObjectMeta"]["properties"]["annotations"]["description"]
    spec = FULL.description()
    used = {**spec["metadata"]["annotations"], **spec["spec"]["template"]["metadata"]["annotations"]}
    assert [name for name in used if f"`{name}`" not in known] == []


def test_the_build_is_what_cloud_build_publishes() -> None:
    """The build has only fields that Google's own description of the API knows, of the right types."""
    assert _complaints("cloudbuild.v1", "Build", yaml.safe_load(PLAIN.files()["cloudbuild.yaml"])) == []


def test_schemas_find_mistakes() -> None:
    """The comparison with a description fails for an unknown field and for a wrong type."""
    assert _complaints("run.v1", "Service", {"spec": {"template": {"spec": {"timeoutSecond": 3}}}}) == [
        "Service.spec.template.spec.timeoutSecond is unknown"
    ]
    assert _complaints("run.v1", "Service", {"kind": 3}) == ["Service.kind is not a string"]


def test_limits_follow_from_the_container() -> None:
    """Concurrency is two batches of what the service derives there; time is up after the service's own limit."""
    spec = PLAIN.description()["spec"]["template"]["spec"]
    assert 2 * PLAIN.settings.batch == spec["containerConcurrency"]
    assert spec["timeoutSeconds"] > Settings().request_timeout
    probe = spec["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= 240


def test_the_grace_fits_into_cloud_runs_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Cloud Run, which kills 10 s after SIGTERM, the process is gone before, however long requests would take."""
    assert Settings.load().grace_seconds > 10
    monkeypatch.setenv("K_SERVICE", "tickertape")
    assert Settings.load().grace_seconds + LEAVING < 10


def test_everything_that_was_asked_for_is_in_the_service() -> None:
    """GPU, bucket, keys and account reach the description of the service."""
    revision = FULL.description()["spec"]["template"]
    container = revision["spec"]["containers"][0]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}
    assert revision["spec"]["nodeSelector"] == {"run.googleapis.com/accelerator": "nvidia-l4"}
    assert revision["metadata"]["annotations"]["run.googleapis.com/cpu-throttling"] == "false"
    assert {"/srv/bucket", "/etc/tickertape"} == {mount["mountPath"] for mount in container["volumeMounts"]}
    assert environment["TICKERTAPE_MODEL"] == "/srv/bucket/calls"
    assert environment["TICKERTAPE_KEYS_FILE"] == "/etc/tickertape/keys.json"
    assert environment["TICKERTAPE_RAY"] == "false"
    assert environment["TICKERTAPE_OBJECT_HOSTS"] == "gs://calls,store.example"


@pytest.mark.parametrize("wanted", [PLAIN, FULL], ids=["plain", "full"])
def test_the_service_takes_the_environment(wanted: CloudRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings accept every variable that the service is given."""
    container = wanted.description()["spec"]["template"]["spec"]["containers"][0]
    for entry in container["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    assert Settings.load().project == "my-project"


@pytest.mark.parametrize(
    ("knobs", "option"),
    [
        ({"cpu": 3}, "cpu"),
        ({"cpu": 8, "memory": "2Gi"}, "memory"),
        ({"memory": "64Gi"}, "memory"),
        ({"memory": "lots"}, "memory"),
        ({"gpu": "nvidia-l4", "memory": "4Gi"}, "gpu"),
        ({"model": "../elsewhere"}, "model"),
        ({"gpu": "voodoo"}, "gpu"),
        ({"concurrency": 1001}, "concurrency"),
        ({"min_instances": 3}, "max_instances"),
        ({"service": "Tape"}, "service"),
    ],
)
def test_what_cloud_run_would_refuse_is_refused_at_once(knobs: dict[str, Any], option: str) -> None:
    """Sizes that Cloud Run does not offer are named before anything is built."""
    with pytest.raises(OptionError) as caught:
        CloudRun(**{"project": "p", "region": "r", **knobs})
    assert option == caught.value.param


# ---- Cloud Run: commands ----


def test_a_service_with_a_gpu_has_more_memory() -> None:
    """Unless it is given, the memory is 4 GiB, and 32 GiB with a GPU."""
    assert ("4Gi", "32Gi") == tuple(CloudRun("p", "r", gpu=gpu).memory for gpu in ("", "nvidia-l4"))


def test_the_commands_are_argument_lists() -> None:
    """The commands, word by word."""
    project, region = "--project=my-project", "--region=europe-west1"
    image = "europe-west1-docker.pkg.dev/my-project/tickertape/tickertape:1"
    located = ("tickertape", "--location=europe-west1", project)
    assert {
        "show the account": ("gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"),
        "list the enabled APIs": (
            "gcloud", "services", "list", "--enabled", project, "--format=value(config.name)"),
        "look for the repository": (
            "gcloud", "artifacts", "repositories", "describe", *located, "--format=value(name)"),
        "create the repository": (
            "gcloud", "artifacts", "repositories", "create", *located, "--repository-format=docker"),
        "build the image": (
            "gcloud", "builds", "submit", ".", "--config=deploy/cloudbuild.yaml", "--ignore-file=.dockerignore",
            project, f"--substitutions=_IMAGE={image},_MODEL=openai/whisper-base,_VARIANT=cpu"),
        "deploy": ("gcloud", "run", "services", "replace", "deploy/cloudrun.yaml", project, region),
        "show the address": (
            "gcloud", "run", "services", "describe", "tickertape", project, region, "--format=value(status.url)"),
        "make a token for the smoke test": ("gcloud", "auth", "print-identity-token"),
        "read the log": ("gcloud", "run", "services", "logs", "read", "tickertape", project, region, "--limit=100"),
    } == PLAIN.commands("deploy")  # fmt: skip


def test_opening_to_everybody_is_a_command_of_its_own() -> None:
    """Only `--allow-unauthenticated` grants the internet access, and then no token is asked for."""
    commands = FULL.commands("deploy")
    assert "--member=allUsers" in commands["allow public access"]
    assert "make a token for the smoke test" not in commands
    assert not any("allUsers" in word for command in PLAIN.commands("deploy").values() for word in command)


class Programs:
    """gcloud and kubectl that write down how they were called and answer from a table."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls"
        self.answers: dict[str, tuple[int, str, str]] = {}  # beginning of the call: exit code, output, complaint

    def answer(self, call: str, output: str = "", *, code: int = 0, complaint: str = "") -> None:
        """What the program says to a call that contains these words."""
        self.answers[call] = (code, output, complaint)

    def install(self) -> None:
        """Write the programs."""
        lines = ["#!/bin/sh", f'echo "$(basename "$0") $*" >> {self.calls}', 'case "$(basename "$0") $*" in']
        for number, (call, (code, output, complaint)) in enumerate(self.answers.items()):
            (self.folder / f"out{number}").write_text(output)
            (self.folder / f"err{number}").write_text(complaint)
            lines.append(f'"{call}"*) cat {self.folder}/out{number}; cat {self.folder}/err{number} >&2; exit {code};;')
        lines.append("esac")
        for name in ("gcloud", "kubectl"):
            path = self.folder / name
            path.write_text("\n".join(lines) + "\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def called(self) -> list[str]:
        """The calls in their order."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str) -> Programs:
    """Programs for which all is well, first on the PATH; the current folder is empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    found = Programs(folder)
    found.answer("gcloud auth list", "me@example.org\n")
    found.answer("gcloud services list", "\n".join(
        ("artifactregistry.googleapis.com", "cloudbuild.googleapis.com", "run.googleapis.com", "storage.googleapis.com")
    ))  # fmt: skip
    found.answer("gcloud run services describe", f"{service}\n")
    found.answer("gcloud auth print-identity-token", "a-token\n")
    return found


@pytest.fixture
def service() -> Iterator[str]:
    """A service that transcribes whatever comes with the token of the programs; paths below /locked want a key."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            allowed = self.headers["X-Serverless-Authorization"] == "Bearer a-token"
            locked = self.path.startswith("/locked")
            status = 401 if locked else 200 if allowed and b"RIFF" in body else 403
            answer = b'{"error": {"code": "invalid_api_key"}}' if locked else b'{"text": ""}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


CLOUD_RUN = ["deploy", "cloud-run", "--project", "my-project", "--region", "europe-west1", "--tag", "1"]


def test_a_deployment(programs: Programs, capsys: pytest.CaptureFixture[str], service: str) -> None:
    """All commands run in order; the address, the smoke test's outcome and the log's command are printed."""
    programs.install()
    assert cli.main(CLOUD_RUN) == 0
    expected = [" ".join(command) for name, command in PLAIN.commands("deploy").items()]
    expected = [call for call in expected if "repositories create" not in call and "logs read" not in call]
    assert expected == programs.called
    assert PLAIN.files()["cloudrun.yaml"] == Path("deploy/cloudrun.yaml").read_text()
    printed = capsys.readouterr().out
    assert printed.startswith(f"{service}\nSmoke test: it transcribes.\n")
    assert "gcloud run services logs read tickertape" in printed


def test_a_missing_repository_is_created(programs: Programs) -> None:
    """The repository is created exactly when there is none."""
    programs.answer("gcloud artifacts repositories describe", code=1, complaint="ERROR: NOT_FOUND: Requested entity")
    programs.install()
    assert cli.main(CLOUD_RUN) == 0
    assert sum("repositories create" in call for call in programs.called) == 1


def test_a_rehearsal_runs_nothing(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` writes the files and prints every command, but runs none."""
    programs.install()
    assert cli.main([*CLOUD_RUN, "--dry-run", "--allow-unauthenticated"]) == 0
    output = capsys.readouterr()
    assert programs.called == []
    assert Path("deploy/cloudbuild.yaml").exists()
    assert "gcloud builds submit . --config=deploy/cloudbuild.yaml" in output.out
    assert "everybody on the internet will be able to call the service" in output.err


@pytest.mark.parametrize(
    ("call", "complaint", "said"),
    [
        ("gcloud auth list", "", "gcloud is not logged in. Run: gcloud auth login"),
        ("gcloud services list", "ERROR: (gcloud.services.list) You do not currently have an active account selected.",
         "looking for the APIs: gcloud is not logged in. Run: gcloud auth login"),
        ("gcloud services list", "ERROR: PERMISSION_DENIED: Service Usage API has not been used in project 1 before",
         "gcloud services enable run.googleapis.com cloudbuild.googleapis.com artifactregistry.googleapis.com"),
        ("gcloud builds submit", "ERROR: (gcloud.builds.submit) build 1234 completed with status \"FAILURE\"",
         "building the image: Cloud Build could not build the image; see its log above."),
        ("gcloud builds submit", "ERROR: a surprise", "building the image: failed. ERROR: a surprise"),
        ("gcloud builds submit", "ERROR: PERMISSION_DENIED: This API method requires billing to be enabled",
         "building the image: The project has no billing account."),
        ("gcloud services list", "HTTPSConnectionPool: Failed to establish a new connection: Name or service not known",
         "looking for the APIs: Google Cloud cannot be reached from here"),
        ("gcloud artifacts repositories describe", "ERROR: INVALID_ARGUMENT: Location mars-1 is not found or supported",
         "Google Cloud has no such region"),
        ("gcloud run services replace", "PERMISSION_DENIED: Permission 'iam.serviceaccounts.actAs' denied on service",
         "deploying: The account may not act as the service's own"),
        ("gcloud run services replace", "Secret projects/1/secrets/keys/versions/latest was not found",
         "deploying: The secret of --keys-secret is missing"),
        ("gcloud builds submit", "ERROR: FAILED_PRECONDITION: due to quota restrictions, cannot run builds",
         "building the image: The project's quota is too small."),
        ("gcloud run services replace", "Quota violated:\nCpuAllocPerProjectRegion requested: 60000 allowed: 20000",
         "deploying: The project's quota is too small."),
        ("gcloud run services replace", "The user-provided container failed to start and listen on the port",
         "deploying: The container did not become ready in time."),
        ("gcloud run services replace", "ERROR: PERMISSION_DENIED: Permission 'run.services.create' denied",
         "deploying: The account may not do this"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_failures_say_what_to_do(
    programs: Programs, capsys: pytest.CaptureFixture[str], call: str, complaint: str, said: str
) -> None:
    """What gcloud complains of becomes one line that says how to mend it, and the command ends with code 2."""
    programs.answer(call, "", code=1 if complaint else 0, complaint=complaint + "\n")
    programs.install()
    assert cli.main(CLOUD_RUN) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("tickertape: ")
    assert said in last
    assert call.split()[1:3] == programs.called[-1].split()[1:3]


def test_disabled_apis_are_named(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that enables exactly the missing APIs is printed."""
    programs.answer("gcloud services list", "run.googleapis.com\n")
    programs.install()
    assert cli.main(CLOUD_RUN) == 2
    advice = "gcloud services enable cloudbuild.googleapis.com artifactregistry.googleapis.com --project=my-project"
    assert advice in capsys.readouterr().err


def test_a_missing_program_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without gcloud the user hears that it is not installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main([*CLOUD_RUN, "--output", str(tmp_path)]) == 2
    assert "gcloud is not installed" in capsys.readouterr().err


def test_a_folder_that_cloud_build_cannot_see_is_refused(programs: Programs) -> None:
    """A checkpoint outside the current folder is refused before anything runs."""
    programs.install()
    assert cli.main([*CLOUD_RUN, "--model", "../elsewhere"]) == 2
    assert programs.called == []


def test_smoke_tests_tell_apart(service: str) -> None:
    """A wrong answer is a failure; a service that asks for a key has answered."""
    with pytest.raises(Exception, match="answered 403"):
        smoke_test(service, token="wrong")  # noqa: S106 - ours
    assert smoke_test(f"{service}/locked", token="a-token") == "it answers, and asks for an API key"  # noqa: S106 - ours
    with pytest.raises(Exception, match="no proper answer"):
        smoke_test("http://127.0.0.1:1")


# ---- KubeRay ----


@pytest.mark.parametrize("wanted", [CLUSTER, FULL_CLUSTER], ids=["plain", "full"])
def test_kubernetes_objects_follow_their_schemas(wanted: KubeRay) -> None:
    """Everything but the RayService passes Kubernetes' strict schemas, and so do its pods, as pods."""
    validate = pytest.importorskip("kubernetes_validate").validate
    for document in wanted.documents():
        if document["kind"] != "RayService":
            validate(document, "1.31", strict=True)
    for template in _templates(wanted):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {**pod["metadata"], "name": "pod"}
        validate(pod, "1.31", strict=True)


@pytest.mark.parametrize("wanted", [CLUSTER, FULL_CLUSTER], ids=["plain", "full"])
@pytest.mark.slow
def test_the_ray_service_follows_its_definition(wanted: KubeRay) -> None:
    """KubeRay knows every field, with its type, and misses none; its operator's rules are kept."""
    pytest.importorskip("kubernetes_validate")
    from tests.support.kuberay import RayService

    RayService.model_validate(_ray_service(wanted))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("kind", "RayJob"),
        ("metadata.name", "t" * 48),
        ("spec.excludeHeadPodFromServeSvc", "yes"),
        ("spec.serveConfigV2", {}),
        ("spec.serveConfig", ""),
        ("spec.upgradeStrategy", {"type": "Recreate"}),
        ("spec.rayClusterConfig.headGroupSpec", None),
        ("spec.rayClusterConfig.rayVersion", "2.51.1"),
        ("spec.rayClusterConfig.authOptions.mode", "password"),
        ("spec.rayClusterConfig.autoscalerOptions.upscalingMode", "Fast"),
        ("spec.rayClusterConfig.autoscalerOptions.idleTimeout", 60),
        ("spec.rayClusterConfig.autoscalerOptions.securityContext.runAsUser", "root"),
        ("spec.rayClusterConfig.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.rayClusterConfig.headGroupSpec.rayStartParams.labels", "a=b"),
        ("spec.rayClusterConfig.headGroupSpec.resources", {"CPU": "0"}),
        ("spec.rayClusterConfig.headGroupSpec.template.spec.containers", []),
        ("spec.rayClusterConfig.workerGroupSpecs.0.maxReplicas", None),
        ("spec.rayClusterConfig.workerGroupSpecs.0.replica", 1),
        ("spec.rayClusterConfig.workerGroupSpecs.1.template.spec.container", []),
        ("spec.rayClusterConfig.workerGroupSpecs.1.template.spec.containers.0.ports.0.containerPort", "http"),
    ],
)
@pytest.mark.slow
def test_the_definition_finds_mistakes(place: str, value: Any) -> None:
    """Each of these is refused, and by itself: everything else in the document is right."""
    pytest.importorskip("kubernetes_validate")
    from tests.support.kuberay import RayService

    document = copy.deepcopy(_ray_service(CLUSTER))
    *path, last = place.split(".")
    inner: Any = document
    for step in path:
        inner = inner[int(step) if isinstance(inner, list) else step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    with pytest.raises(ValidationError):
        RayService.model_validate(document)


def test_a_name_that_kuberay_would_refuse_is_refused() -> None:
    """KubeRay adds to the name; what becomes too long by that is found before anything is written."""
    KubeRay(namespace="speech", image="registry.example/tickertape:1", name="t" * 47)
    with pytest.raises(OptionError, match="47"):
        KubeRay(namespace="speech", image="registry.example/tickertape:1", name="t" * 48)


@pytest.mark.parametrize("wanted", [CLUSTER, FULL_CLUSTER], ids=["plain", "full"])
def test_pods_are_restricted(wanted: KubeRay) -> None:
    """Every container satisfies Kubernetes' restricted profile, writes only to its volumes, and has all probes.

    No pod gets variables for the namespace's Services: `TICKERTAPE_PORT` and its like would look like settings.
    """
    for template in _templates(wanted):
        (container,) = template["spec"]["containers"]
        context = container["securityContext"]
        assert not context["allowPrivilegeEscalation"]
        assert context["readOnlyRootFilesystem"]
        assert context["runAsNonRoot"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        assert template["spec"]["enableServiceLinks"] is False
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}


@pytest.mark.slow
def test_serve_accepts_the_configuration() -> None:
    """Ray Serve's own schema takes the configuration; its applications are the ones of `tickertape serve`."""
    schema = pytest.importorskip("ray.serve.schema")
    config = yaml.safe_load(_ray_service(FULL_CLUSTER)["spec"]["serveConfigV2"])
    parsed = schema.ServeDeploySchema.model_validate(config)
    assert ["tickertape", "page"] == [application.name for application in parsed.applications]
    assert ["/", "/page"] == [application.route_prefix for application in parsed.applications]
    assert FULL_CLUSTER.settings.keep_alive == parsed.http_options.keep_alive_timeout_s


@pytest.mark.parametrize("name", ["api", "page"])
def test_the_configuration_builds_the_applications(name: str) -> None:
    """What the configuration names can be imported and called; engines scale between the figures asked for."""
    pytest.importorskip("ray.serve.schema")  # which, when first imported, uses what pydantic deprecates
    from tickertape.cluster import serve

    config = CLUSTER.serve_config()
    assert {f"tickertape.cluster.serve:{each}" for each in ("api", "page")} == {
        application["import_path"] for application in config["applications"]
    }
    bound = getattr(serve, name)(config["applications"][0]["args"])
    assert {"api": "tickertape", "page": "page"}[name] == bound._bound_deployment.name
    ingress = bound._bound_deployment
    assert config["applications"][0]["args"]["body_limit"] == ingress.init_args[1].body_limit
    if name == "api":
        (engine,) = bound._bound_deployment.init_args[0].values()
        scaling = engine._bound_deployment._deployment_config.autoscaling_config
        assert (2, 4) == (scaling.min_replicas, scaling.max_replicas)


def test_a_cluster_deployment(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """The manifest is written and applied, the service waited for, and the ways to reach it are printed."""
    programs.install()
    flags = ["--namespace", "speech", "--image", "registry.example/tickertape:1"]
    assert cli.main(["deploy", "kuberay", *flags]) == 0
    assert programs.called == [
        "kubectl get crd rayservices.ray.io --output=name",
        "kubectl apply --filename=deploy/kuberay.yaml",
        "kubectl wait --namespace=speech --for=condition=Ready rayservice/tickertape --timeout=15m",
    ]
    assert CLUSTER.files()["kuberay.yaml"] == Path("deploy/kuberay.yaml").read_text()
    assert "kubectl port-forward --namespace=speech service/tickertape 8080:8080" in capsys.readouterr().out


def test_requests_enter_by_ingress_pods() -> None:
    """The Service that callers use picks the ingress pods and no others, on the port where their proxies listen."""
    (service,) = [document for document in CLUSTER.documents() if document["kind"] == "Service"]
    picked = [
        template["metadata"]["labels"]["app.kubernetes.io/component"]
        for template in _templates(CLUSTER)
        if service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ]
    assert picked == ["ingress"]
    port = service["spec"]["ports"][0]["targetPort"]
    ingress = _ray_service(CLUSTER)["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]
    assert port in {entry["containerPort"] for entry in ingress["spec"]["containers"][0]["ports"]}


@pytest.mark.parametrize(
    ("call", "complaint", "said"),
    [
        ("kubectl get", "The connection to the server localhost:8080 was refused", "kubectl reaches no cluster."),
        ("kubectl get", 'Error from server (NotFound): "rayservices.ray.io" not found', "does not have KubeRay"),
        ("kubectl apply", "Error from server (Forbidden): is forbidden", "The account may not do this"),
        ("kubectl wait", "error: timed out waiting for the condition", "did not become ready in time"),
    ],
)
def test_failures_of_a_cluster_say_what_to_do(
    programs: Programs, capsys: pytest.CaptureFixture[str], call: str, complaint: str, said: str
) -> None:
    """What kubectl complains of becomes one line that says how to mend it."""
    programs.answer(call, code=1, complaint=complaint + "\n")
    programs.install()
    assert cli.main(["deploy", "kuberay", "--namespace", "speech", "--image", "i"]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("wanted", "addresses"), [(CLUSTER, 0), (FULL_CLUSTER, 2)], ids=["plain", "buckets"])
def test_only_buckets_open_the_way_to_a_token(wanted: KubeRay, addresses: int) -> None:
    """Pods may ask the metadata server who they are exactly if objects of buckets are to be fetched."""
    (policy,) = [document for document in wanted.documents() if document["kind"] == "NetworkPolicy"]
    blocks = [to for rule in policy["spec"]["egress"] for to in rule.get("to", []) if "ipBlock" in to]
    assert addresses == len(blocks)


def test_contradictions_are_refused() -> None:
    """Fewer engines at most than at least, an absolute folder in a claim, and hosts that are none, are refused."""
    wrong = (
        {"engines": 5, "engines_max": 4},
        {"cpu": 0},
        {"ingresses": 0},
        {"gpus": -1},
        {"claim": "models", "model": "/srv/models/default"},
        {"object_hosts": "https://a.example"},
    )
    for knobs in wrong:
        with pytest.raises(OptionError):
            KubeRay(**{"namespace": "n", "image": "i", **knobs}).files()  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "size"), [("4Gi", 4 * 2**30), ("512Mi", 2**29), ("2G", 2 * 10**9), ("7", 7)])
def test_sizes(text: str, size: int) -> None:
    """Sizes are read as Kubernetes reads them."""
    assert size == memory_bytes(text, "memory")


# ---- Terraform ----


def test_the_module_has_the_same_knobs() -> None:
    """The module's variables are the command's knobs with the same defaults, the image aside."""
    module = _terraform()
    variables = {name: body for entry in module["variable"] for name, body in entry.items()}
    knobs = {
        name: field.default for name, field in CloudRun.__dataclass_fields__.items() if name not in {"tag", "model"}
    }
    knobs["memory"] = CloudRun("p", "r").memory
    assert {*knobs, "image", "model"} == set(variables)
    for name, default in knobs.items():
        if isinstance(default, str | int):
            assert default == variables[name].get("default"), name


def test_the_module_uses_every_variable_and_names_nothing_else() -> None:
    """Every variable is used, and everything that is referred to is there."""
    module = _terraform()
    text = "\n".join(path.read_text() for path in (DEPLOY / "terraform").glob("*.tf"))
    variables = {name for entry in module["variable"] for name in entry}
    assert variables == set(re.findall(r"\bvar\.(\w+)", text))
    resources_ = {(kind, name) for entry in module["resource"] for kind, named in entry.items() for name in named}
    referred = set(re.findall(r"\b(google_\w+)\.(\w+)\.", text))
    assert referred <= resources_


# ---- what watches it ----


def test_every_metric_has_a_panel() -> None:
    """The dashboard shows each metric of the table once, and asks for no other."""
    panels = dashboards.dashboard()["panels"]
    assert [metrics.PREFIX + name for name in metrics.METRICS] == [panel["description"] for panel in panels]
    for panel in panels:
        assert all(panel["description"] in target["expr"] for target in panel["targets"])


def test_alerts_ask_for_metrics_that_exist() -> None:
    """Every series that an alert names is in the table of metrics."""
    for rule in dashboards.alerts()["groups"][0]["rules"]:
        named = re.findall(rf"{metrics.PREFIX}(\w+)", rule["expr"])
        assert named
        assert all(name.removesuffix("_bucket") in metrics.METRICS for name in named), rule["alert"]


QUIET = {
    'ready{instance="a"}': "1+0x200",
    'requests_total{endpoint="e",model="m",status="200",code=""}': "0+97x200",
    'queue_seconds_bucket{model="m",le="10"}': "0+10x200",
    'queue_seconds_bucket{model="m",le="30"}': "0+10x200",
    'queue_seconds_bucket{model="m",le="+Inf"}': "0+10x200",
    'real_time_factor_bucket{model="m",le="1"}': "0+10x200",
    'real_time_factor_bucket{model="m",le="2"}': "0+10x200",
    'real_time_factor_bucket{model="m",le="+Inf"}': "0+10x200",
    'windows_total{model="m"}': "0+10x200",
    'fallbacks_total{model="m"}': "0+1x200",
}
TROUBLE: dict[str, dict[str, str | None]] = {
    "TickertapeNotReady": {'ready{instance="a"}': "0+0x200"},
    "TickertapeGone": {'ready{instance="a"}': None},
    "TickertapeErrors": {'requests_total{endpoint="e",model="m",status="500",code="x"}': "0+3x200"},
    "TickertapeFull": {'requests_total{endpoint="e",model="m",status="503",code="overloaded"}': "0+10x200"},
    "TickertapeQueue": {'queue_seconds_bucket{model="m",le="10"}': "0+5x200"},
    "TickertapeSlow": {'real_time_factor_bucket{model="m",le="1"}': "0+1x200"},
    "TickertapeFallbacks": {'fallbacks_total{model="m"}': "0+6x200"},
}
LABELS = {"TickertapeNotReady": {"instance": "a"}, "TickertapeQueue": {"model": "m"}, "TickertapeSlow": {"model": "m"},
          "TickertapeFallbacks": {"model": "m"}}  # fmt: skip


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """Prometheus' own tool: the rules are valid, and each fires for its trouble, after its time, and for no other."""
    rules = dashboards.alerts()["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == set(TROUBLE)
    (tmp_path / "rules.yaml").write_text(dashboards.files()["alerts.yaml"])
    cases = []
    for trouble in (None, *TROUBLE):
        series = {**QUIET, **TROUBLE.get(trouble or "", {})}
        expected = {
            rule["alert"]: [{
                "exp_labels": {**rule["labels"], **LABELS.get(rule["alert"], {})},
                "exp_annotations": rule["annotations"],
            }] if rule["alert"] == trouble else []
            for rule in rules
        }  # fmt: skip
        cases.append({
            "interval": "1m",
            "input_series": [
                {"series": metrics.PREFIX + name, "values": values} for name, values in series.items() if values
            ],
            "alert_rule_test": [
                {"eval_time": "150m", "alertname": name, "exp_alerts": alerts} for name, alerts in expected.items()
            ],
        })  # fmt: skip
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": cases}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "cases.yaml")], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr.replace("  SUCCESS\n", ""))


# ---- the image ----


def test_locks_hold_hashes_and_no_addresses() -> None:
    """Every locked package has a hash, no lock names a host, and none brings PyTorch."""
    for path in DEPLOY.glob("*.lock"):
        entries = path.read_text().replace("\\\n", " ").splitlines()
        assert all("--hash=sha256:" in entry for entry in entries if entry and not entry.startswith("#")), path.name
        assert "://" not in path.read_text()
        assert not re.search(r"(?m)^torch==", path.read_text())


def test_the_lock_holds_what_serving_needs() -> None:
    """Every dependency of the package and of its extra `serve` is locked, at a version that they allow."""
    locked = dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (DEPLOY / "requirements.lock").read_text()))
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.search(r"\ndependencies = \[\n(.*?)\n\]", project, re.DOTALL)
    serve = re.search(r"\nserve = \[\n(.*?)\n\]", project, re.DOTALL)
    assert wanted is not None
    assert serve is not None
    needed = [Requirement(line) for line in re.findall(r'(?m)^\s*"([^"]+)"', f"{wanted[1]}\n{serve[1]}")]
    assert len(needed) > 10
    assert [str(each) for each in needed if not each.specifier.contains(locked.get(each.name, "0"))] == []


def test_the_dockerfile_keeps_its_promises() -> None:
    """Hash-checked wheels only, a user that is not root, a health check, labels, nothing fetched by the last stage."""
    stages = re.split(r"(?m)^FROM ", (DEPLOY / "Dockerfile").read_text())
    final = stages[-1]
    assert "--require-hashes --only-binary=:all:" in stages[1]
    assert re.search(r"(?m)^USER 65532:65532$", final)
    assert re.search(r"(?m)^HEALTHCHECK ", final)
    assert "org.opencontainers.image.title" in final
    assert not re.search(r"\b(pip|apt-get|gcc|curl)\b", final)


# ---- helpers ----


def _schemas(api: str) -> dict[str, Any]:
    """Google's description of an API, as its client library carries it."""
    pytest.importorskip("googleapiclient")
    documents = resources.files("googleapiclient.discovery_cache") / "documents"
    found: dict[str, Any] = json.loads((documents / f"{api}.json").read_text("utf-8"))["schemas"]
    return found


def _complaints(api: str, name: str, value: Any) -> list[str]:
    """Where a value differs from a description: unknown fields and wrong types."""
    schemas = _schemas(api)
    kinds = {"string": str, "integer": int, "boolean": bool, "number": (int, float)}

    def look(schema: dict[str, Any], value: Any, where: str) -> Iterator[str]:
        if "$ref" in schema:
            schema = {"type": "object", **schemas[schema["$ref"]]}
        kind = schema["type"]
        if kind == "object":
            known, others = schema.get("properties", {}), schema.get("additionalProperties")
            for key, inner in value.items() if isinstance(value, dict) else ():
                if key not in known and others is None:
                    yield f"{where}.{key} is unknown"
                else:
                    yield from look(known.get(key, others), inner, f"{where}.{key}")
        elif kind == "array":
            for number, inner in enumerate(value):
                yield from look(schema["items"], inner, f"{where}[{number}]")
        elif not isinstance(value, kinds[kind]) or isinstance(value, bool) != (kind == "boolean"):
            yield f"{where} is not a {kind}"
        elif "enum" in schema and value not in schema["enum"]:
            yield f"{where} is none of the known values"

    return list(look({"$ref": name}, value, name))


def _ray_service(wanted: KubeRay) -> dict[str, Any]:
    return next(document for document in wanted.documents() if document["kind"] == "RayService")


def _templates(wanted: KubeRay) -> list[dict[str, Any]]:
    cluster = _ray_service(wanted)["spec"]["rayClusterConfig"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def _terraform() -> dict[str, list[dict[str, Any]]]:
    """The module's blocks by kind, without the parser's quotes and marks."""
    hcl2 = pytest.importorskip("hcl2")
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((DEPLOY / "terraform").glob("*.tf")):
        for kind, blocks in _bare(hcl2.loads(path.read_text())).items():
            found.setdefault(kind, []).extend(blocks)
    return found


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key).strip('"'): _bare(inner) for key, inner in value.items() if key != "__is_block__"}
    if isinstance(value, list):
        return [_bare(inner) for inner in value]
    return value.strip('"') if isinstance(value, str) else value
