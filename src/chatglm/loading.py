"""From a folder or hub name to a model and its tokenizer, with defaults that fit the machine.

The one place where model, storage and adapters meet. What a checkpoint is made of is `model/`'s knowledge, how smaller
weights work is `quant/`'s.
"""

import copy
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from chatglm import copies
from chatglm import hub as hubs
from chatglm.errors import CheckpointError, ConfigError, HubError
from chatglm.memory import available_memory, check_memory
from chatglm.model.adapters import PREFIX_CONFIG_FILE, attach_lora, is_prefix_folder, load_prefix
from chatglm.model.checkpoint import full_tensors, smaller_tensors, stored_tensors, verify_folder
from chatglm.model.files import read_json
from chatglm.model.plain_config import RopeRatioMeaning, read_settings
from chatglm.model.weights import WeightFolder
from chatglm.progress import progress_line
from chatglm.quant.scheme import QuantScheme

if TYPE_CHECKING:
    from chatglm.model.tokenizer import ChatGLMTokenizer

_SMALL = 2 * 10**9  # bytes of a float32 copy that is no burden anywhere
_ROOM = 1.2  # how much more memory than a float32 copy must be free to choose it


def load(
    name_or_folder: str | Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: Any = None,
    quantize: QuantScheme | int | str | None = None,
    dequantize: bool = False,
    adapter: str | Path | None = None,
    merge_adapter: bool = False,
    prefix: str | Path | None = None,
    tokenizer: str | Path | None = None,
    hub: str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    rope_ratio_meaning: RopeRatioMeaning | None = None,
    cache: bool | None = None,
) -> tuple[Any, "ChatGLMTokenizer"]:
    """Load a model and its tokenizer, ready to answer.

    Args:
        name_or_folder: a folder, a hub name, an adapter folder whose base model is at hand; None: the embedded model.
            An adapter is a LoRA folder, or a prefix as `chatglm finetune` writes it.
        dtype: of the weights; "auto" is that of the checkpoint. By default what `default_dtype` chooses.
        device: "cpu", "cuda", "cuda:1", "mps"; by default the best there is; see `parse_device`.
        device_map: several devices, as in transformers; instead of `device`.
        quantize: "int4" (or 4): groups of 32 columns; "int8" (or 8); "int4-g128", "int4-rowwise" (the official
            format), ...: see `QuantScheme.parse` and docs/quantization.md. The weights are quantized as they are read,
            matrix by matrix. A checkpoint that has these bits already stays as it is.
        dequantize: give an INT8 / INT4 checkpoint full weights, exactly as stored; by default it stays quantized.
        adapter: adapter folder or hub name to attach; with `merge_adapter` a LoRA becomes part of the weights.
        prefix: P-Tuning v2 file or folder.
        tokenizer: folder of the tokenizer, where the model's has none.
        hub, revision: as for `chatglm.hub.resolve`.
        attn_implementation: "sdpa" (default), "eager", "flash_attention_2", ...
        rope_ratio_meaning: "base" or "position", for folders that set `rope_ratio` and do not tell.
        cache: keep what `quantize` makes in the user's cache, and use what was kept (see `copies.py`); by default for
            folders of more than 2 GB.

    Returns:
        The model in evaluation mode, and its tokenizer.

    Raises:
        HubError: the name leads nowhere. CheckpointError: damaged or unfitting files. ConfigError: contradictory
        options, a device that is not here, less free memory than the weights need. MissingExtraError: an option needs a
        package that is not installed.
    """
    from chatglm.model.family import read_any_config

    _check_paths(name_or_folder=name_or_folder, adapter=adapter, prefix=prefix, tokenizer=tokenizer)
    scheme = None if quantize is None else QuantScheme.parse(quantize)
    if device_map is not None and (device is not None or scheme is not None):
        raise ConfigError("device_map cannot be combined with device or quantize; give one of them")
    place = None if device_map is not None else parse_device(device)
    folder = demo_folder() if name_or_folder is None else hubs.resolve(name_or_folder, hub=hub, revision=revision)
    folder, adapter = _split_adapter(folder, adapter, hub)
    if adapter is not None:
        adapter = hubs.resolve(adapter, hub=hub)
        if is_prefix_folder(adapter):
            if prefix is not None:
                raise ConfigError(
                    f"{adapter} is a P-Tuning prefix, and prefix={str(prefix)!r} another; give one of them"
                )
            adapter, prefix = None, adapter
    overrides = {} if rope_ratio_meaning is None else {"rope_ratio_meaning": rope_ratio_meaning}
    config = read_any_config(folder, **overrides)
    chosen = choose_dtype(dtype, folder, place)
    language = _load_tokenizer(Path(tokenizer) if tokenizer is not None else folder)
    options: dict[str, Any] = {"config": config, "dequantize": dequantize}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    merge = adapter is not None and merge_adapter
    full = dequantize or not (config.quantization_bit or getattr(config, "quantization_config", None))
    if scheme is not None:
        rest = chosen if dtype is not None else beside_quantized(chosen, place)
        if full and not merge:
            model = _load_smaller(folder, options, scheme, rest, cache)
        else:  # from the weights as stored; the device never holds them whole
            model = _load_model(folder, options | {"dtype": "auto"})
    else:
        if place is not None and place.type == "cpu":
            weights = WeightFolder(folder)
            check_memory(weights, config, chosen, full_tensors(weights, config) if full else stored_tensors(weights))
        model = _load_model(folder, options | {"dtype": chosen, "device_map": device_map or _device_map(place)})
    if prefix is not None:
        model = load_prefix(model, prefix)
    if merge:
        assert adapter is not None
        model = attach_lora(model, adapter, merge=True)
    if scheme is not None:
        model = _quantize(model, scheme, rest)
    if adapter is not None and not merge_adapter:
        model = attach_lora(model, adapter)
    model = (model if place is None else model.to(place)).eval()
    return (ready_for_cpu(model) if model.device.type == "cpu" else model), language


