"""Small files that change a base model: P-Tuning v2 prefixes and LoRA folders, as the official scripts wrote them."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from chatglm.errors import CheckpointError, MissingExtraError
from chatglm.model.files import read_json
from chatglm.model.layout import PREFIX, AnyConfig, is_first, prefix_shapes
from chatglm.model.plain_config import ConfigFields
from chatglm.model.weights import INDEX_FILES, TensorInfo, WeightFolder, read_file, read_header

if TYPE_CHECKING:
    from chatglm.model.network import ChatGLMPreTrainedModel

_PREFIX_NAMES = re.compile(r"(?:(?:transformer\.)?prefix_encoder\.)?(embedding\.weight|trans\.[02]\.(?:weight|bias))")
_LORA_NAMES = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
_UNMERGEABLE = (
    "an adapter cannot be merged into quantized weights; load the base model with dequantize=True, or without "
    "quantization, and merge there"
)
_BEYOND_PRODUCTS = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "fan_in_fan_out",
    "trainable_token_indices",
    "use_qalora",
)
PREFIX_FILE, PREFIX_CONFIG_FILE = "prefix.safetensors", "prefix_config.json"  # as `chatglm finetune` writes a prefix
_PATH = re.compile(r"[\w.]+")
_LORA_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def read_prefix(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a prefix encoder, named as inside the module (`embedding.weight`, `trans.0.weight`, ...).

    Args:
        path: a `.bin` or `.safetensors` file, or a folder with one, such as `chatglm finetune` writes; a whole model
            that contains a prefix serves too.

    Raises:
        CheckpointError: no prefix in there, or a damaged file.
    """
    path = Path(path)
    if (path / PREFIX_FILE).is_file():
        path = path / PREFIX_FILE
    _refuse_peft_prefix(path)
    source: WeightFolder | dict[str, Tensor] = WeightFolder(path) if path.is_dir() else read_file(path)
    names = list(source.tensors if isinstance(source, WeightFolder) else source)
    read = source.read if isinstance(source, WeightFolder) else source.__getitem__
    found = {match.group(1): read(name) for name in names if (match := _PREFIX_NAMES.fullmatch(name))}
    if "embedding.weight" not in found:
        raise CheckpointError(
            f"{path} holds no P-Tuning v2 prefix: '{PREFIX}embedding.weight' is missing; found {', '.join(names[:5])}"
        )
    return found


def configure_prefix(config: AnyConfig, prefix: Mapping[str, Tensor], source: str | Path = "the file") -> None:
    """Set `pre_seq_len` and `prefix_projection` to what a prefix says, or check them where they are set.

    Raises:
        CheckpointError: the prefix belongs to another model; names tensor, expected and found shape.
    """
    rows = prefix["embedding.weight"].shape[0]
    if config.pre_seq_len not in (None, rows):
        raise CheckpointError(
            f"{source}: the prefix has {rows} rows, but the configuration says pre_seq_len {config.pre_seq_len}; "
            "they must be equal (leave pre_seq_len unset to take it from the file)"
        )
    projection = config.prefix_projection if config.pre_seq_len is not None else "trans.0.weight" in prefix
    expected = {name.removeprefix(PREFIX): shape for name, shape in prefix_shapes(config, rows, projection).items()}
    for name in sorted({*expected, *prefix}):
        found = list(prefix[name].shape) if name in prefix else "missing"
        wanted = list(expected[name]) if name in expected else "no such tensor (prefix_projection is false)"
        if found != wanted:
            raise CheckpointError(f"{source}: tensor '{PREFIX}{name}' is {found}, expected {wanted} for this model")
    config.pre_seq_len, config.prefix_projection = rows, projection


