"""What a `config.json` of ChatGLM2-6B / ChatGLM3-6B says of the network, read and checked without transformers.

`config.py` makes of these fields the `ChatGLMConfig` that transformers knows. What this file does not do: it never
opens weights, and it never guesses what `rope_ratio` means without evidence.
"""

import json
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch

from chatglm.errors import CheckpointError, ConfigError
from chatglm.model.files import read_json

RopeRatioMeaning = Literal["base", "position"]
RopePrecision = Literal["float32", "model"]

FIRST_GENERATION = "inner_hidden_size"  # a key that only configurations of ChatGLM-6B have
STANDARD_NAMES = {
    "num_hidden_layers": "num_layers",
    "vocab_size": "padded_vocab_size",
    "intermediate_size": "ffn_hidden_size",
    "max_position_embeddings": "seq_length",
    "rms_norm_eps": "layernorm_epsilon",
    "head_dim": "kv_channels",
}
_COUNTS = (
    "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels", "num_attention_heads",
    "seq_length", "multi_query_group_num",
)  # fmt: skip
_SWITCHES = (
    "rmsnorm", "post_layer_norm", "add_bias_linear", "add_qkv_bias", "apply_residual_connection_post_layernorm",
    "multi_query_attention", "fp32_residual_connection", "prefix_projection",
)  # fmt: skip


# What other programs write as null, and official files leave out.
_NULL_IS_DEFAULT = (
    "hidden_dropout", "attention_dropout", "layernorm_epsilon", "initializer_range", "bias_dropout_fusion",
    "apply_query_key_layer_scaling", "attention_softmax_in_fp32", "quantization_bit", "original_rope", "rope_ratio",
    "rope_precision", "use_cache", "tie_word_embeddings", *_SWITCHES,
)  # fmt: skip


@dataclass(kw_only=True, repr=False)
class ConfigFields:
    """The keys of an official configuration, with the defaults of the official class, and what follows from them."""

    model_type: ClassVar[str] = "chatglm"
    first_generation: ClassVar[bool] = False
    dtype: Any = None

    num_layers: int = 28
    padded_vocab_size: int = 65024
    hidden_size: int = 4096
    ffn_hidden_size: int = 13696
    kv_channels: int | None = 128
    num_attention_heads: int = 32
    seq_length: int = 2048
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    classifier_dropout: float | None = None
    layernorm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    rmsnorm: bool = True
    apply_residual_connection_post_layernorm: bool = False
    post_layer_norm: bool = True
    add_bias_linear: bool = False
    add_qkv_bias: bool = False
    bias_dropout_fusion: bool = True
    multi_query_attention: bool = False
    multi_query_group_num: int = 1
    apply_query_key_layer_scaling: bool = True
    attention_softmax_in_fp32: bool = True
    fp32_residual_connection: bool = False
    quantization_bit: int = 0
    pre_seq_len: int | None = None
    prefix_projection: bool = False
    original_rope: bool = True
    rope_ratio: float | int = 1
    rope_ratio_meaning: RopeRatioMeaning | None = None
    rope_precision: RopePrecision = "float32"
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 0

    def settle(self, others: dict[str, Any]) -> dict[str, Any]:
        """The first half of reading, before keys that are no fields are taken over: what is null becomes the default,
        what depends is worked out -> the keys among `others` (taken out of it) that must agree with the rest."""
        for key in _NULL_IS_DEFAULT:
            if getattr(self, key) is None:
                setattr(self, key, getattr(type(self), key))
        if (groups := others.pop("num_key_value_heads", None)) is not None:
            _read_key_value_heads(self, groups)
        if self.kv_channels is None:
            self.kv_channels = self.hidden_size // self.num_attention_heads
        self.dtype = parse_dtype(self.dtype)
        if others.get("torch_dtype") is not None:
            others["torch_dtype"] = parse_dtype(others["torch_dtype"])
        return {key: others.pop(key) for key in [*others] if _has_no_setter(type(self), key)}

    def check(self, derived: dict[str, Any], name: str) -> None:
        """The second half.

        Args:
            derived: what `settle` gave.
            name: what the model is called, which may say what `rope_ratio` means.

        Raises:
            ConfigError: a value has the wrong type or contradicts another one.
        """
        _check_derived(self, derived)
        if self.rope_ratio != 1 and self.rope_ratio_meaning is None:
            self.rope_ratio_meaning = _rope_ratio_evidence(name)
        _check_types(self)
        _check_shape(self)

    @property
    def num_key_value_heads(self) -> int:
        """Key/value heads per layer: the groups of multi-query attention, otherwise one per query head."""
        return self.multi_query_group_num if self.multi_query_attention else self.num_attention_heads

    @num_key_value_heads.setter
    def num_key_value_heads(self, value: int) -> None:
        self.multi_query_attention = value != self.num_attention_heads
        if self.multi_query_attention:
            self.multi_query_group_num = value

    @property
    def qkv_size(self) -> int:
        """Rows of the fused `query_key_value` projection: (heads + 2 * key/value heads) * kv_channels."""
        assert self.kv_channels is not None
        return (self.num_attention_heads + 2 * self.num_key_value_heads) * self.kv_channels

    @property
    def rotary_dim(self) -> int:
        """Channels of each head that are rotated: the first half."""
        assert self.kv_channels is not None
        return self.kv_channels // 2

    def rope_base_and_divisor(self) -> tuple[float, float]:
        """The rotary base and the number positions are divided by.

        Raises:
            ConfigError: `rope_ratio` is set and nothing says which of its two meanings applies.
        """
        if self.rope_ratio == 1:
            return 10000.0, 1.0
        if self.rope_ratio_meaning == "base":
            return 10000.0 * self.rope_ratio, 1.0
        if self.rope_ratio_meaning == "position":
            return 10000.0, float(self.rope_ratio)
        raise ConfigError(
            f"rope_ratio={self.rope_ratio} can mean two things and neither the folder nor the model name says which: "
            "ChatGLM3-6B-32K/128K multiply the rotary base by it, ChatGLM2-6B-32K divides positions by it. "
            'Add "rope_ratio_meaning": "base" (ChatGLM3) or "position" (ChatGLM2) to config.json, '
            "or pass rope_ratio_meaning=... to from_pretrained() (--rope-ratio-meaning on the command line)."
        )


