"""Commands of other programs: run, shown as they come, and their failures told so that they can be mended."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Sequence

from tickertape.errors import CallerError

KEPT = 40  # lines of a failed command's complaint that are searched for its cause


class CommandFailed(CallerError):
    """A command of another program failed, or what it brought up does not work: `CommandFailed(message, code)`."""

    def __init__(self, message: str, code: str = "command_failed") -> None:
        super().__init__(message, code)
        self.code = code


# What the programs say: the code, what it means, and how it is mended. The first that matches counts.
CAUSES = (
    (r"Failed to establish a new connection|Name or service not known|Network is unreachable|Unable to find the server",
     "offline", "Google Cloud cannot be reached from here; look at the network or the proxy."),
    (r"gcloud auth login|active account|[Rr]eauthentication|invalid_grant|credentials.*(expired|revoked)",
     "not_logged_in", "gcloud is not logged in. Run: gcloud auth login"),
    (r"SERVICE_DISABLED|has not been used in project|API .*(disabled|not enabled)",
     "api_disabled", "An API of Google Cloud is not enabled. Run: gcloud services enable {apis}"),
    (r"RESOURCE_EXHAUSTED|[Qq]uota",
     "quota", "The project's quota is too small. Take fewer instances, less CPU or another region, or ask for more: "
     "https://cloud.google.com/run/quotas"),
    (r"BILLING_DISABLED|[Bb]illing (account|to be enabled)",
     "no_billing", "The project has no billing account. Link one: https://console.cloud.google.com/billing/linkedaccount"),
    (r"iam\.service[aA]ccounts\.actAs",
     "no_act_as", "The account may not act as the service's own; ask for roles/iam.serviceAccountUser on it."),
    (r"organization policy|constraints/",
     "org_policy", "The organisation's policy forbids it; ask who runs it, or leave --allow-unauthenticated away."),
    (r"[Ss]ecret.*(not found|[Pp]ermission|denied)",
     "no_secret", "The secret of --keys-secret is missing, or the service's account lacks "
     "roles/secretmanager.secretAccessor on it."),
    (r"build [0-9a-f-]+ completed with status|BUILD FAILURE|ERROR: build step",
     "build_failed", "Cloud Build could not build the image; its log above says why. It is kept: gcloud builds list"),
    (r"PERMISSION_DENIED|does not have permission|\(Forbidden\)|is forbidden",
     "permission_denied", "The account may not do this; ask whoever runs the project for the role."),
    (r"failed to start and listen|user-provided container failed|STARTUP.*probe",
     "not_ready", "The container did not become ready in time. Its log says why."),
    (r"connection to the server|Unable to connect|no such host|context .* does not exist|no configuration has been",
     "no_cluster", "kubectl reaches no cluster. Choose one: kubectl config use-context NAME, or --context"),
    (r"no matches for kind|\"rayservices.ray.io\" not found",
     "no_kuberay", "The cluster does not have KubeRay. Install its operator first."),
    (r"[Ii]nvalid (region|location)|[Ll]ocation .* (is not|not) (found|valid|supported)|not a valid (region|location)",
     "no_region", "Google Cloud knows no such region; gcloud run regions list names them."),
    (r"NOT_FOUND", "not_found", "Google Cloud does not know it; check the project's name and the region."),
    (r"timed out waiting", "not_ready", "The service did not become ready in time. kubectl describe says why."),
)  # fmt: skip


def run(command: Sequence[str], what: str, *, apis: Sequence[str] = ()) -> None:
    """Run a command whose output is for the user to see. Raises `CommandFailed`."""
    _run(command, what, apis, quiet=False)


def asked(command: Sequence[str], what: str, *, apis: Sequence[str] = ()) -> str:
    """What a command answers, without the spaces around. Raises `CommandFailed`."""
    return _run(command, what, apis, quiet=True).strip()


def shown(command: Sequence[str]) -> str:
    """The command as one would type it."""
    return shlex.join(command)


def _run(command: Sequence[str], what: str, apis: Sequence[str], *, quiet: bool) -> str:
    """Standard output where it is wanted; standard error passes, and its end is kept."""
    end: deque[str] = deque(maxlen=KEPT)
    try:
        process = subprocess.Popen(  # noqa: S603 - a list of words, never a shell
            command, stdout=subprocess.PIPE if quiet else None, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{command[0]} is not installed, or not on the PATH.", "not_installed") from error
    with process:
        if process.stderr is not None:
            for line in process.stderr:
                end.append(line)
                if not quiet:
                    sys.stderr.write(line)
        answer = process.stdout.read() if process.stdout is not None else ""
    if process.returncode:
        raise _explained("".join(end), what, apis)
    return answer


def _explained(complaint: str, what: str, apis: Sequence[str]) -> CommandFailed:
    for pattern, code, advice in CAUSES:
        if re.search(pattern, complaint):
            return CommandFailed(f"{what}: {advice.format(apis=' '.join(apis))}", code)
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    return CommandFailed(f"{what}: failed. {lines[-1] if lines else 'It did not say why.'}")