def load_tokenizer(name_or_folder: str | Path | None = None, *, hub: str | None = None) -> "ChatGLMTokenizer":
    """The tokenizer of a model alone; names as for `load`.

    Raises:
        HubError: the name leads nowhere. CheckpointError: the folder has no tokenizer.
    """
    _check_paths(name_or_folder=name_or_folder)
    return _load_tokenizer(demo_folder() if name_or_folder is None else hubs.resolve(name_or_folder, hub=hub))


def load_as(options: Any) -> tuple[Any, "ChatGLMTokenizer"]:
    """`load` with the parsed options of a command line, those of `chatglm.cli.options.add_loading`."""
    names = ("dtype", "device", "quantize", "hub", "adapter", "prefix", "rope_ratio_meaning")
    given = {name: getattr(options, name) for name in names}
    return load(options.model, cache=False if options.no_cache else None, **given)


def best_device() -> str:
    """The kind of device to use when nobody says: "cuda" or "mps" where there is one, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def parse_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        ConfigError: no device of that name is here; lists those that are.
    """
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if other is not None and other.type not in ("cuda", "mps"):
        here += [f"{other.type}:{index}" for index in range(torch.accelerator.device_count())]
    try:
        place = torch.device(best_device() if device is None else device)
    except (RuntimeError, TypeError):
        place = None
    kinds = [name.partition(":")[0] for name in here]
    if place is None or (place.index or 0) >= kinds.count(place.type):
        raise ConfigError(f"device is {str(device)!r}; it must be one that is here: {', '.join(here)}")
    return place


def default_dtype(folder: str | Path, device: torch.device | str | None = None) -> torch.dtype:
    """The dtype to hold a checkpoint's floating point weights in, when nobody says.

    On an accelerator, and for float32 checkpoints: the checkpoint's own. On a CPU half precision is a question of the
    chip: float32 where that takes under 2 GB; bfloat16 where the chip multiplies it (AVX512-BF16, AMX: half the memory
    and several times the speed of float32 on long prompts; float16 is slow there); else float32 if memory allows; else
    bfloat16.
    """
    weights = WeightFolder(folder)
    floats = [info for info in weights.tensors.values() if info.dtype.is_floating_point]
    stored = max(floats, key=lambda info: info.num_elements).dtype
    if torch.device(device or best_device()).type != "cpu" or stored == torch.float32:
        return stored
    needed = 4 * sum(info.num_elements for info in floats)
    if needed < _SMALL:
        return torch.float32
    if _has_native_bfloat16() or needed * _ROOM > available_memory():
        return torch.bfloat16
    return torch.float32


def demo_folder() -> Path:
    """The folder of the embedded model.

    Raises:
        CheckpointError: this installation lacks it.
    """
    folder = Path(str(resources.files("chatglm.demo"))) / "weights"
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"the embedded model is missing from this installation: no {folder / 'config.json'}")
    return folder


def _has_native_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def choose_dtype(dtype: torch.dtype | str | None, folder: Path, place: torch.device | None) -> torch.dtype | str:
    if dtype is None:
        return default_dtype(folder, place)
    if dtype == "auto":
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f'dtype is {dtype!r}; it must be "float32", "float16", "bfloat16" or "auto"')
    return found


def _check_paths(**given: object) -> None:
    for name, value in given.items():
        if value is not None and not isinstance(value, (str, Path)):
            raise ConfigError(f"{name} is {value!r:.200}; it must be a folder or a hub name")


