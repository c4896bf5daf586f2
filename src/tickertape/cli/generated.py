"""Options made from the fields of a class, which is imported only when its command runs."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand


class DataclassCommand(TyperCommand):
    """A command with an option for each field of a dataclass, which are annotated with their help.

    `context.obj` names the dataclass, `module:class`, and is then an instance of it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with the options of the fields. Raises what the dataclass raises."""
        cls = pkgutil.resolve_name(ctx.obj)
        self.params[:0] = make_options(parameters(cls))
        rest = super().parse_args(ctx, args)
        ctx.obj = cls(**{each.name: ctx.params.pop(each.name) for each in fields(cls)})
        return rest


def parameters(cls: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of each field's option."""
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for each in fields(cls):
        kind, text = get_args(hints[each.name])
        flag = each.name.replace("_", "-")
        option = typer.Option(f"--{flag}/--no-{flag}" if each.default is True else f"--{flag}", help=text)
        default = inspect.Parameter.empty if each.default is MISSING else each.default
        found[each.name] = (Annotated[kind, option], default)
    return found


def make_options(named: Mapping[str, tuple[Any, Any]]) -> list[Any]:
    """Typer's options for annotations and defaults by name."""

    def command(**_: Any) -> None: ...

    command.__annotations__ = {name: hint for name, (hint, _) in named.items()}
    command.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        for name, (hint, default) in named.items()
    ])  # fmt: skip
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    return typer.main.get_command(app).params
