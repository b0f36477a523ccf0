"""How a model is tuned: which of its parameters learn, how they are written, and how they are read back."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.errors import ConfigError, MissingExtraError, TrainingError
from chatglm.model.adapters import PREFIX_CONFIG_FILE, PREFIX_FILE, new_prefix_encoder, read_prefix
from chatglm.model.layout import PREFIX
from chatglm.model.weights import WeightFolder
from chatglm.train.settings import Settings

_LORA_FILE = "adapter_model.safetensors"


def prepare(model: Any, settings: Settings) -> Any:
    """The model to train: with what learns added and everything else frozen; its adapters are float32.

    Raises:
        ConfigError: a target that no linear layer is named by, or a base that has been tuned in this way already.
        MissingExtraError: peft is not installed.
    """
    if settings.checkpointing:
        with quiet_peft():
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.method == "sft":
        if settings.fresh:
            torch.manual_seed(settings.seed)
            _renew(model)
        return model.requires_grad_(True)
    model.requires_grad_(False)
    if settings.method == "ptuning":
        return _with_prefix(model, settings)
    return _with_lora(model, settings)


def _renew(model: Any) -> None:
    """New weights, as a model that is built from its configuration has them."""
    fresh = type(model)(model.config)
    model.load_state_dict(fresh.state_dict())


def _with_prefix(model: Any, settings: Settings) -> Any:
    if model.config.pre_seq_len is not None:
        raise ConfigError(f"the base has a P-Tuning prefix of {model.config.pre_seq_len} already; give one without")
    model.config.pre_seq_len = settings.prefix_length
    model.config.prefix_projection = settings.prefix_projection
    torch.manual_seed(settings.seed)
    model.base_model.prefix_encoder = new_prefix_encoder(model.config).to(model.device, torch.float32)
    return model


def _with_lora(model: Any, settings: Settings) -> Any:
    peft = import_peft("Training a LoRA adapter")
    linears = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "in_features")}
    wrong = next((name for name in settings.targets if name.rpartition(".")[2] not in linears), None)
    if wrong is not None:
        raise ConfigError(f"no linear layer is named {wrong!r}; targets may be: {', '.join(sorted(linears))}")
    labels = settings.task == "classify"  # the head is new, and trained as it is
    config = peft.LoraConfig(
        task_type="SEQ_CLS" if labels else "CAUSAL_LM",
        modules_to_save=["classifier_head"] if labels else None,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.targets),
        use_dora=settings.method == "dora",
        use_rslora=settings.method == "rslora",
    )
    torch.manual_seed(settings.seed)
    with quiet_peft():
        return peft.get_peft_model(model, config)


def import_peft(purpose: str) -> Any:
    """The package peft.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "finetune", purpose) from error
    return peft


@contextmanager
def quiet_peft() -> Iterator[None]:
    """peft uses a name transformers has changed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        yield


def save(model: Any, folder: Path, settings: Settings, state: Mapping[str, Tensor] | None = None) -> None:
    """Write what was trained: a LoRA folder, a prefix alone, or the whole model.

    Args:
        model: as `prepare` gave it.
        folder: to write.
        settings: of the run.
        state: the model's state, where it had to be gathered from several devices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if settings.method == "ptuning":
        _save_prefix(model, folder, model.state_dict() if state is None else state)
    else:
        model.save_pretrained(folder, **({} if state is None else {"state_dict": dict(state)}))
        (folder / "README.md").unlink(missing_ok=True)  # an empty form of peft's


def _save_prefix(model: Any, folder: Path, state: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous().cpu() for name, tensor in state.items() if name.startswith(PREFIX)}
    save_file(tensors, folder / PREFIX_FILE, metadata={"format": "pt"})
    told = {
        "base_model_name_or_path": model.config.name_or_path,
        "pre_seq_len": model.config.pre_seq_len,
        "prefix_projection": model.config.prefix_projection,
    }
    (folder / PREFIX_CONFIG_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def restore(model: Any, folder: Path, settings: Settings) -> None:
    """Put what `save` has written back into a model that `prepare` gave.

    Raises:
        TrainingError: it does not fit. CheckpointError: it is damaged.
    """
    if settings.method == "ptuning":
        _fill(model.base_model.prefix_encoder, read_prefix(folder), folder)
    elif settings.method == "sft":
        known = model.state_dict().keys()
        _fill(model, {name: tensor for name, tensor in WeightFolder(folder).items() if name in known}, folder)
    else:
        from safetensors.torch import load_file

        found = import_peft("Going on with a LoRA adapter").set_peft_model_state_dict(
            model, load_file(folder / _LORA_FILE)
        )
        if found.unexpected_keys:
            raise TrainingError(f"{folder} is of another run: it holds {found.unexpected_keys[0]!r}")


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise TrainingError(f"{folder} is of another run: {error}") from error
