"""KubeRay's RayService, ray.io/v1, as far as callers write it: what a cluster checks when it is applied.

The custom resource definition itself is in no package. Its field names, types, choices and what is required are those
of the models that KubeRay generates from it (ray-project/kuberay, clients/python-client/python_client/models/generated/
rayservice.py, of 2026, after release 1.7), and `rules` are its operator's (ray-operator/controllers/ray/utils/
validation.go). Pods, containers and Services in it are checked by Kubernetes' own strict schemas.
"""

# ruff: noqa: N815 - the names are KubeRay's

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import kubernetes_validate
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

KUBERNETES = "1.31"
NAME = 47  # characters at most: the operator adds 6 for a cluster's name and 10 for its service's, of 63
TOKENS_SINCE = (2, 52)  # Ray's version
Object = dict[str, Any]
Strings = dict[str, str]


def _pod(template: Object) -> Object:
    """A pod's template. Raises `ValueError`, as the two below."""
    return _known({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}) and template


def _container(part: Object) -> Object:
    """Some fields of a container."""
    return _pod({"spec": {"containers": [{"name": "part", **part}]}}) and part


def _service(service: Object) -> Object:
    """A Service, of which fields may be left to the operator."""
    whole = {"apiVersion": "v1", "kind": "Service", **service}
    return _known({**whole, "metadata": {"name": "service", **service.get("metadata", {})}}) and service


def _known(document: Object) -> Object:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise ValueError(error.message) from error
    return document


Pod = Annotated[Object, AfterValidator(_pod)]
Service = Annotated[Object, AfterValidator(_service)]


class Known(BaseModel):
    """Fields that are not listed are mistakes, and so are values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Known):
    """A name, which the operator limits, and what may be said about it."""

    name: str = Field(pattern=rf"^[a-z]([-a-z0-9]{{0,{NAME - 2}}}[a-z0-9])?$")
    namespace: str | None = None
    labels: Strings | None = None
    annotations: Strings | None = None


class AuthOptions(Known):
    """Whether Ray asks for a token, and which."""

    mode: Literal["disabled", "token"] | None = None
    secretName: str | None = None
    enableK8sTokenAuth: bool | None = None


class AutoscalerOptions(BaseModel):
    """How Ray's autoscaler works, and fields of the container in which it does."""

    model_config = ConfigDict(extra="allow", strict=True)

    idleTimeoutSeconds: int | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    version: Literal["v1", "v2"] | None = None

    @model_validator(mode="after")
    def rules(self) -> AutoscalerOptions:
        """All else is a container's, of which there are but these."""
        others = self.model_extra or {}
        fields = {"args", "command", "env", "envFrom", "image", "imagePullPolicy", "resources", "securityContext",
                  "volumeMounts"}  # fmt: skip
        if unknown := others.keys() - fields:
            raise ValueError(f"{sorted(unknown)} are not known")
        _container(others)
        return self


class Group(Known):
    """Pods of one kind."""

    template: Pod
    rayStartParams: Strings | None = None
    resources: Strings | None = None
    labels: Strings | None = None

    @model_validator(mode="after")
    def rules(self) -> Group:
        """Resources are said in one place, labels in theirs, and there is a container for Ray."""
        start = self.rayStartParams or {}
        if self.resources and start.keys() & {"num-cpus", "num-gpus", "memory", "resources"}:
            raise ValueError("resources are in rayStartParams already")
        if "labels" in start:
            raise ValueError("labels have a field of their own")
        if not self.template.get("spec", {}).get("containers"):
            raise ValueError("a group needs a container")
        return self


class HeadGroup(Group):
    """The pod that keeps Ray's books."""

    serviceType: str | None = None
    headService: Service | None = None
    enableIngress: bool | None = None
    ingressOptions: Object | None = None


class WorkerGroup(Group):
    """Pods that work."""

    groupName: str
    minReplicas: int
    maxReplicas: int
    replicas: int = 0
    numOfHosts: int = 1
    priority: int = 0
    idleTimeoutSeconds: int | None = None
    suspend: bool | None = None
    scaleStrategy: dict[Literal["workersToDelete"], list[str]] | None = None


class RayCluster(Known):
    """Nodes, how many, and how they trust each other."""

    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] | None = None
    rayVersion: str | None = None
    authOptions: AuthOptions | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    gcsFaultToleranceOptions: Object | None = None
    headServiceAnnotations: Strings | None = None
    historyServerOptions: Object | None = None
    managedBy: str | None = None
    networkPolicy: Object | None = None
    suspend: bool | None = None
    tlsOptions: dict[Literal["enabled"], bool] | None = None
    upgradeStrategy: dict[Literal["type"], Literal["Recreate", "None"]] | None = None

    @model_validator(mode="after")
    def rules(self) -> RayCluster:
        """Tokens need a Ray that knows them; the second autoscaler wants pods that stay dead."""
        if self.authOptions and self.authOptions.mode != "disabled" and _version(self.rayVersion) < TOKENS_SINCE:
            raise ValueError("authOptions need rayVersion 2.52 or later")
        policies = {group.template["spec"].get("restartPolicy", "Never") for group in self._groups()}
        second = self.autoscalerOptions is not None and self.autoscalerOptions.version == "v2"
        if self.enableInTreeAutoscaling and second and policies != {"Never"}:
            raise ValueError("the second autoscaler wants restartPolicy Never")
        return self

    def _groups(self) -> Iterator[Group]:
        yield self.headGroupSpec
        yield from self.workerGroupSpecs or ()


def _version(version: str | None) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", version or "0.0")
    return tuple(map(int, found.groups())) if found else ()


class UpgradeStrategy(Known):
    """What becomes of the old cluster."""

    type: Literal["NewCluster", "None", "NewClusterWithIncrementalUpgrade"] | None = None
    clusterUpgradeOptions: Object | None = None


class Spec(Known):
    """A cluster, and what it serves."""

    rayClusterConfig: RayCluster
    serveConfigV2: str | None = None
    serveService: Service | None = None
    excludeHeadPodFromServeSvc: bool | None = None
    managedBy: str | None = None
    rayClusterDeletionDelaySeconds: int | None = Field(None, ge=0)
    suspend: bool | None = None
    upgradeStrategy: UpgradeStrategy | None = None
    serviceUnhealthySecondThreshold: int | None = None
    deploymentUnhealthySecondThreshold: int | None = None


class RayService(Known):
    """`RayService.model_validate(document)` raises `pydantic.ValidationError` for what a cluster would refuse."""

    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: Spec
