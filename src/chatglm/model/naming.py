"""Which tensors of a weight folder are the model's, whatever the program that wrote it called them.

Training tools put the model into wrappers, whose names stand before or inside those of its tensors, and save what they
needed beside it: copies of a tensor under a second name, heads for rewards and values, the state of an optimizer.
"""

import re
import warnings

import torch

from chatglm.errors import CheckpointError
from chatglm.model.layout import CLASSIFIER, OUTPUT, canonical_name
from chatglm.model.weights import WeightFolder

# DDP and DeepSpeed; peft; Lightning and others; trl; torch.compile; FSDP; activation checkpointing.
_AROUND = ("module.", "_forward_module.", "base_model.model.", "base_model.", "model.", "pretrained_model.")
_INSIDE = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_HEAD_COPY = "lm_head.weight"
_FIRST_GENERATION = ".attention.query_key_value."  # whose output layer has that name
_TRAINING_ONLY = re.compile(
    r"(?:transformer\.)?(?:v_head|value_head|reward_head|score)\..+"
    r"|optimi[sz]er\..+|(?:.+\.)?(?:exp_avg|exp_avg_sq|momentum_buffer)"
    r"|transformer\.encoder\..+\.inv_freq"  # computed where it is needed
)
_UNMERGED = re.compile(r".*\.(?:lora_[A-Za-z_]+|base_layer|modules_to_save|original_module)\..*")


def select(weights: WeightFolder) -> WeightFolder:
    """The same folder with the model's tensors alone, under their official names. What is left out is warned of.

    A tensor may be there twice, under two names; a `lm_head.weight` counts as the output layer. Then the two are read.

    Raises:
        CheckpointError: two tensors for one place that differ; weights with an adapter that was not merged.
    """
    chosen: dict[str, str] = {}
    first_generation = any(_FIRST_GENERATION in name for name in weights.tensors)
    left_out: list[str] = []
    for stored in sorted(weights.tensors, key=lambda name: name.endswith(_HEAD_COPY)):  # official names first
        if _UNMERGED.fullmatch(stored):
            raise CheckpointError(
                f"{weights.tensors[stored].file} holds {stored!r}, part of an adapter that was not merged; save the "
                "merged model (peft: merge_and_unload), or save the adapter alone and load it beside the base model"
            )
        bare = _unwrapped(stored)
        name = OUTPUT if bare == _HEAD_COPY and not first_generation else canonical_name(bare)
        if _TRAINING_ONLY.fullmatch(bare):
            left_out.append(stored)
        elif name in chosen:
            _check_copy(weights, chosen[name], stored)
            left_out.append(stored)
        else:
            chosen[name] = stored
    if left_out and any(name.startswith(("transformer.encoder.", CLASSIFIER)) for name in chosen):
        warnings.warn(f"{weights.path}: left out, as no part of the model: {_listed(left_out)}", stacklevel=4)
    return weights.renamed(chosen)


def read_by_others(weights: WeightFolder) -> bool:
    """Whether transformers finds all tensors of a selected folder by their names alone, and no others."""
    names = [(name, info.name) for name, info in weights.tensors.items()]
    inner = all(stored == name.removeprefix("transformer.") for name, stored in names)
    return weights.is_whole and (inner or all(stored == name for name, stored in names))


def _unwrapped(name: str) -> str:
    """A name without those of the wrappers."""
    name = _INSIDE.sub("", name)
    while (around := next((part for part in _AROUND if name.startswith(part)), None)) is not None:
        name = name.removeprefix(around)
    return name


def _check_copy(weights: WeightFolder, first: str, second: str) -> None:
    one, other = weights.tensors[first], weights.tensors[second]
    if one.shape != other.shape or not _same(weights.read(first), weights.read(second)):
        raise CheckpointError(
            f"{other.file.name}: tensor {second!r} {list(other.shape)} stands for the same part of the model as "
            f"{first!r} {list(one.shape)}, and they differ; remove the one that is not meant"
        )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal, or one is the other rounded to its dtype."""
    return torch.equal(one.to(other.dtype), other) or torch.equal(one, other.to(one.dtype))


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
