"""Fills in templates of manifests; writes readable YAML; checks Kubernetes names and quantities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tickertape.errors import OptionError

# Help of an option of both deployments
OBJECT_HOSTS = "Hosts, and buckets as gs://NAME, from which callers may have files fetched, separated by commas."
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_MEMORY = re.compile(r"(\d+)(k|[MGT]|[KMGT]i|)")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def read_template(name: str) -> str:
    """The text of a template."""
    return (resources.files("tickertape.deploy") / "templates" / name).read_text(encoding="utf-8")


def render(name: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The documents of a template.

    A placeholder `${name}` becomes its value, of whatever type. Keys with an empty value (`""`, `[]`, None) are
    omitted, and so are mappings whose key `if` has one.
    """
    return [_fill(document, values) for document in yaml.safe_load_all(read_template(name))]


def _fill(node: Any, values: Mapping[str, Any]) -> Any:
    """A part of a template with its placeholders replaced; None: omit it."""
    if isinstance(node, str):
        found = _PLACEHOLDER.fullmatch(node)
        return values[found[1]] if found else _PLACEHOLDER.sub(lambda found: str(values[found[1]]), node)
    if isinstance(node, list):
        return [item for item in (_fill(each, values) for each in node) if item is not None]
    if isinstance(node, Mapping):
        filled = {key: _fill(value, values) for key, value in node.items()}
        if "if" in node and not filled.pop("if"):
            return None
        return {key: value for key, value in filled.items() if value not in ("", [], None)}
    return node


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # the package has no types
    """Writes multi-line text as blocks, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - overrides the base class
        return True

    def represent_str(self, data: str) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    yaml_representers = {**yaml.SafeDumper.yaml_representers, str: represent_str}  # noqa: RUF012 - as in the base class


def dump(document: Mapping[str, Any]) -> str:
    """A document as YAML, its keys in their order."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110))


def to_yaml(documents: Iterable[Mapping[str, Any]], comment: str) -> str:
    """The documents, one after another, below a comment of one line."""
    return f"# {comment}\n" + "---\n".join(map(dump, documents))


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write the files; their paths. Raises `OptionError` if the folder cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        message = f"Cannot write to the folder of --output ({error.strerror}); choose another."
        raise OptionError(message, "output") from error
    return [folder / name for name in files]


def memory_bytes(quantity: str, option: str) -> int:
    """Bytes of a Kubernetes quantity such as "4Gi". Raises `OptionError`."""
    if not (found := _MEMORY.fullmatch(quantity)):
        raise OptionError(f"--{option} takes a size such as 4Gi.", option)
    return int(found[1]) * _UNITS[found[2]]


def validate_name(name: str, option: str, max_length: int = 63) -> None:
    """Check a name by the rules of Kubernetes and Google Cloud. Raises `OptionError`."""
    if not _NAME.fullmatch(name) or len(name) > max_length:
        message = f"--{option} takes at most {max_length} lower-case letters, digits and hyphens, a letter first."
        raise OptionError(message, option)