class PlainConfig(ConfigFields):
    """A configuration for the network alone, with the names of transformers that an engine reads."""

    def __init__(self, **values: Any) -> None:
        """`values`: keys of a `config.json`, under official or standard names; others are kept as they are."""
        known = {field.name for field in fields(ConfigFields)}
        super().__init__(**{key: values[key] for key in values if key in known})
        others = {key: values[key] for key in values if key not in known}
        name = str(others.get("name_or_path") or others.get("_name_or_path") or "")
        derived = self.settle(others)
        stored = others.pop("torch_dtype", None)
        self.dtype = stored if self.dtype is None else self.dtype
        for key, value in others.items():
            setattr(self, STANDARD_NAMES.get(key, key), value)
        self.check(derived, name)

    def __getattr__(self, key: str) -> Any:
        if key not in STANDARD_NAMES:
            raise AttributeError(f"the configuration has no {key!r}")
        return getattr(self, STANDARD_NAMES[key])

    def get_text_config(self) -> "PlainConfig":
        """As in transformers: of a language model, itself."""
        return self

    @classmethod
    def read(cls, folder: Path, **overrides: Any) -> "PlainConfig":
        """That of an official folder; `overrides` go before what stands there.

        Raises:
            CheckpointError, ConfigError: as for `config.read_config`.
        """
        values = check_folder(folder)
        return cls(**with_rope_meaning(values, str(folder), overrides) | overrides | {"name_or_path": str(folder)})


def check_folder(folder: Path) -> dict[str, Any]:
    """The `config.json` of an official folder of ChatGLM2-6B / ChatGLM3-6B, after a look at what else it says.

    Raises:
        CheckpointError: no config.json, a damaged one, or that of another kind of model, with what can be done.
    """
    kind = read_settings(folder)
    if FIRST_GENERATION in kind:
        raise CheckpointError(
            f"{folder} is a first-generation ChatGLM-6B; this is for ChatGLM2-6B and ChatGLM3-6B alone"
        )
    if kind.get("model_type") == "glm":
        command = shlex.join(["chatglm", "convert", str(folder), f"{folder}-official", "--to", "official"])
        raise CheckpointError(f"{folder} is in the stock GLM form; `{command}` rewrites it")
    if kind.get("model_type") != "chatglm":
        path = folder / "config.json"
        raise CheckpointError(f"{path} has model_type {kind.get('model_type')!r}; a ChatGLM folder has 'chatglm'")
    for key in ("dtype", "torch_dtype"):
        try:
            parse_dtype(kind.get(key))
        except ConfigError as error:
            raise CheckpointError(
                f"{folder / 'config.json'} has {key} {kind[key]!r}; it must be one like 'float16'"
            ) from error
    generation = folder / "generation_config.json"
    if generation.is_file():
        read_json(generation)
    return kind


def with_rope_meaning(values: dict[str, Any], folder: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The keys of a file, with `rope_ratio` as `overrides` has it (taken out of there) and with its meaning, where the
    file's own `_name_or_path`, or what lies beside it in `folder`, says that."""
    values = dict(values)
    for key in ("rope_ratio", "rope_ratio_meaning"):
        if key in overrides:
            values[key] = overrides.pop(key)
    if values.get("rope_ratio", 1) != 1 and values.get("rope_ratio_meaning") is None:
        original = str(values.get("_name_or_path", ""))
        values["rope_ratio_meaning"] = _rope_ratio_evidence(original) or _rope_ratio_evidence(folder)
    return values


def parse_dtype(dtype: Any) -> Any:
    """A dtype by its name, "float16" or "torch.float16"; "auto" and None are what they are.

    Raises:
        ConfigError: no such dtype, or none that weights are computed in.
    """
    if dtype == "auto" or not isinstance(dtype, (str, torch.dtype)):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"{dtype!r} is no dtype; it must be one like 'float16'")
    if not found.is_floating_point or found.itemsize == 1:
        raise ConfigError(f"{dtype!r} is no dtype to compute in; it must be one like 'float16'")
    return found


