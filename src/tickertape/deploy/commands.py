"""Runs commands of other programs and explains their failures."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import deque
from collections.abc import Sequence

from tickertape.deploy.cloud_run import SERVICES
from tickertape.errors import CallerError

KEPT_LINES = 40  # of a failed command's standard error, searched for the cause


class CommandError(CallerError, code="command_failed"):
    """A command failed, or the service that it started does not work: `CommandError(message, output)`."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message, output)
        self.output = output  # the end of the command's standard error


REMEDIES = {  # by a pattern of the command's standard error; the first match counts
    r"Failed to establish a new connection|Name or service not known|Network is unreachable|Unable to find the server":
        "Google Cloud cannot be reached from here; check the network and the proxy.",
    r"gcloud auth login|active account|[Rr]eauthentication|invalid_grant|credentials.*(expired|revoked)":
        "gcloud is not logged in. Run: gcloud auth login",
    r"SERVICE_DISABLED|has not been used in project|API .*(disabled|not enabled)":
        f"An API of Google Cloud is not enabled. Run: gcloud services enable {' '.join(SERVICES)}",
    r"RESOURCE_EXHAUSTED|[Qq]uota":
        "The project's quota is too small. Use fewer instances, less CPU or another region, or request more: "
        "https://cloud.google.com/run/quotas",
    r"BILLING_DISABLED|[Bb]illing (account|to be enabled)":
        "The project has no billing account. Link one: https://console.cloud.google.com/billing/linkedaccount",
    r"iam\.service[aA]ccounts\.actAs":
        "The account may not act as the service's own account; ask for roles/iam.serviceAccountUser on it.",
    r"organization policy|constraints/":
        "The organisation's policy forbids it. Omit --allow-unauthenticated, or ask its administrator.",
    r"[Ss]ecret.*(not found|[Pp]ermission|denied)":
        "The secret of --keys-secret is missing, or the service's account lacks "
        "roles/secretmanager.secretAccessor on it.",
    r"build [0-9a-f-]+ completed with status|BUILD FAILURE|ERROR: build step":
        "Cloud Build could not build the image; see its log above. Later: gcloud builds list",
    r"PERMISSION_DENIED|does not have permission|\(Forbidden\)|is forbidden":
        "The account may not do this; ask the project's administrator for the role.",
    r"failed to start and listen|user-provided container failed|STARTUP.*probe":
        "The container did not become ready in time. See its log.",
    r"connection to the server|Unable to connect|no such host|context .* does not exist|no configuration has been":
        "kubectl reaches no cluster. Choose one: kubectl config use-context NAME, or --context",
    r'no matches for kind|\"rayservices.ray.io\" not found':
        "The cluster does not have KubeRay. Install its operator first.",
    r"[Ii]nvalid (region|location)|[Ll]ocation .* (is not|not) (found|valid|supported)|not a valid (region|location)":
        "Google Cloud has no such region. List them: gcloud run regions list",
    r"NOT_FOUND": "Google Cloud found nothing by that name; check the project and the region.",
    r"timed out waiting": "The service did not become ready in time. kubectl describe says why.",
}  # fmt: skip


def run(command: Sequence[str], purpose: str, *, capture: bool = False) -> str:
    """Run a command. `capture` returns its standard output, stripped, instead of showing it. Raises `CommandError`."""
    last: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        process = subprocess.Popen(  # noqa: S603 - a list of words, never a shell
            command, stdout=subprocess.PIPE if capture else None, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise CommandError(f"{command[0]} is not installed, or not on the PATH.") from error
    with process:
        for line in process.stderr or ():
            last.append(line)
            if not capture:
                sys.stderr.write(line)
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise _describe("".join(last), purpose)
    return output.strip()


def _describe(output: str, purpose: str) -> CommandError:
    """The error for a failed command's standard error."""
    reason = output.strip().rpartition("\n")[2].strip() or "It printed no reason."
    remedies = (remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, output))
    return CommandError(f"{purpose}: {next(remedies, f'failed. {reason}')}", output)
