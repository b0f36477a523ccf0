"""Quantized copies of model folders, kept in the user's cache so that a model is quantized once.

A copy is a packed folder without tokenizer, found by what the files of its source are and by the scheme. It is written
beside its place and renamed, so that a copy is whole or not there; `copy.json` says what it is of, and how its own
files must look.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatglm.quant.scheme import QuantScheme

if TYPE_CHECKING:  # both import torch, which listing and removing copies can do without
    from chatglm.model.saving import Source
    from chatglm.model.weights import WeightFolder

FORMAT = 1  # of the packed weights and of copy.json; another number: other copies
_ABOUT = "copy.json"
_PART = ".part-"  # how the name of a copy in the making begins: with a dot, so that it is none yet
_SHARD_SIZE = "1GB"  # what is made and not yet written stays below it
_ROOM = 10**9  # bytes that stay free on the disk
_BLOCK, _BLOCKS = 4096, 16  # what is read of a file to know it again


@dataclass(frozen=True)
class Copy:
    """A copy and what it says of itself."""

    folder: Path
    source: str
    scheme: QuantScheme
    created: float  # seconds since 1970
    num_bytes: int


def cache_folder() -> Path:
    """Where the copies are: `$XDG_CACHE_HOME/chatglm/quantized`, by default under `~/.cache`."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(given) if os.path.isabs(given) else Path.home() / ".cache"  # others than absolute ones do not count
    return home / "chatglm" / "quantized"


def copies() -> list[Copy]:
    """All copies, the oldest first."""
    found = [(path.parent, _read(path)) for path in cache_folder().glob(f"[!.]*/{_ABOUT}")]
    known = [
        Copy(folder, about["source"], QuantScheme.from_dict(about["scheme"]), about["created"], _size(folder))
        for folder, about in found
        if about is not None
    ]
    return sorted(known, key=lambda copy: copy.created)


def clear() -> int:
    """Remove all copies, also what was left of interrupted ones -> the bytes they took."""
    freed = 0
    for folder in cache_folder().glob("*"):
        freed += _size(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def size_text(num_bytes: int) -> str:
    """A size as people read it."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 10**8 else f"{num_bytes / 1e6:.1f} MB"


def find(weights: "WeightFolder", scheme: QuantScheme) -> Path | None:
    """The copy of a folder's weights, checked; None where there is none.

    One whose files are not as they were written is removed.
    """
    folder = _place(weights, scheme)
    about = _read(folder / _ABOUT)
    if about is not None and about["files"] == _stamps(folder.glob("*.safetensors")):
        return folder
    if folder.exists():
        _say(f"the copy {folder} is damaged; it is made again")
        shutil.rmtree(folder, ignore_errors=True)
    return None


def keep(
    weights: "WeightFolder", scheme: QuantScheme, settings: Mapping[str, Any], tensors: "Mapping[str, Source]"
) -> Path | None:
    """Write a copy -> its folder; None, after a line that says why, where the disk has no place for it.

    Args:
        weights: of the source.
        settings: its `config.json`.
        tensors: the quantized weights.
    """
    place = _place(weights, scheme)
    size = sum(tensor.num_bytes for tensor in tensors.values())
    part = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place.parent).free
        if free < size + _ROOM:
            room = f"of {size_text(free)} there {size_text(_ROOM)} stay free"
            _say(f"not kept for later: {size_text(size)} are needed in {place.parent}, {room}")
            return None
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=place.parent))
        _write(part, weights, scheme, settings, tensors)
        _remove_older(weights, scheme)
        _rename(part, place)
    except OSError as error:
        _say(f"not kept for later: {error.filename or place.parent} cannot be written ({error.strerror})")
        return None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    _say(f"the {scheme.name} weights are kept for later in {place} ({size_text(_size(place))}); see chatglm cache")
    return place


def _write(
    part: Path,
    weights: "WeightFolder",
    scheme: QuantScheme,
    settings: Mapping[str, Any],
    tensors: "Mapping[str, Source]",
) -> None:
    from chatglm.model.saving import save_tensors
    from chatglm.quant.model import METHOD

    files = save_tensors(part, tensors, _SHARD_SIZE)
    held = {"quantization_config": {"quant_method": METHOD, "scheme": scheme.to_dict()}}
    plain = {key: value for key, value in settings.items() if key != "quantization_bit"}
    (part / "config.json").write_text(json.dumps({**plain, **held}, indent=2), encoding="utf-8")
    source = str(weights.path.resolve())
    about = {"source": source, "scheme": scheme.to_dict(), "created": time.time(), "files": _stamps(files)}
    (part / _ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")


def _rename(part: Path, place: Path) -> None:
    try:
        part.rename(place)
    except OSError:
        if not (place / _ABOUT).is_file():  # another process may have been faster; its copy is as good
            raise


def _remove_older(weights: "WeightFolder", scheme: QuantScheme) -> None:
    """Those of the same folder as it was before."""
    source = str(weights.path.resolve())
    for copy in copies():
        if (copy.source, copy.scheme) == (source, scheme) and copy.folder != _place(weights, scheme):
            _say(f"{source} has changed; its older copy {copy.folder} is removed")
            shutil.rmtree(copy.folder, ignore_errors=True)


def _place(weights: "WeightFolder", scheme: QuantScheme) -> Path:
    known = [FORMAT, scheme.to_dict(), _stamps(weights.files)]
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:20]
    return cache_folder() / f"{scheme.name}-{key}"


def _stamps(files: Any) -> list[list[Any]]:
    """What tells files apart without reading them whole: name, size, time, and a hash of some of their blocks."""
    return [[file.name, *_stamp(file)] for file in sorted(files)]


def _stamp(file: Path) -> Sequence[Any]:
    state, found = file.stat(), hashlib.sha256()
    with file.open("rb") as stream:
        for index in range(_BLOCKS + 1):
            stream.seek(max(0, state.st_size - _BLOCK) * index // _BLOCKS)
            found.update(stream.read(_BLOCK))
    return state.st_size, state.st_mtime_ns, found.hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    whole = isinstance(about, dict) and {"source", "scheme", "created", "files"} <= set(about)
    return about if whole else None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*") if file.is_file())


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"chatglm: {text}\n")
