"""`from_pretrained` and `save_pretrained` for official folders: transformers loads, this file checks and translates."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from chatglm.errors import CheckpointError
from chatglm.model.checkpoint import Head, is_foreign, smaller_tensors, stored_tensors, verify_folder
from chatglm.model.config import ChatGLMConfig
from chatglm.model.files import read_json
from chatglm.model.layout import CLASSIFIER, PREFIX, SCALE, AnyConfig, is_packed, is_storage
from chatglm.model.model_tensors import keep_inv_freq, official_sources
from chatglm.model.naming import read_by_others
from chatglm.model.plain_config import parse_dtype
from chatglm.model.saving import OFFICIAL_SHARD_SIZE, Source, save_tensors
from chatglm.model.storage import smaller_weights
from chatglm.model.v1.config import ChatGLM1Config
from chatglm.model.weights import WeightFolder

_DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
# With one of these the weights are not the plain files of the folder, and transformers judges them alone.
_FOREIGN_WEIGHTS = ("gguf_file", "variant", "quantization_config", "state_dict", "key_mapping", "distributed_config")
# What save_pretrained of transformers must do itself.
_FOREIGN_SAVING = ("push_to_hub", "variant", "distributed_checkpoint")
# Parts a folder may lack as a whole: they are then new, as for every transformers model.
_MAY_BE_NEW = (CLASSIFIER, PREFIX)


class OfficialCheckpoints(PreTrainedModel):
    """Mixin over PreTrainedModel; `checkpoint_head` says which head's tensors a folder must hold."""

    config: ChatGLMConfig | ChatGLM1Config  # transformers reads this annotation
    checkpoint_head: Head = "causal_lm"

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *model_args: Any,
        config: "AnyConfig | str | Path | None" = None,
        dequantize: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load an official folder, checked before a model is built; the options are those of transformers and one more.

        Args:
            pretrained_model_name_or_path: folder, or a name transformers resolves on the Hugging Face hub.
            config: configuration to use instead of the folder's own.
            dequantize: turn official INT8 / INT4 storage into full weights, exactly as stored. By default a quantized
                folder stays quantized in memory.

        Raises:
            CheckpointError: damaged, incomplete or unfitting weights, naming file, tensor and shapes.
        """
        if kwargs.get("weights_only") is False:
            raise CheckpointError("weights_only=False would run code found in a .bin file; only tensors are ever read")
        name = pretrained_model_name_or_path
        kwargs |= {key: parse_dtype(kwargs[key]) for key in ("dtype", "torch_dtype") if key in kwargs}
        if name is not None and hasattr(kwargs.get("quantization_config"), "smaller"):
            return cls._load_smaller(name, model_args, config, dequantize, kwargs)
        if name is None or any(kwargs.get(key) is not None for key in _FOREIGN_WEIGHTS):
            return super().from_pretrained(name, *model_args, config=config, **kwargs)
        config = cls._resolve_config(name, config, kwargs)
        # For a hub name, and an adapter, whose base model it looks up, transformers judges the weights.
        folder = Path(name) / kwargs.get("subfolder", "")
        local = folder.is_dir() and not (folder / "adapter_config.json").is_file()
        if local and kwargs.get("output_loading_info") and is_foreign(folder, config):  # the report says it all
            return super().from_pretrained(name, *model_args, config=config, **kwargs)
        if local and (folder / "generation_config.json").is_file():
            read_json(folder / "generation_config.json")  # says what is wrong with it
        weights = cls._verify(folder, config, kwargs) if local else None
        options = kwargs | {"output_loading_info": True}
        packed = is_packed(config)
        if weights is not None and (dequantize and not packed or cls._needs_sources(weights, config, kwargs)):
            model, info = cls._load_from_sources(weights, config, dequantize and not packed, model_args, options)
        else:
            if dequantize and config.quantization_bit:
                raise CheckpointError(f"dequantize=True needs a folder on this machine; {str(name)!r} is none")
            options |= _quantized_options(config, weights)
            loaded: Any = super().from_pretrained(name, *model_args, config=config, **options)
            model, info = loaded
        _check_loaded(info, name, bool(kwargs.get("ignore_mismatched_sizes")))
        if weights is not None:
            cls._keep(model, weights)
        if packed and dequantize:
            smaller_weights().unpack(model)
        return (model, info) if kwargs.get("output_loading_info") else model

    @classmethod
    def _load_smaller(
        cls, name: str | Path, model_args: tuple[Any, ...], config: Any, dequantize: bool, kwargs: dict[str, Any]
    ) -> Any:
        """Full weights, quantized as they are read; a folder that is quantized already stays to transformers."""
        config = cls._resolve_config(name, config, kwargs)
        folder = Path(name) / kwargs.get("subfolder", "")
        weights = cls._verify(folder, config, kwargs) if folder.is_dir() else None
        full = not config.quantization_bit and not is_packed(config)
        if weights is None or not (full or dequantize):
            return super().from_pretrained(name, *model_args, config=config, **kwargs)
        options = kwargs | {"output_loading_info": True}
        model, info = cls._load_from_sources(weights, config, dequantize, model_args, options)
        _check_loaded(info, name, bool(kwargs.get("ignore_mismatched_sizes")))
        cls._keep(model, weights)
        return (model, info) if kwargs.get("output_loading_info") else model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        max_shard_size: int | str = OFFICIAL_SHARD_SIZE,
        **kwargs: Any,
    ) -> None:
        """Write config.json, generation_config.json and the weights in the official layout.

        An attached adapter, `push_to_hub`, `variant` and `distributed_checkpoint` go through transformers' own code.
        """
        if getattr(self, "_hf_peft_config_loaded", False) or any(kwargs.get(key) for key in _FOREIGN_SAVING):
            kwargs |= {"is_main_process": is_main_process, "max_shard_size": max_shard_size}
            super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)
            return
        if not is_main_process:
            return
        sources = self._official_sources(state_dict)
        self.config.dtype = str(self.dtype).removeprefix("torch.")
        if self.checkpoint_head == "causal_lm":
            self.config.architectures = ["ChatGLMModel"]  # the name official files carry, and other engines look for
        else:
            self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(save_directory)
        if self.can_generate():
            self.generation_config.save_pretrained(save_directory)
        save_tensors(save_directory, sources, max_shard_size)

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which looks for the magnitudes of DoRA under a name that files do not have."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        mapping = getattr(kwargs.get("load_config"), "weight_mapping", None) or get_model_conversion_mapping(self)
        magnitudes = WeightRenaming(r"(lora_magnitude_vector\.[^.]+)$", r"\1.weight")
        return super().load_adapter(*args, **kwargs, weight_mapping=[*mapping, magnitudes])

    @property
    def device(self) -> torch.device:
        """Where the model computes: also when accelerate keeps its weights elsewhere and brings them layer by layer."""
        found: torch.device = super().device
        hooks = (getattr(module, "_hf_hook", None) for module in (self.modules() if found.type == "meta" else ()))
        devices = (getattr(hook, "execution_device", None) for hook in hooks)
        return next((torch.device(device) for device in devices if device is not None), found)

    @classmethod
    def _resolve_config(
        cls, name: str | Path, config: "AnyConfig | str | Path | None", kwargs: dict[str, Any]
    ) -> AnyConfig:
        """The configuration, with the keyword arguments that are configuration keys taken out of `kwargs`."""
        kind: Any = cls.config_class
        if isinstance(config, kind):
            return config  # type: ignore[no-any-return]
        known = kind()
        keys = [key for key in kwargs if hasattr(known, key) and key not in ("dtype", "torch_dtype")]
        overrides = {key: kwargs.pop(key) for key in keys}
        download = {key: kwargs[key] for key in _DOWNLOAD_OPTIONS if key in kwargs}
        result: AnyConfig = kind.from_pretrained(config or name, **download, **overrides)
        return result

    @classmethod
    def _verify(cls, folder: Path, config: AnyConfig, kwargs: dict[str, Any]) -> WeightFolder:
        ignore = bool(kwargs.get("ignore_mismatched_sizes"))
        return verify_folder(folder, config, head=cls.checkpoint_head, ignore_shapes=ignore)

    @classmethod
    def _needs_sources(cls, weights: WeightFolder, config: AnyConfig, kwargs: dict[str, Any]) -> bool:
        """Whether the tensors are handed to transformers one by one instead of the files."""
        return _needs_sources(weights, config, kwargs)

    @classmethod
    def _keep(cls, model: Any, weights: WeightFolder) -> None:
        """What a loaded model keeps of its files besides the weights."""
        keep_inv_freq(model, weights)

    def _official_sources(self, state_dict: dict[str, Tensor] | None) -> dict[str, Source]:
        """The tensors that are saved."""
        return official_sources(self, state_dict)

    @classmethod
    def _load_from_sources(
        cls,
        weights: WeightFolder,
        config: AnyConfig,
        dequantize: bool,
        model_args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> tuple[Any, dict[str, Any]]:
        """Read, dequantize and cast tensor by tensor: memory holds the result, one tensor, and no mapped file."""
        config = copy.deepcopy(config)
        target = _target_dtype(config, options)
        sources = stored_tensors(weights, bits=config.quantization_bit if dequantize else 0, dtype=target)
        if (smaller := getattr(options.get("quantization_config"), "smaller", None)) is not None:
            sources = smaller_tensors(weights, config, smaller, target)
            config.__dict__.pop("quantization_config", None)
        if dequantize:
            config.quantization_bit = 0
        options = {key: value for key, value in options.items() if key not in (*_DOWNLOAD_OPTIONS, "torch_dtype")}
        options = {**_quantized_options(config, weights), **options}
        options |= {"dtype": target, "state_dict": sources}
        loaded: Any = super().from_pretrained(None, *model_args, config=config, **options)
        model, info = loaded
        model.config.name_or_path = model.name_or_path = str(weights.path)  # peft reads the second
        if model.can_generate() and (weights.path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(weights.path)
        return model, info


def _target_dtype(config: AnyConfig, options: dict[str, Any]) -> torch.dtype | None:
    """The dtype transformers would choose; None where it depends on the files."""
    asked = options.get("dtype") or options.get("torch_dtype") or "auto"
    if asked == "auto":
        asked = config.dtype
    asked = parse_dtype(asked)
    return asked if isinstance(asked, torch.dtype) else None


def _needs_sources(weights: WeightFolder, config: AnyConfig, kwargs: dict[str, Any]) -> bool:
    """Whether transformers cannot read the files itself, or would hold the mapped files beside their cast copy."""
    if not read_by_others(weights):
        return True
    if weights.index_file is not None and "metadata" not in read_json(weights.index_file):
        return True
    target = _target_dtype(config, kwargs)
    if target is None or kwargs.get("device_map") is not None:  # devices get their copy in streams
        return False
    dtypes = {info.dtype for name, info in weights.tensors.items() if not is_storage(name)}
    return any(dtype.is_floating_point and dtype != target for dtype in dtypes)


def _quantized_options(config: AnyConfig, weights: WeightFolder | None) -> dict[str, Any]:
    """What tells transformers that the weights are quantized; nothing for full ones."""
    if not config.quantization_bit and not is_packed(config):
        return {}
    found = () if weights is None else weights.tensors.items()
    scale_dtype = next((info.dtype for name, info in found if name.endswith(SCALE)), None)
    return smaller_weights().loading_options(config, scale_dtype)


def _check_loaded(info: dict[str, Any], name: str | Path, ignore_shapes: bool) -> None:
    """transformers fills what it did not find with random numbers and warns; here that is an error."""
    problems = [f"{key} is missing" for key in info["missing_keys"] if not key.startswith(_MAY_BE_NEW)]
    problems += [f"{key} is unexpected" for key in info["unexpected_keys"] if not key.startswith(_MAY_BE_NEW)]
    if not ignore_shapes:
        problems += [f"{key}: found {list(a)}, expected {list(b)}" for key, a, b in info["mismatched_keys"]]
    problems += [str(message) for message in info.get("error_msgs", [])]
    if problems:
        shown = "; ".join(sorted(problems)[:8])
        raise CheckpointError(f"the weights of {str(name)!r} do not fit the model ({len(problems)} problems): {shown}")
