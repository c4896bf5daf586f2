"""The command `serve`: read the settings and run the service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tickertape.errors import OptionError
from tickertape.server.settings import LISTS, Settings

HINT = "Try: tickertape serve --help; every setting is in docs/reference/settings.md."


def launch(config: Path | None, flags: Mapping[str, Any], rest: Sequence[str] = ()) -> int:
    """Serve until a signal; return the exit code. Raises `CheckpointError`s, `OptionError` and `EngineError`."""
    settings = load_settings(config, flags, rest)
    if settings.ray:
        from tickertape.cluster.serve import run
    else:
        from tickertape.server.run import run
    return run(settings)


def load_settings(config: Path | None, flags: Mapping[str, Any], rest: Sequence[str] = ()) -> Settings:
    """Combine the settings. `config` is a settings file, `flags` are settings by name (None: not given).

    `rest` are flags of other settings, as words. Raises `OptionError`, which says where to look.
    """
    try:
        return Settings.load(config, **_gathered(flags, rest))
    except OptionError as error:
        raise OptionError(f"{error.message.rstrip('.')}. {HINT}", error.param, error.code) from error


def _gathered(flags: Mapping[str, Any], rest: Sequence[str]) -> dict[str, Any]:
    """Settings from flags; repeated flags of lists are joined. Raises `OptionError` for unknown flags."""
    given = {name: value for name, value in flags.items() if value is not None}
    for name, value in _pairs(rest):
        if name in LISTS:
            given[name] = (*given.get(name, ()), *value.split(","))
        elif name in given:
            raise OptionError(f"{name} is given twice", name, "invalid_settings")
        else:
            given[name] = value
    return given


def _pairs(rest: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`--body-limit 5000`, `--body-limit=5000`, `--docs` and `--no-docs` as settings. Raises `OptionError`."""
    words = list(rest)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or not name:
            raise OptionError("serve takes flags only", "arguments", "invalid_settings")
        if equals:
            yield name, value
        elif words and not words[0].startswith("--"):
            yield name, words.pop(0)
        elif name.startswith("no_"):
            yield name.removeprefix("no_"), "false"
        else:
            yield name, "true"