def _split_adapter(folder: Path, adapter: str | Path | None, hub: str | None) -> tuple[Path, str | Path | None]:
    """For a folder that is itself an adapter: its base model and the folder as adapter."""
    path = folder / (PREFIX_CONFIG_FILE if is_prefix_folder(folder) else "adapter_config.json")
    if (folder / "config.json").is_file() or not path.is_file() or adapter is not None:
        return folder, adapter
    base = read_json(path).get("base_model_name_or_path")
    if not base:
        raise CheckpointError(
            f"{folder} is an adapter and names no base model; load the base and pass adapter={folder}"
        )
    try:
        return hubs.resolve(base, hub=hub), folder
    except HubError as error:
        raise CheckpointError(
            f"{folder} is an adapter for {base!r}, which is not to be had here; "
            f"load the base model from where it is now and pass adapter={str(folder)!r}"
        ) from error


def _load_tokenizer(folder: Path) -> "ChatGLMTokenizer":
    from chatglm.model.tokenizer import ChatGLMTokenizer, is_first_generation

    if not (folder / "tokenizer.model").is_file() and not is_first_generation(folder):
        raise CheckpointError(
            f"{folder} has no tokenizer.model (ChatGLM-6B: ice_text.model); copy it there from the base model "
            "(or, in Python, pass tokenizer=FOLDER)"
        )
    if (words := folder / "tokenizer_config.json").is_file():
        read_json(words)
    result: ChatGLMTokenizer = ChatGLMTokenizer.from_pretrained(folder)
    return result


def _device_map(place: torch.device | None) -> dict[str, torch.device] | None:
    """Straight to the device where accelerate can do that; otherwise the model is moved afterwards."""
    if place is None or place.type == "cpu" or importlib.util.find_spec("accelerate") is None:
        return None
    return {"": place}


def _load_model(folder: Path, options: dict[str, Any]) -> Any:
    with progress_bar_if_long(folder):
        from chatglm.model.family import network_of

        return network_of(options["config"]).from_pretrained(folder, **options)


def _load_smaller(
    folder: Path, options: dict[str, Any], scheme: QuantScheme, rest: torch.dtype | str, cache: bool | None
) -> Any:
    """Full weights, quantized as they are read, or read from the copy that was kept of them.

    `rest` is the dtype of what is not quantized.
    """
    from chatglm.quant.hf import PackedConfig

    config = options["config"]
    weights = verify_folder(folder, config)
    long = weights.num_bytes >= _SMALL
    smaller = PackedConfig(scheme, progress=progress_line("quantizing") if long else None)
    tensors = smaller_tensors(weights, config, smaller.smaller)
    check_memory(weights, config, rest, tensors)
    kept = None
    if long if cache is None else cache:
        scheme = scheme.without_ends() if config.tie_word_embeddings else scheme
        kept = copies.find(weights, scheme) or copies.keep(weights, scheme, read_settings(folder), tensors)
    if kept is None:
        return _load_model(folder, options | {"quantization_config": smaller, "dtype": rest})
    config = copy.deepcopy(config)
    config.quantization_bit = 0
    config.quantization_config = smaller.to_dict() | {"stored_dtype": smaller.stored_dtype}
    model = _load_model(kept, options | {"config": config, "dequantize": False, "dtype": "auto"})
    model.config.name_or_path = model.name_or_path = str(folder)  # peft reads the second
    if (folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


@contextmanager
def progress_bar_if_long(folder: Path) -> Iterator[None]:
    """transformers shows its bar also for what takes a tenth of a second, and where nobody looks on."""
    from transformers.utils import logging

    watched = sys.stderr is not None and sys.stderr.isatty()
    hide = (not watched or WeightFolder(folder).num_bytes < _SMALL) and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()


def _quantize(model: Any, scheme: QuantScheme, dtype: torch.dtype | str) -> Any:
    """What is not quantized takes `dtype` afterwards."""
    from chatglm.quant.model import quantize_model, scheme_of

    current = scheme_of(model)
    if current is None or current.bits != scheme.bits:
        quantize_model(model, scheme)
    return model.to(dtype) if isinstance(dtype, torch.dtype) else model


def beside_quantized(dtype: torch.dtype | str, place: torch.device | None) -> torch.dtype | str:
    """On a CPU the kernels compute in float32, and what is left beside quantized weights is small."""
    return torch.float32 if place is None or place.type == "cpu" else dtype


def ready_for_cpu(model: Any) -> Any:
    """Let the CPU kernels run whole decoder layers."""
    from chatglm.quant.fused import fuse

    fuse(model)
    return model
