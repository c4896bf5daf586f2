"""`python -m tests.cluster`: the Serve config of `tickertape deploy kuberay` on several nodes, one of which dies.

    python -m tests.cluster            four minutes on two quiet cores
    python -m tests.cluster --silent   one more node falls silent, as a machine that hangs: four minutes more

The config is the manifest's own; only the engine is swapped, by its argument `engine`, for one that takes a fixed time
for every batch (tests/support/slow.py), so two cores can carry several. The last line is one JSON object. Exit code 1
if a request was lost or throughput did not follow the nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.cluster.machines import Machines, folder_of_calls, machines, strike
from tests.support.service import Clients, calls, expected_text, sound
from tickertape.deploy.kuberay import KubeRay

SECONDS = 1.0  # that the engine takes for a batch
WANTED = KubeRay(namespace="test", image="none", cpu=1, engines=2, engines_max=3)
CLIENTS = 3 * 2 * 4  # enough to keep three engines busy: a batch that runs and one that waits for each
SPAN = 15.0  # seconds over which throughput is measured
CLUSTER_TIMEOUT = 300.0  # seconds in which throughput is to follow a node, or a silent one is to be given up
Figures = dict[str, Any]
_AS_IT_STANDS = argparse.RawDescriptionHelpFormatter


def main() -> int:
    """Run it and print a table; the exit code."""
    parser = argparse.ArgumentParser("python -m tests.cluster", description=__doc__, formatter_class=_AS_IT_STANDS)
    parser.add_argument("--silent", action="store_true", help="let one more node fall silent")
    silent = parser.parse_args().silent
    folder = folder_of_calls()
    results: dict[str, Figures] = {}
    begun = time.monotonic()
    with machines(WANTED) as found:
        found.deploy(config(folder))
        _tell(f"ready after {time.monotonic() - begun:.0f} s")
        with Load(found.url, CLIENTS) as load:
            results = _scenes(found, load, folder, silent=silent)
        results["requests"] = _verdict(load, folder)
    for name, figures in results.items():
        _tell(f"{'passed' if figures['passed'] else 'FAILED'}  {name:<8} {_shown(figures)}")
    circumstances = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "when": time.strftime("%Y-%m-%d")}
    sys.stdout.write(json.dumps({"cluster": results, **circumstances}) + "\n")
    return 0 if all(figures["passed"] for figures in results.values()) else 1


def config(folder: Path) -> dict[str, Any]:
    """The manifest's Serve config, as KubeRay reads it, with the engine swapped."""
    (service,) = [document for document in WANTED.documents() if document["kind"] == "RayService"]
    found: dict[str, Any] = yaml.safe_load(service["spec"]["serveConfigV2"])
    for application in found["applications"]:
        application["args"] |= {"engine": "tests.support.slow:engine", "models": [f"slow={SECONDS}:{folder}"]}
    return found


def _scenes(found: Machines, load: Load, folder: Path, *, silent: bool) -> dict[str, Figures]:
    """What happens, in order, under a load that never stops."""
    _until(folder, 2 * 4 * 0.5)
    two = _rate(folder)
    _tell(f"two engines: {two:.1f} windows/s")
    strike(found.engines[0], signal.SIGKILL)
    time.sleep(5)
    one = _rate(folder)
    _tell(f"one engine: {one:.1f} windows/s")
    results = {"killed": {"windows_per_s_before": two, "after": one, "passed": 0 < one < 0.75 * two}}
    for name, before, share in (("added", one, 1.6), ("scaled", two, 1.25)):
        begun = time.monotonic()
        found.engines.append(found.add_engine())
        followed = _until(folder, share * before)
        after = _rate(folder)
        _tell(f"one more node: {after:.1f} windows/s")
        results[name] = {"windows_per_s_before": before, "after": after,
                         "followed_after_s": round(followed - begun, 1), "passed": after >= share * before}  # fmt: skip
    if silent:
        strike(found.engines[-1], signal.SIGSTOP)
        stopped = time.monotonic()
        results["silent"] = _answered_after(load, stopped)  # what was lost is counted below
        strike(found.engines[-1], signal.SIGKILL)
    return results


class Load(Clients):
    """Clients that each send a recording, wait for its text and send the next, until the block ends."""

    def __init__(self, url: str, clients: int) -> None:
        super().__init__(clients)  # an outcome's time is when it was sent
        self._url = f"{url}/v1/audio/transcriptions"
        self._sent: dict[int, float] = {}  # by each client, what it waits for

    def answered(self, moment: float) -> bool:
        """Whether every client has the answer that it waited for then."""
        return all(begun > moment for begun in self._sent.values())

    def _ask(self, client: int) -> None:
        number = 1 + 1000 * client  # at most 32,767: it is a sample
        with httpx.Client(timeout=600) as session:
            while self._going:
                self._sent[client] = begun = time.monotonic()
                self.outcomes.append((begun, *self._outcome(session, number, begun)))
                number += 1

    def _outcome(self, session: httpx.Client, number: int, begun: float) -> tuple[float, str]:
        recording = sound(number)
        form = {"model": "slow", "vad": "false"}
        try:
            answer = session.post(self._url, files={"file": ("a.wav", recording)}, data=form)
            right = answer.status_code == 200 and answer.json()["text"] == expected_text(recording)
            outcome = "right" if right else f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        return time.monotonic() - begun, outcome


def _verdict(load: Load, folder: Path) -> Figures:
    """Whether every request got its own text, and none was decoded more often than its engine died."""
    counts = Counter(outcome for _, _, outcome in load.outcomes)
    decoded = Counter(number for call in calls(folder) for number in call)
    lost = len(load.outcomes) - counts["right"]
    figures = {"sent": len(load.outcomes), "lost": lost, "outcomes": dict(counts.most_common(5)),
               "decoded_twice": sum(times == 2 for times in decoded.values()),
               "decoded_more": sum(times > 2 for times in decoded.values())}  # fmt: skip
    return {**figures, "passed": bool(load.outcomes) and not lost and not figures["decoded_more"]}


def _windows(folder: Path) -> int:
    """Windows decoded so far."""
    return sum(map(len, calls(folder)))


def _rate(folder: Path, span: float = SPAN) -> float:
    """Windows per second from now on."""
    before, begun = _windows(folder), time.monotonic()
    time.sleep(span)
    return round((_windows(folder) - before) / (time.monotonic() - begun), 2)


def _until(folder: Path, wanted: float) -> float:
    """Wait for so many windows per second, at most for the patience; when it came."""
    begun = time.monotonic()
    while time.monotonic() - begun < CLUSTER_TIMEOUT and _rate(folder, 5.0) < wanted:
        pass
    return time.monotonic()


def _answered_after(load: Load, moment: float) -> Figures:
    """Waits for the requests that were under way at that moment; how many they were and what the slowest took."""
    while not load.answered(moment) and time.monotonic() < moment + CLUSTER_TIMEOUT:
        time.sleep(1)
    seconds = [seconds for begun, seconds, _ in load.outcomes if begun <= moment < begun + seconds]
    slowest = round(max(seconds, default=0.0), 1)
    return {"under_way": len(seconds), "slowest_s": slowest, "passed": bool(seconds) and load.answered(moment)}


def _shown(figures: Figures) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items() if name != "passed")


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
