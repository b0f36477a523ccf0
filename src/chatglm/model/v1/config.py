"""ChatGLM1Config: reads every official `config.json` of ChatGLM-6B, the first generation, unchanged."""

import json
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from chatglm.errors import ConfigError
from chatglm.model.plain_config import RopePrecision, parse_dtype

_COUNTS = ("num_layers", "vocab_size", "hidden_size", "inner_hidden_size", "num_attention_heads", "max_sequence_length")
_SWITCHES = ("position_encoding_2d", "prefix_projection", "quantization_embeddings")
_NULL_IS_DEFAULT = (*_SWITCHES, "layernorm_epsilon", "quantization_bit", "rope_precision", "use_cache")
# Keys an official reader expects to find spelled out, even where our default is the same.
_ALWAYS_WRITTEN = (
    *_COUNTS, "layernorm_epsilon", "position_encoding_2d", "use_cache", "bos_token_id", "eos_token_id",
    "mask_token_id", "gmask_token_id", "pad_token_id",
)  # fmt: skip


class ChatGLM1Config(PreTrainedConfig):
    """Shape and behaviour of a ChatGLM-6B network, under the official key names.

    Defaults are those of the official configuration class, so a `config.json` that leaves a key out means the same
    here as there. The names of the later generations and of transformers (`num_hidden_layers`, `seq_length`,
    `padded_vocab_size`, `kv_channels`, ...) read the same values.

    `rope_precision="model"` computes angles in the model's dtype, as the official code does: in half precision the
    table is then far from exact at large positions. Only for bit-level comparison.

    Raises:
        ConfigError: a value has the wrong type or contradicts another one.
    """

    model_type = "chatglm"
    first_generation: ClassVar[bool] = True
    tokenizer_class: ClassVar[str] = "ChatGLMTokenizer"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "num_hidden_layers": "num_layers",
        "padded_vocab_size": "vocab_size",
        "intermediate_size": "inner_hidden_size",
        "ffn_hidden_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "seq_length": "max_sequence_length",
        "layer_norm_eps": "layernorm_epsilon",
    }

    num_layers: int = 28
    vocab_size: int = 150528
    hidden_size: int = 4096
    inner_hidden_size: int = 16384
    num_attention_heads: int = 32
    max_sequence_length: int = 2048
    layernorm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    position_encoding_2d: bool = True
    quantization_bit: int = 0
    quantization_embeddings: bool = False
    pre_seq_len: int | None = None
    prefix_projection: bool = False
    rope_precision: RopePrecision = "float32"
    use_cache: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int = 150004  # <sop>
    eos_token_id: int | list[int] | None = 150005
    mask_token_id: int = 150000
    gmask_token_id: int = 150001
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        for key in _NULL_IS_DEFAULT:
            if getattr(self, key) is None:
                setattr(self, key, getattr(type(self), key))
        self.dtype = parse_dtype(self.dtype)
        if kwargs.get("torch_dtype") is not None:
            kwargs["torch_dtype"] = parse_dtype(kwargs["torch_dtype"])
        for key in ("kv_channels", "head_dim", "num_key_value_heads"):
            if kwargs.pop(key, None) not in (None, self._derived(key)):
                raise ConfigError(f"config key {key!r} contradicts the other keys; remove it")
        if self.quantization_bit and self.quantization_embeddings:
            self.tie_word_embeddings = False  # both are stored, in forms of their own
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        _check(self)

    def _derived(self, key: str) -> int:
        return (
            self.num_attention_heads if key == "num_key_value_heads" else self.hidden_size // self.num_attention_heads
        )

    @property
    def kv_channels(self) -> int:
        """Channels of each head."""
        return self._derived("kv_channels")

    @property
    def head_dim(self) -> int:
        """Channels of each head."""
        return self._derived("head_dim")

    @property
    def num_key_value_heads(self) -> int:
        """One key/value head for each query head."""
        return self.num_attention_heads

    @property
    def qkv_size(self) -> int:
        """Rows of the fused `query_key_value` projection."""
        return 3 * self.hidden_size

    @property
    def rotary_dim(self) -> int:
        """Channels one row of positions rotates: half of each head, or all of it without `position_encoding_2d`."""
        return self.head_dim // 2 if self.position_encoding_2d else self.head_dim

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: every official key, and `torch_dtype` beside `dtype` (the name official readers know)."""
        result: dict[str, Any] = super().to_diff_dict()
        if result.get("dtype") is not None:
            result["torch_dtype"] = result["dtype"]
        result.update({key: getattr(self, key) for key in _ALWAYS_WRITTEN})
        if result.get("rope_precision") == "float32":  # ours: written only where it says something
            del result["rope_precision"]
        return result


def _check(config: ChatGLM1Config) -> None:
    for key in _COUNTS:
        value = getattr(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"config key {key!r} is {value!r}; it must be a whole number of at least 1")
    for key in _SWITCHES:
        if not isinstance(getattr(config, key), bool):
            raise ConfigError(f"config key {key!r} is {getattr(config, key)!r}; it must be true or false")
    for key, allowed in (("quantization_bit", (0, 4, 8)), ("rope_precision", ("float32", "model"))):
        if getattr(config, key) not in allowed:
            raise ConfigError(
                f"config key {key!r} is {getattr(config, key)!r}; it must be one of {json.dumps(allowed)}"
            )
    if config.pre_seq_len is not None and (not isinstance(config.pre_seq_len, int) or config.pre_seq_len < 1):
        raise ConfigError(f"config key 'pre_seq_len' is {config.pre_seq_len!r}; it must be null or at least 1")
    heads = config.num_attention_heads
    if config.hidden_size % heads or config.head_dim % (4 if config.position_encoding_2d else 2):
        raise ConfigError(
            f"hidden_size={config.hidden_size} cannot be shared by num_attention_heads={heads}: each head must have a "
            "multiple of 4 channels, so that both halves can be rotated"
        )