def load_prefix(model: "ChatGLMPreTrainedModel", path: str | Path) -> "ChatGLMPreTrainedModel":
    """Put a P-Tuning v2 prefix into a model, which need not have been built with one. The prefix keeps its dtype.

    Raises:
        CheckpointError: as for `read_prefix` and `configure_prefix`; the model is then unchanged.
    """
    prefix = read_prefix(path)
    configure_prefix(model.config, prefix, path)
    with torch.device("meta"):
        encoder = new_prefix_encoder(model.config)
    encoder.load_state_dict({name: tensor.to(model.device) for name, tensor in prefix.items()}, assign=True)
    model.base_model.prefix_encoder = encoder.train(model.training)
    return model


def new_prefix_encoder(config: AnyConfig) -> nn.Module:
    """The prefix encoder a configuration asks for, of either form."""
    if is_first(config):
        from chatglm.model.v1.layers import PrefixEncoder as FirstPrefixEncoder

        return FirstPrefixEncoder(config)
    from chatglm.model.trunk import PrefixEncoder

    return PrefixEncoder(cast(ConfigFields, config))


def attach_lora(model: "ChatGLMPreTrainedModel", folder: str | Path, *, merge: bool = False) -> Any:
    """Attach a LoRA folder to a model; the base model its configuration names need not exist.

    Args:
        model: the base model, full or quantized.
        folder: `adapter_config.json` with `adapter_model.safetensors` or `.bin`.
        merge: add the adapter into the weights and return the plain model.

    Returns:
        The peft model around `model` (its own methods, such as `chat`, stay reachable), or with `merge` the model.

    Raises:
        MissingExtraError: peft is not installed.
        CheckpointError: the folder is not a LoRA adapter of this model; merging into quantized weights.
    """
    folder = Path(folder)
    _verify_lora(model, folder)
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "peft", "Attaching a LoRA adapter") from error
    config = peft.PeftConfig.from_pretrained(str(folder))
    config.base_model_name_or_path = model.config.name_or_path  # the path of the training machine says nothing here
    linears = {type(module) for module in model.modules() if _is_stored_linear(module)}
    if linears and merge:
        raise CheckpointError(_UNMERGEABLE)
    config._register_custom_module(dict.fromkeys(linears, _unmergeable(peft.tuners.lora.layer.Linear)))
    with warnings.catch_warnings():  # peft uses a name transformers has changed, and does not know our storage
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Unsupported layer type '<class 'chatglm", category=UserWarning)
        attached = peft.PeftModel.from_pretrained(model, str(folder), config=config)
    return attached.merge_and_unload() if merge else attached


def read_lora(model: nn.Module, folder: str | Path) -> dict[str, tuple[Tensor, Tensor, float]]:
    """What a LoRA folder adds to a model's linears: by module path `down` [rank, in], `up` [out, rank], the factor.

    Raises:
        CheckpointError: the folder is not a LoRA adapter of this model, or changes more than such products can.
    """
    folder = Path(folder)
    file, options = _verify_lora(model, folder), _adapter_options(folder)
    more = [name for name in _BEYOND_PRODUCTS if options.get(name)]
    if options.get("bias", "none") != "none":
        more.append("bias")
    if more:
        raise CheckpointError(f"{folder} uses {', '.join(more)}, which is no plain LoRA; merge it into the weights")
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_file(file).items():
        match = _LORA_NAMES.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{file} holds {name!r}, which is no lora_A or lora_B of a linear layer")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    half = next((module for module, found in sides.items() if len(found) < 2), None)
    if half is not None:
        raise CheckpointError(f"{file} holds one of lora_A and lora_B for {half}; it must hold both")
    return {module: (found["A"], found["B"], _factor(options, module)) for module, found in sides.items()}


def _factor(options: Mapping[str, Any], module: str) -> float:
    """alpha / rank of one module, as peft computes it."""
    rank, alpha = (_of_module(options, name, module) for name in ("r", "lora_alpha"))
    try:
        return float(alpha) / (float(rank) ** 0.5 if options.get("use_rslora") else float(rank))
    except (TypeError, ValueError, ZeroDivisionError):
        raise CheckpointError(
            f"r is {rank!r} and lora_alpha {alpha!r} in adapter_config.json; both are numbers"
        ) from None


