"""The command `serve`, with a flag for every setting. Settings are imported only when the command runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from tickertape.cli.generated import make_options
from tickertape.errors import OptionError

if TYPE_CHECKING:
    from tickertape.server.settings import Settings

ALIASES = {"models": ("--model", "-m"), "port": ("-p",)}
METAVARS = {int: "N", float: "N", str: "TEXT", bool: "[true|false]"}
TRUTHS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0"})
SECTIONS = {  # headings of the help, by the first setting below each
    "host": "What is served, and where",
    "ray": "Where the work is done",
    "body_limit": "Limits",
    "keys_file": "Access",
    "grace_seconds": "Operation",
    "help": "Options",
}


class ServeCommand(TyperCommand):
    """`serve`: the values of its flags are in `context.obj`, by setting."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with the flags of the settings."""
        from tickertape.server.settings import LISTS, Settings

        fields = Settings.model_fields.items()
        self.params += make_options({name: (_annotation(name, field), None) for name, field in fields})
        rest = super().parse_args(ctx, list(_with_values(args)))
        given = {name: words for name, _ in fields if (words := ctx.params.pop(name))}
        for name, words in given.items():
            if len(words) > 1 and name not in LISTS:
                ctx.fail(f"--{name.replace('_', '-')} is given twice.")
        ctx.obj = {name: ",".join(words) for name, words in given.items()}
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags below their headings."""
        heading = "Options"
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            heading = SECTIONS.get(param.name or "", heading)
            sections.setdefault(heading, []).append(param.get_help_record(ctx) or ("", ""))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


def launch(config: Path | None, flags: Mapping[str, str]) -> int:
    """Serve until a signal; return the exit code. Raises `CheckpointError`s, `OptionError` and `EngineError`."""
    settings = load_settings(config, flags)
    if not settings.models and not settings.engine:
        settings = _with_default_model(settings)
    if settings.ray:
        from tickertape.cluster.serve import run
    else:
        from tickertape.server.run import run
    return run(settings)


def _with_default_model(settings: Settings) -> Settings:
    """Name the default model in the settings, and fetch it with a progress bar unless it is here."""
    from tickertape.cli.progress import Bar
    from tickertape.engine.loading import default_model
    from tickertape.server.models import load_options

    with Bar(shown=sys.stderr.isatty()) as bar:
        model = default_model(load_options(settings), progress=bar.loading)
    return settings.model_copy(update={"models": ("=".join(model),)})


def load_settings(config: Path | None, flags: Mapping[str, str]) -> Settings:
    """Combine the settings file, the environment and the flags. Raises `OptionError`, which says where to look."""
    from tickertape.server.settings import Settings

    try:
        return Settings.load(config, **flags)
    except OptionError as error:
        hint = "Try: tickertape serve --help; every setting is in docs/reference/settings.md."
        raise OptionError(f"{error.message.rstrip('.')}. {hint}", error.param, error.code) from error


def _annotation(name: str, field: Any) -> Any:
    """A list of words, which `Settings` validates, with the option of a setting."""
    from tickertape.server.settings import LISTS

    kind = field.annotation
    choices = "|".join(get_args(kind)) if get_origin(kind) is Literal else ""
    metavar = "NAME,..." if name in LISTS else choices or METAVARS.get(kind, "FILE")
    default = f"  [default: {str(field.default).lower()}]" if field.default else ""
    about = (field.description or "").replace("`", "") + default
    option = typer.Option(f"--{name.replace('_', '-')}", *ALIASES.get(name, ()), metavar=metavar, help=about)
    return Annotated[list[str] | None, option]


def _with_values(words: Sequence[str]) -> Iterator[str]:
    """The words with a value for each boolean flag: `--docs` becomes `--docs=true`, `--no-docs` `--docs=false`."""
    from tickertape.server.settings import Settings

    switches = {f"--{name}" for name, field in Settings.model_fields.items() if field.annotation is bool}
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word in switches and following.lower() not in TRUTHS:
            yield f"{word}=true"
        elif (flag := word.replace("--no-", "--", 1)) in switches and flag != word:
            yield f"{flag}=false"
        else:
            yield word
