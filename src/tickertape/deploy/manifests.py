"""Files for other people's machinery: YAML that reads as if a person had written it, and the units it is full of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tickertape.errors import OptionError

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_MEMORY = re.compile(r"(\d+)(k|[MGT]|[KMGT]i|)")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def to_yaml(documents: Iterable[Mapping[str, Any]], head: str) -> str:
    """The documents, one after another, below `head` as comments."""
    comments = "".join(f"# {line}\n" for line in head.splitlines())
    return comments + "---\n".join(map(dumped, documents))


def dumped(document: Mapping[str, Any]) -> str:
    """A document as YAML: keys in their order, texts of several lines as such, nothing by reference."""
    import yaml  # type: ignore[import-untyped]

    class Dumper(yaml.SafeDumper):  # type: ignore[misc] # the package has no types
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature of the class above
            return True

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False, width=110))


def written(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write each file whole. Raises `OptionError` where the folder cannot be written to."""
    paths = []
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            raise OptionError(f"--output cannot be written to ({error.strerror}).", "output") from error
        paths.append(path)
    return paths


def memory_bytes(quantity: str, option: str) -> int:
    """Bytes of a Kubernetes quantity such as "4Gi". Raises `OptionError`."""
    if not (found := _MEMORY.fullmatch(quantity)):
        raise OptionError(f"--{option} takes a size such as 4Gi.", option)
    return int(found[1]) * _UNITS[found[2]]


def checked_name(name: str, option: str, most: int = 63) -> str:
    """A name as Kubernetes and Google Cloud allow it: `most` small letters, digits and dashes, a letter first."""
    if not _NAME.fullmatch(name) or len(name) > most:
        raise OptionError(f"--{option} takes up to {most} small letters, digits and dashes, a letter first.", option)
    return name
