"""How much memory a run will take at its peak, told before anything is loaded."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from chatglm.errors import ConfigError
from chatglm.folders.describe import FolderInfo
from chatglm.loading import parse_device
from chatglm.memory import available_memory
from chatglm.model.family import network_of
from chatglm.model.network import ChatGLMForSequenceClassification
from chatglm.train import methods
from chatglm.train.settings import Settings


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak of a step.

    Attributes:
        weights: of the base and of what is added to it.
        learning: gradients and the optimizer's two moments.
        activations: what the backward pass needs of one step.
        scores: logits, their float32 copy and their gradient.
    """

    weights: int
    learning: int
    activations: int
    scores: int

    @property
    def total(self) -> int:
        return self.weights + self.learning + self.activations + self.scores

    def parts(self) -> dict[str, str]:
        """In GB, as messages have them."""
        names = ("weights", "learning", "activations", "scores", "total")
        return {name: f"{getattr(self, name) / 1e9:.2f}" for name in names}


def estimate(info: FolderInfo, settings: Settings, dtype: torch.dtype, tokens: int) -> Estimate:
    """The peak of a run.

    Args:
        info: of the base.
        settings: of the run.
        dtype: the base is held in.
        tokens: of the longest row; it cannot be more than `settings.max_length`.
    """
    with torch.device("meta"):  # tensors with shapes and no memory
        kind: Any = ChatGLMForSequenceClassification if settings.task == "classify" else network_of(info.config)
        model: Any = kind(copy.deepcopy(info.config))
        model.to(dtype=dtype)
        base = sum(_bytes(parameter) for parameter in model.parameters())
        if settings.scheme is not None:
            base = info.weight_bytes(settings.scheme)
        model = methods.prepare(model, settings)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        added = 0 if settings.method == "sft" else sum(map(_bytes, learning))
        saved = _saved(model, settings, tokens)
    scores = settings.rows_at_once * tokens * info.config.padded_vocab_size if settings.task == "answers" else 0
    states = 1 + (2 if "adam" in settings.optimizer else 1) * (0.25 if "8bit" in settings.optimizer else 1)
    return Estimate(
        weights=base + added,
        learning=int(sum(map(_bytes, learning)) * states) + max(map(_bytes, learning)),  # what an update holds besides
        activations=saved,
        scores=scores * (dtype.itemsize + 4 + 4),
    )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _saved(model: Any, settings: Settings, tokens: int) -> int:
    """Bytes that the layers keep for the backward pass, counted while one forward pass runs on shapes alone."""
    held: dict[int, torch.UntypedStorage] = {}
    owned = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned:
            held[storage._cdata] = storage
        return tensor

    network: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = torch.zeros(settings.rows_at_once, tokens, dtype=torch.long)
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network.transformer(input_ids=ids, use_cache=False, attention=_counted)
    kept = sum(storage.nbytes() for storage in held.values())
    return kept + _one_layer(network, settings, tokens) * (2 if settings.checkpointing else 1)


class _Counted(torch.autograd.Function):
    """Keeps for the backward pass what an attention kernel keeps: its inputs and its output, no scores."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out


def _counted(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> Any:
    """An attention function for counting; heads are repeated, as sdpa does."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    counted: Any = _Counted
    return counted.apply(query, key, value).transpose(1, 2).contiguous(), None


def _one_layer(network: nn.Module, settings: Settings, tokens: int) -> int:
    """What the backward pass holds of the layer it is in, about; with checkpointing that is computed again besides."""
    config: Any = network.config
    wide = 6 * config.hidden_size + 5 * config.ffn_hidden_size + 2 * config.qkv_size
    size = next(network.parameters()).element_size()
    return int(settings.rows_at_once * tokens * wide * size)


def check_fit(found: Estimate, settings: Settings) -> None:
    """Raise ConfigError, with numbers and advice, where a run cannot fit the device."""
    place = parse_device(settings.device)
    free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else available_memory()
    if found.total <= free or settings.skip_memory_check:
        return
    parts = found.parts()
    advice = [
        *(["--batch-size 1"] if settings.batch_size > 1 else []),
        *(["--gradient-checkpointing"] if not settings.checkpointing else []),
        *([] if settings.method == "qlora" or settings.kind != "answers" else ["--method qlora"]),
        *(["--quantize int4"] if settings.kind == "pairs" and settings.scheme is None else []),
        f"--max-length {max(8, settings.max_length // 2)}",
    ]
    raise ConfigError(
        f"the run needs about {parts['total']} GB on {place.type} (weights {parts['weights']}, gradients and optimizer "
        f"{parts['learning']}, activations {parts['activations']}, scores {parts['scores']}), and {free / 1e9:.2f} GB "
        f"are free; what helps: {', '.join(advice)} (--skip-memory-check tries it nevertheless)"
    )
