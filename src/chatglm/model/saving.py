"""Writing weight folders: safetensors shards and their index, one tensor in memory at a time.

The bytes are those the safetensors library writes for the same tensors. Files appear under their final name only when
complete, so a folder whose weights are mapped into memory may be written over.
"""

import json
import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatglm.errors import CheckpointError
from chatglm.model.weights import DTYPES, INDEX_FILES, SINGLE_FILES

_CODES = {dtype: code for code, dtype in DTYPES.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(_CODES)}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_OWN_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
# With this limit the 6B models split into the seven files of the official release.
OFFICIAL_SHARD_SIZE = "2GB"


@dataclass(frozen=True)
class Source:
    """A tensor that is made when it is asked for: its shape and dtype are known before."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> "Source":
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def __getitem__(self, index: Any) -> Tensor:
        """`source[...]` makes the tensor, so that transformers can take sources for an opened file."""
        return self.read()[index]

    def is_floating_point(self) -> bool:
        """As of a tensor."""
        return self.dtype.is_floating_point

    @property
    def num_bytes(self) -> int:
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


def save_tensors(
    folder: str | Path,
    tensors: Mapping[str, Source],
    max_shard_size: int | str = OFFICIAL_SHARD_SIZE,
    *,
    layout: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write tensors as `model.safetensors`, or as numbered shards with an index when they exceed `max_shard_size`.

    The order of `tensors` decides the shards; `layout` (tensor name -> file name) instead repeats an earlier division
    where it is one of safetensors files that covers every tensor. Weight files of an earlier save are removed.

    Raises:
        CheckpointError: a size that is no size, a tensor that is not what its source announced, or a folder that
        cannot be made.
    """
    folder = Path(folder)
    make_folder(folder)
    groups = _repeat(tensors, layout or {}) or _split(tensors, parse_size(max_shard_size))
    for name, group in groups.items():
        write_safetensors(folder / name, group)
    if list(groups) != [SINGLE_FILES[0]]:
        _write_index(folder / INDEX_FILES[0], groups)
    _remove_stale(folder, keep=list(groups))
    return [folder / name for name in groups]


def make_folder(folder: Path) -> None:
    """Make a folder to write to, unless it is there.

    Raises:
        CheckpointError: a file is in the way, or the place cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give a folder to write to")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"the folder {folder} cannot be made: {error.strerror}; give another one") from error


def write_safetensors(file: Path, tensors: Mapping[str, Source]) -> None:
    """Write one safetensors file, tensor by tensor."""
    _check_dtypes(tensors)
    # The library's order: by dtype, the wide ones first for alignment, then by name.
    names = sorted(tensors, key=lambda name: (_RANKS[tensors[name].dtype], name))
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as stream:
            stream.write(_header(names, tensors))
            for name in names:
                stream.write(_bytes(name, tensors[name]))
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def parse_size(size: int | str) -> int:
    """Bytes of "2GB", "500MB", "1GiB" or a plain number.

    Raises:
        CheckpointError: the text is no size.
    """
    match = re.fullmatch(r"(\d+)\s*([KMG]?I?B?)", str(size).strip().upper())
    if match is None or match.group(2) not in _UNITS or int(match.group(1)) < 1:
        raise CheckpointError(f'max_shard_size is {size!r}; it must be a number of bytes, or like "2GB" or "500MB"')
    return int(match.group(1)) * _UNITS[match.group(2)]


def _split(tensors: Mapping[str, Source], limit: int) -> dict[str, dict[str, Source]]:
    """Fill one file after the other, never moving a tensor ahead of an earlier one."""
    groups: list[dict[str, Source]] = [{}]
    used = 0
    for name, source in tensors.items():
        if groups[-1] and used + source.num_bytes > limit:
            groups.append({})
            used = 0
        groups[-1][name] = source
        used += source.num_bytes
    if len(groups) == 1:
        return {SINGLE_FILES[0]: groups[0]}
    names = (f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1))
    return dict(zip(names, groups, strict=True))


def _repeat(tensors: Mapping[str, Source], layout: Mapping[str, str]) -> dict[str, dict[str, Source]]:
    """The division an earlier folder had; nothing where the layout does not fit these tensors."""
    if set(layout) != set(tensors) or not all(_OWN_FILES.fullmatch(str(file)) for file in layout.values()):
        return {}
    groups: dict[str, dict[str, Source]] = {file: {} for file in sorted(set(layout.values()))}
    for name, source in tensors.items():
        groups[layout[name]][name] = source
    return groups


def _check_dtypes(tensors: Mapping[str, Source]) -> None:
    for name, source in tensors.items():
        if source.dtype not in _CODES:
            raise CheckpointError(f"tensor {name!r} has dtype {source.dtype}; a weight file holds {', '.join(DTYPES)}")


def _header(names: list[str], tensors: Mapping[str, Source]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        source = tensors[name]
        if source.dtype not in _CODES:
            raise CheckpointError(
                f"tensor {name!r} has dtype {source.dtype}, which a safetensors file cannot hold here"
            )
        stop = offset + source.num_bytes
        entries[name] = {"dtype": _CODES[source.dtype], "shape": list(source.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _bytes(name: str, source: Source) -> memoryview:
    tensor = source.read().detach()
    if tuple(tensor.shape) != source.shape or tensor.dtype != source.dtype:
        raise CheckpointError(
            f"tensor {name!r} came as {tensor.dtype} {list(tensor.shape)}, announced was "
            f"{source.dtype} {list(source.shape)}"
        )
    if tensor.device.type == "meta":
        raise CheckpointError(f"tensor {name!r} has no values (it is on the meta device); load the model before saving")
    return tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _write_index(file: Path, shards: dict[str, dict[str, Source]]) -> None:
    total = sum(source.num_bytes for group in shards.values() for source in group.values())
    weight_map = {name: shard for shard, group in shards.items() for name in group}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, file)


def _remove_stale(folder: Path, keep: list[str]) -> None:
    """An older `model.safetensors` beside new shards would win over them."""
    for path in folder.glob("model*.safetensors"):
        if path.name not in keep and _OWN_FILES.fullmatch(path.name):
            path.unlink()
    if keep == [SINGLE_FILES[0]]:
        (folder / INDEX_FILES[0]).unlink(missing_ok=True)
