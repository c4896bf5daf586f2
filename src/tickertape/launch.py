"""From the words of the command line to a running service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tickertape.errors import OptionError
from tickertape.settings import Settings


def launch(config: Path | None, flags: Mapping[str, Any], rest: Sequence[str] = ()) -> int:
    """Serve until a signal comes; the exit code.

    `config` is a settings file, `flags` are settings by name (None: not given), `rest` is `--name value` for others.
    Raises `CheckpointError`s, `OptionError` and `EngineFailed`.
    """
    settings = Settings.load(config, **{**dict(_pairs(rest)), **{k: v for k, v in flags.items() if v is not None}})
    if settings.ray:
        from tickertape.serving import run
    else:
        from tickertape.alone import run
    return run(settings)


def _pairs(rest: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`--body-limit 5000`, `--body-limit=5000`, `--page` and `--no-page` as settings. Raises `OptionError`."""
    words = list(rest)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or not name:
            raise OptionError("serve takes flags only; see tickertape serve --help", "arguments", "invalid_settings")
        if equals:
            yield name, value
        elif words and not words[0].startswith("--"):
            yield name, words.pop(0)
        elif name.startswith("no_"):
            yield name.removeprefix("no_"), "false"
        else:
            yield name, "true"
