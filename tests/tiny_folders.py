"""Small official folders to load, damage and convert."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from golden_data import golden_cases, golden_file
from safetensors.torch import load_file

from chatglm.model.saving import Source, save_tensors

# Cases that hold a model of their own; the others replay another case's.
WITH_WEIGHTS = [
    case for case in golden_cases("numerics") if (golden_file(f"numerics/{case}") / "model.safetensors").is_file()
]
EXPORTABLE = [
    case for case in WITH_WEIGHTS if case[:2] in ("a_", "b_", "c_", "o_", "v2") or case in ("j_one_group", "j_no_bias")
]


def golden_folder(case: str, target: Path) -> Path:
    """A writable copy of one recorded model, with the meaning of rope_ratio stated as the official folders imply it."""
    source = golden_file(f"numerics/{case}")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "model.safetensors", target / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    if "rope_ratio" in config:
        config["rope_ratio_meaning"] = "position" if "v2" in case else "base"
    (target / "config.json").write_text(json.dumps(config, indent=1))
    return target


def base_folder(target: Path) -> Path:
    return golden_folder("a_base", target)


def shard(folder: Path, size: int | str = 200_000) -> list[Path]:
    """Divide a single-file folder into shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    return save_tensors(folder, {name: Source.of(tensor) for name, tensor in tensors.items()}, size)


def as_bin(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda tensors: tensors) -> Path:
    """Store the folder's tensors as `pytorch_model.bin` instead."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(change(tensors), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a single-file folder."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_tensors(folder, {name: Source.of(tensor) for name, tensor in tensors.items()})


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
