"""Safetensors files as numpy arrays, without torch.

    weights = read_weights([folder / "model.safetensors"])
    weights["model.encoder.conv1.weight"]

Files are mapped read-only: a tensor takes memory only while it is used. The layout is
https://github.com/huggingface/safetensors#format. The library's own numpy reader has no bfloat16 and other errors.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tickertape.errors import CheckpointError, CorruptCheckpointError

Array: TypeAlias = NDArray[Any]

AGAIN = "fetch or save the checkpoint again"
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # bfloat16 is the upper half of a float32


class Weights(Mapping[str, Array]):
    """Tensors by name. A look-up returns a read-only array: float16 as stored, other types as float32."""

    def __init__(self, stored: Mapping[str, tuple[str, Array]]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> Array:
        dtype, array = self._stored[name]
        if dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32) if dtype == "F64" else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it."""
        return self._stored[name][1].shape

    def without(self, name: str) -> Weights:
        """The other tensors."""
        return Weights({other: stored for other, stored in self._stored.items() if other != name})

    def is_half(self, name: str) -> bool:
        """Whether the tensor is stored as float16."""
        return self._stored[name][0] == "F16"


def read_weights(files: Iterable[Path]) -> Weights:
    """Open safetensors files as one mapping. Raises `CorruptCheckpointError` for damage or duplicate names."""
    stored: dict[str, tuple[str, Array]] = {}
    for file in files:
        tensors = _open(file)
        if stored.keys() & tensors.keys():
            raise CorruptCheckpointError(f"two shards hold the same tensor; {AGAIN}")
        stored |= tensors
    return Weights(stored)


def _open(file: Path) -> dict[str, tuple[str, Array]]:
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        if size < 8:
            raise CorruptCheckpointError(f"a safetensors file is empty or cut off; {AGAIN}")
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(data[:8], "little")
    start = 8 + length
    if length > MAX_HEADER_BYTES or start > size:
        raise CorruptCheckpointError(f"a file is cut off or not in the safetensors format; {AGAIN}")
    try:
        header = json.loads(data[8:start])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors = {name: _tensor(entry, data, start) for name, entry in entries.items()}
        end = start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError(f"a safetensors header is damaged; {AGAIN}") from error
    if end != size:
        raise CorruptCheckpointError(f"a safetensors file is longer than its tensors; {AGAIN}")
    return tensors


def _tensor(entry: Mapping[str, Any], data: mmap.mmap, start: int) -> tuple[str, Array]:
    code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if code not in DTYPES:
        message = f"weights stored as {str(code)[:20]} cannot be read; save them as float32, float16 or bfloat16"
        raise CheckpointError(message)
    dtype = np.dtype(DTYPES[code])
    count = math.prod(shape)
    if min([begin, *shape], default=0) < 0 or end - begin != count * dtype.itemsize or start + end > len(data):
        raise CorruptCheckpointError(f"a safetensors file is cut off; {AGAIN}")
    return code, np.frombuffer(data, dtype, count, start + begin).reshape(shape)


def write_weights(
    path: Path, names: Collection[str], read: Callable[[str], Array], report: Callable[[float], None]
) -> None:
    """Write float16 and float32 tensors into one file. `report` is called with the fraction done."""
    codes = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses the file
    end = 0
    for name in sorted(names):
        tensor = read(name)
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(names):
            stream.write(read(name).tobytes())
            report(stream.tell() / (8 + len(text) + end))
