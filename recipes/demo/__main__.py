"""Make the synthetic-voice model from nothing, in one command. Finished steps are kept.

    python -m recipes.demo --work WORK

Steps: tokenizer, corpus, train, align, export, heldout, evaluate, card. Each is a module with its own --help. The
command resumes: existing shards are kept, and training continues from its last checkpoint until its budget is used.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

CHECKPOINT = Path(__file__).parents[2] / "tests" / "checkpoint"


def commands(work: Path, checkpoint: Path, shards: int, minutes: float) -> dict[str, list[str]]:
    """The steps in order, with their arguments."""
    own = ["--work", str(work)]
    return {
        "tokenizer": own,
        "corpus": [*own, "--shards", str(shards)],
        "train": [*own, "--minutes", str(minutes)],
        "align": own,
        "export": [*own, "--to", str(checkpoint)],
        "heldout": [],
        "evaluate": ["--checkpoint", str(checkpoint)],
        "card": [*own, "--checkpoint", str(checkpoint)],
    }


def main() -> None:
    """Make the synthetic-voice model."""
    parser = argparse.ArgumentParser(prog="python -m recipes.demo", description=main.__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for intermediate files, outside the repository"
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder of the checkpoint to write")
    parser.add_argument("--shards", type=int, default=40, help="shards of 1,400 sentences")
    parser.add_argument("--minutes", type=float, default=292.0, help="wall-clock budget of the training")
    parser.add_argument("--only", nargs="*", help="run only these steps")
    args = parser.parse_args()
    steps = commands(args.work, args.checkpoint, args.shards, args.minutes)
    unknown = set(args.only or ()) - set(steps)
    if unknown:
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(steps)}")
    wanted = [name for name in steps if not args.only or name in args.only]
    for number, name in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {name}", flush=True)
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", f"recipes.demo.{name}", *steps[name]], check=True)
        print(f"[{number}/{len(wanted)}] {name} took {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