def read_settings(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder of any kind.

    Raises:
        CheckpointError: there is none, or it is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder; a model is a folder with config.json and weight files")
        names = ", ".join(sorted(found.name for found in folder.iterdir())[:20])
        raise CheckpointError(f"{folder} has no config.json; found {names or 'an empty folder'}")
    return read_json(path)


def _rope_ratio_evidence(name_or_folder: str) -> RopeRatioMeaning | None:
    """What a model name, or the files of a folder, say about the generation of the model. None: nothing."""
    folder = Path(name_or_folder)
    if name_or_folder and folder.is_dir():  # what lies in a folder says more than what somebody called it
        for reader in (_generation_in_tokenizer_config, _generation_in_code):
            if (found := reader(folder)) is not None:
                return found
    return _MEANINGS.get(release_in_name(name_or_folder) or "")


_MEANINGS: dict[str, RopeRatioMeaning] = {"chatglm3": "base", "chatglm2": "position"}


def release_in_name(name: str) -> str | None:
    """`chatglm3` or `chatglm2`, by the last part of a name or path that holds one of them; None for none, or both."""
    for part in reversed(name.lower().replace("\\", "/").split("/")):
        found = [release for release in _MEANINGS if release in part]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _generation_in_tokenizer_config(folder: Path) -> RopeRatioMeaning | None:
    """Only the ChatGLM3 tokenizer has role tokens; their presence is evidence, their absence is not."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if "<|assistant|>" in text:
        return "base"
    named = [meaning for release, meaning in _MEANINGS.items() if release in text.lower()]
    return named[0] if len(named) == 1 else None


def _generation_in_code(folder: Path) -> RopeRatioMeaning | None:
    """The folder's tokenizer source, read as text and never executed: ChatGLM3's knows role tokens, ChatGLM2's not."""
    path = folder / "tokenization_chatglm.py"
    if not path.is_file():
        return None
    return "base" if "<|assistant|>" in path.read_text(encoding="utf-8-sig", errors="replace") else "position"


def _has_no_setter(kind: type, key: str) -> bool:
    found = getattr(kind, key, None)
    return isinstance(found, property) and found.fset is None


def _check_derived(config: ConfigFields, given: dict[str, Any]) -> None:
    """Keys that follow from the others may stand in a file, but not contradict them."""
    for key, value in given.items():
        if value is not None and value != getattr(config, key):
            raise ConfigError(
                f"config key {key!r} is {value!r}, and {getattr(config, key)!r} by the other keys; remove it"
            )


def _read_key_value_heads(config: ConfigFields, groups: Any) -> None:
    """The standard name in a file: alone it decides; beside the official keys it must say the same."""
    heads = config.num_attention_heads
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
        raise ConfigError(f"config key 'num_key_value_heads' is {groups!r}; it must be a whole number of at least 1")
    if config.multi_query_attention and groups != config.multi_query_group_num:
        raise ConfigError(
            f"config key 'num_key_value_heads' is {groups}, and 'multi_query_group_num' {config.multi_query_group_num};"
            " they mean the same and must be equal"
        )
    if not config.multi_query_attention and groups != heads:
        config.num_key_value_heads = groups


def _check_types(config: ConfigFields) -> None:
    for key in _COUNTS:
        value = getattr(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"config key {key!r} is {value!r}; it must be a whole number of at least 1")
    for key in _SWITCHES:
        value = getattr(config, key)
        if not isinstance(value, bool):
            raise ConfigError(f"config key {key!r} is {value!r}; it must be true or false")
    if not isinstance(config.rope_ratio, (int, float)) or isinstance(config.rope_ratio, bool) or config.rope_ratio <= 0:
        raise ConfigError(f"config key 'rope_ratio' is {config.rope_ratio!r}; it must be a number above 0")
    _check_choice(config, "rope_ratio_meaning", (None, *get_args(RopeRatioMeaning)))
    _check_choice(config, "rope_precision", get_args(RopePrecision))
    _check_choice(config, "quantization_bit", (0, 4, 8))
    if config.pre_seq_len is not None and (not isinstance(config.pre_seq_len, int) or config.pre_seq_len < 1):
        raise ConfigError(f"config key 'pre_seq_len' is {config.pre_seq_len!r}; it must be null or at least 1")


def _check_choice(config: ConfigFields, key: str, allowed: tuple[object, ...]) -> None:
    value = getattr(config, key)
    if value not in allowed:
        raise ConfigError(f"config key {key!r} is {value!r}; it must be one of {json.dumps(allowed)}")


def _check_shape(config: ConfigFields) -> None:
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if heads % groups:
        raise ConfigError(
            f"num_attention_heads={heads} cannot be shared by multi_query_group_num={groups} groups; "
            "the number of heads must be a multiple of the number of groups"
        )
    if config.kv_channels is None or config.kv_channels % 4:
        raise ConfigError(
            f"kv_channels={config.kv_channels} cannot be rotated: the first half of each head is rotated in pairs, "
            "so kv_channels must be a multiple of 4"
        )
