"""Fills in templates of manifests; writes readable YAML; checks Kubernetes names and quantities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tickertape.errors import OptionError

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_MEMORY = re.compile(r"(\d+)(k|[MGT]|[KMGT]i|)")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def template(name: str) -> str:
    """The text of a template."""
    return (resources.files("tickertape.deploy") / "templates" / name).read_text(encoding="utf-8")


def rendered(name: str, values: Mapping[str, Any]) -> list[Any]:
    """The documents of a template.

    A placeholder `${name}` becomes its value, of whatever type. Empty values are omitted with their keys, and so are
    mappings whose key `if` has an empty value.
    """
    import yaml  # type: ignore[import-untyped]

    return [_filled(document, values) for document in yaml.safe_load_all(template(name))]


def _filled(node: Any, values: Mapping[str, Any]) -> Any:
    """A part of a template with its placeholders replaced; None: omit it."""
    if isinstance(node, str):
        if found := _PLACEHOLDER.fullmatch(node):
            return None if values[found[1]] == "" else values[found[1]]
        return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), node)
    if isinstance(node, Mapping):
        filled = {key: _filled(value, values) for key, value in node.items()}
        omitted = "if" in node and not filled.pop("if")
        return None if omitted else {key: value for key, value in filled.items() if value is not None}
    if isinstance(node, list):
        return [item for item in (_filled(each, values) for each in node) if item is not None] or None
    return node


def to_yaml(documents: Iterable[Mapping[str, Any]], head: str) -> str:
    """The documents, one after another, below `head` as a comment."""
    return f"# {head}\n" + "---\n".join(map(dumped, documents))


def dumped(document: Mapping[str, Any]) -> str:
    """A document as YAML: keys in their order, multi-line text as blocks, no aliases."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc] # the package has no types
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - overrides the base class
            return True

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False, width=110))


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write the files; their paths. Raises `OptionError` if the folder cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        message = f"The folder of --output cannot be written to ({error.strerror}); choose another."
        raise OptionError(message, "output") from error
    return [folder / name for name in files]


def memory_bytes(quantity: str, option: str) -> int:
    """Bytes of a Kubernetes quantity such as "4Gi". Raises `OptionError`."""
    if not (found := _MEMORY.fullmatch(quantity)):
        raise OptionError(f"--{option} takes a size such as 4Gi.", option)
    return int(found[1]) * _UNITS[found[2]]


def validate_name(name: str, option: str, most: int = 63) -> str:
    """A name that Kubernetes and Google Cloud accept, of at most `most` characters. Raises `OptionError`."""
    if not _NAME.fullmatch(name) or len(name) > most:
        raise OptionError(f"--{option} takes {most} small letters, digits and dashes at most, a letter first.", option)
    return name
