"""Weight files as they lie on disk: what a folder holds, checked from headers alone, and one tensor at a time.

Reads `.safetensors` and `.bin` (never anything but tensors: `weights_only=True`), whole or in shards with an index.
It knows files, not models; `checkpoint.py` says which tensors a model needs.
"""

import copy
import json
import math
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from chatglm.errors import CheckpointError
from chatglm.model.files import refuse_pointer

# In the order they are looked for, which is that of transformers.
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ORDER = (SINGLE_FILES[0], INDEX_FILES[0], SINGLE_FILES[1], INDEX_FILES[1])

# In the order in which the safetensors library lays tensors out in a file.
DTYPES = {
    "I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32, "BF16": torch.bfloat16,
    "F16": torch.float16, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # the limit of the safetensors library


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: its file, its name there, and for safetensors the byte range in it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    start: int = -1
    stop: int = -1

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize


class WeightFolder:
    """The weight files of one folder, their headers read and checked against each other and the index.

    `tensors` maps every name to its TensorInfo, in file order. `is_whole`: none of them was left out by `renamed`.

    Raises:
        CheckpointError: no weights, a git-lfs pointer, a damaged or truncated file, a missing shard, an index that does
            not match its shards. The message names the file and the tensor.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.index_file, self.files = _find_files(self.path)
        self.tensors: dict[str, TensorInfo] = {}
        self.is_whole = True
        self._opened: tuple[Path | None, dict[str, Tensor]] = (None, {})  # the last `.bin` file read from
        self._mapped: tuple[Path | None, Any] = (None, None)  # the last `.safetensors` file mapped
        for file in self.files:
            self._add(read_header(file))
        if self.index_file is not None:
            _check_index(self.index_file, self.tensors)

    def _add(self, found: dict[str, TensorInfo]) -> None:
        for name, info in found.items():
            if name in self.tensors:
                raise CheckpointError(
                    f"tensor {name!r} is in two files, {self.tensors[name].file} and {info.file}; it must be in one"
                )
            self.tensors[name] = info

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(info.num_bytes for info in self.tensors.values())

    def renamed(self, names: Mapping[str, str]) -> "WeightFolder":
        """The same files under other names (new name -> name in the file); what is not named is left out."""
        result = copy.copy(self)
        result.tensors = {new: self.tensors[stored] for new, stored in names.items()}
        result.is_whole = self.is_whole and len(names) == len(self.tensors)
        return result

    def read(self, name: str) -> Tensor:
        """One tensor, copied into memory of its own."""
        info = self.tensors[name]
        if info.start >= 0:
            return _read_range(info)
        if self._opened[0] != info.file:
            self._opened = (info.file, _load_pickle(info.file, device="cpu"))
        return self._opened[1][info.name].clone()

    def mapped(self, name: str) -> Tensor:
        """One tensor where it lies in its file: read when it is used, and shared with whoever else maps the file."""
        info = self.tensors[name]
        if info.start < 0:
            return self.read(name)
        if self._mapped[0] != info.file:
            self._mapped = (info.file, safe_open(info.file, "pt"))
        found: Tensor = self._mapped[1].get_tensor(info.name)
        return found

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor in file order, one in memory at a time (for `.bin`: one file mapped at a time)."""
        for name in self.tensors:
            yield name, self.read(name)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of one weight file, without reading its data.

    Raises:
        CheckpointError: the file is missing, a git-lfs pointer, truncated, or not a weight file.
    """
    _check_present(file)
    return _safetensors_header(file) if file.suffix == ".safetensors" else _pickle_header(file)


def read_file(file: Path) -> dict[str, Tensor]:
    """Every tensor of one weight file, in memory of their own.

    Raises:
        CheckpointError: as for `read_header`.
    """
    header = read_header(file)
    if file.suffix == ".safetensors":
        return {name: _read_range(info) for name, info in header.items()}
    return {name: tensor.clone() for name, tensor in _load_pickle(file, device="cpu").items()}


def _find_files(folder: Path) -> tuple[Path | None, list[Path]]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; a checkpoint is a folder with config.json and weight files")
    found = next((folder / name for name in _ORDER if (folder / name).is_file()), None)
    if found is None:
        present = sorted(path.name for path in folder.iterdir())
        raise CheckpointError(
            f"no weights in {folder}: expected one of {', '.join(_ORDER)}; "
            f"found {', '.join(present[:20]) + (' ...' if len(present) > 20 else '') if present else 'an empty folder'}"
        )
    if found.name in SINGLE_FILES:
        return None, [found]
    return found, sorted({folder / shard for shard in _weight_map(found).values()})


def _weight_map(index_file: Path) -> dict[str, str]:
    """The `weight_map` of an index, every entry a plain file name."""
    _check_present(index_file)
    try:
        weight_map = json.loads(index_file.read_text(encoding="utf-8-sig"))["weight_map"]
        pairs = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index_file} is not a valid index ({type(error).__name__}: {error}); "
            'it must be JSON of the form {"weight_map": {tensor name: file name}}'
        ) from error
    for name, shard in pairs.items():
        if Path(shard).name != shard or Path(shard).suffix not in (".safetensors", ".bin"):
            raise CheckpointError(
                f"{index_file} puts tensor {name!r} in {shard!r}; "
                "it must be the name of a .safetensors or .bin file in the same folder"
            )
    if not pairs:
        raise CheckpointError(f"{index_file} lists no tensors; its weight_map must name every tensor of the model")
    return pairs


def _check_index(index_file: Path, tensors: dict[str, TensorInfo]) -> None:
    wrong = [
        f"{name!r} in {shard}" + (f" (it is in {tensors[name].file.name})" if name in tensors else "")
        for name, shard in _weight_map(index_file).items()
        if name not in tensors or tensors[name].file.name != shard
    ]
    if wrong:
        raise CheckpointError(
            f"{index_file} names tensors that its files do not hold: {'; '.join(wrong[:5])}"
            f"{f'; and {len(wrong) - 5} more' if len(wrong) > 5 else ''}. Index and files must come from one release"
        )


def _check_present(file: Path) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; a weight file of that name was asked for (by an index, or by you)")
    refuse_pointer(file)
    if not file.stat().st_size:
        raise CheckpointError(f"{file} is empty (0 bytes); download it again")


def _safetensors_header(file: Path) -> dict[str, TensorInfo]:
    """8 bytes of header length, a JSON header, then the data: https://github.com/huggingface/safetensors#format."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST_HEADER + 1
        if length > _LONGEST_HEADER:
            raise CheckpointError(f"{file} is not a safetensors file: it starts with {start!r}")
        if 8 + length > size:
            raise CheckpointError(f"{file} is truncated: its header takes {8 + length:,} bytes, the file has {size:,}")
        header = stream.read(length)
    try:
        entries: dict[str, dict[str, Any]] = json.loads(header)
        entries.pop("__metadata__", None)
        found = {name: _safetensors_entry(file, name, entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} has a damaged header ({type(error).__name__}: {error})") from error
    _check_ranges(file, found, 8 + length, size)
    return found


def _safetensors_entry(file: Path, name: str, entry: dict[str, Any], base: int) -> TensorInfo:
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(
            f"{file}: tensor {name!r} has dtype {entry['dtype']}; known are {', '.join(sorted(DTYPES))}"
        )
    start, stop = (base + int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(length) for length in entry["shape"])
    info = TensorInfo(name, shape, DTYPES[entry["dtype"]], file, start, stop)
    if stop - start != info.num_bytes or start < base or min(shape, default=0) < 0:
        raise CheckpointError(
            f"{file} has a damaged header: tensor {name!r} {list(shape)} needs {info.num_bytes:,} bytes, "
            f"its range {start}..{stop} has {stop - start:,}"
        )
    return info


def _check_ranges(file: Path, found: dict[str, TensorInfo], start: int, size: int) -> None:
    """The ranges follow each other without gap or overlap, to the end of the file."""
    position = start
    for info in sorted(found.values(), key=lambda info: (info.start, info.stop)):
        if info.start != position:
            raise CheckpointError(
                f"{file} has a damaged header: tensor {info.name!r} {list(info.shape)} starts at byte {info.start:,}, "
                f"the one before ends at {position:,}"
            )
        position = info.stop
        if position > size:
            raise CheckpointError(
                f"{file} is truncated: it has {size:,} of {max(info.stop for info in found.values()):,} bytes; "
                f"the first tensor cut off is {info.name!r} {list(info.shape)}. Download it again"
            )
    if position < size:
        raise CheckpointError(f"{file} has {size:,} bytes where its header describes {position:,}; it is damaged")


def _pickle_header(file: Path) -> dict[str, TensorInfo]:
    loaded = _load_pickle(file, device="meta")
    return {name: TensorInfo(name, tuple(tensor.shape), tensor.dtype, file) for name, tensor in loaded.items()}


def _load_pickle(file: Path, device: str) -> dict[str, Tensor]:
    """A `.bin` file; tensors only, whatever else it may hold is refused. `device="meta"` reads no data."""
    zipped = zipfile.is_zipfile(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on pickle protocols
            loaded = torch.load(file, map_location=device, weights_only=True, mmap=True if zipped else None)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, OSError) as error:
        raise CheckpointError(_pickle_refusal(file, zipped, str(error))) from error
    values = list(loaded.values()) if isinstance(loaded, dict) else [loaded]
    if foreign := [type(value).__name__ for value in values if not isinstance(value, Tensor)]:
        raise CheckpointError(
            f"{file} holds a {type(loaded).__name__} with a {foreign[0]} in it; "
            "it must be one flat dictionary of tensors"
        )
    return {str(name): tensor for name, tensor in loaded.items()}


def _pickle_refusal(file: Path, zipped: bool, reason: str) -> str:
    """torch's text advises to switch its protection off, so only the name of the foreign object is taken from it."""
    with file.open("rb") as stream:
        start = stream.read(8)
    if not zipped and start.startswith(b"PK"):
        return f"{file} is truncated: its table of contents, at the end of the file, is missing. Download it again"
    if foreign := re.search(r"GLOBAL (\S+)|(?:class|type|function) '?([\w.]+)'?", reason):
        name = foreign.group(1) or foreign.group(2)
        return f"{file} holds {name}, which is no tensor; such a file could run code and is refused"
    return f"{file} is damaged or no weight file: it starts with {start!r}"


def _read_range(info: TensorInfo) -> Tensor:
    data = torch.empty(info.num_bytes, dtype=torch.uint8)
    with info.file.open("rb") as stream:
        stream.seek(info.start)
        if stream.readinto(data.numpy().data) != info.num_bytes:
            raise CheckpointError(f"{info.file} ended inside tensor {info.name!r} {list(info.shape)}")
    return data.view(info.dtype).view(info.shape)