def _of_module(options: Mapping[str, Any], name: str, module: str) -> Any:
    which = "rank_pattern" if name == "r" else "alpha_pattern"
    patterns = options.get(which) or {}
    if not isinstance(patterns, dict) or not all(_PATH.fullmatch(key) for key in patterns):
        raise CheckpointError(f"{which} is {patterns!r:.200} in adapter_config.json; its keys must be names of modules")
    own = (value for key, value in patterns.items() if module == key or module.endswith(f".{key}"))
    return next(own, options.get(name))


def is_prefix_folder(folder: Path) -> bool:
    """Whether a folder holds a prefix as `chatglm finetune` writes it."""
    return (folder / PREFIX_CONFIG_FILE).is_file() and (folder / PREFIX_FILE).is_file()


def _is_stored_linear(module: nn.Module) -> bool:
    """A linear layer over quantized storage, whatever its class."""
    stored = hasattr(module, "weight_scale") or hasattr(module, "packed_values")
    return hasattr(module, "in_features") and stored


def _unmergeable(base: type) -> type:
    """peft's LoRA layer for storage that cannot take an adapter in: peft itself would drop the adapter silently."""

    def merge(*_: Any, **__: Any) -> None:
        raise CheckpointError(_UNMERGEABLE)

    return type("Unmergeable", (base,), {"merge": merge})


def _verify_lora(model: nn.Module, folder: Path) -> Path:
    options = _adapter_options(folder)
    if options.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{folder / 'adapter_config.json'} has peft_type {options.get('peft_type')!r}; only LORA can be attached"
        )
    if options.get("task_type") == "SEQ_CLS" and not hasattr(model, "classifier_head"):
        raise CheckpointError(
            f"{folder} was made to give texts labels, not to answer; transformers' AutoModelForSequenceClassification "
            "loads it, see docs/finetuning.md"
        )
    file = next((folder / name for name in _LORA_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"no adapter weights in {folder}: expected {' or '.join(_LORA_FILES)}")
    matches = [(info, _LORA_NAMES.fullmatch(name)) for name, info in read_header(file).items()]
    if not any(match for _, match in matches):
        raise CheckpointError(f"{file} holds no LoRA tensors; found {', '.join(i.name for i, _ in matches[:5])}")
    for info, match in matches:
        if match is not None:
            _verify_lora_tensor(model, info, match["module"], match["side"])
    return file


def _verify_lora_tensor(model: nn.Module, info: TensorInfo, name: str, side: str) -> None:
    try:
        module: Any = model.get_submodule(name)
    except AttributeError:
        raise CheckpointError(
            f"{info.file}: tensor {info.name!r} {list(info.shape)} is for a module {name!r}, which this model does "
            "not have; the adapter was made for another model"
        ) from None
    if not hasattr(module, "in_features"):
        return
    position, size = (-1, module.in_features) if side == "A" else (0, module.out_features)
    if len(info.shape) != 2 or info.shape[position] != size:
        wanted = f"[rank, {size}]" if side == "A" else f"[{size}, rank]"
        raise CheckpointError(f"{info.file}: tensor {info.name!r} has shape {list(info.shape)}, expected {wanted}")


def _adapter_options(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no adapter folder: adapter_config.json is missing")
    return read_json(path)


def _refuse_peft_prefix(path: Path) -> None:
    """peft's own prefix tuning stores other tensors under the same idea."""
    if path.is_dir() and (path / "adapter_config.json").is_file():
        if (kind := _adapter_options(path).get("peft_type")) == "LORA":
            raise CheckpointError(f"{path} is a LoRA adapter, not a P-Tuning v2 prefix; pass it as adapter=")
        if not any((path / name).is_file() for name in ("model.safetensors", "pytorch_model.bin", *INDEX_FILES)):
            raise CheckpointError(
                f"{path} is a peft {kind} adapter; expected the official P-Tuning v2 form with {PREFIX}embedding.weight"
            )
