"""ChatGLMConfig: reads every official `config.json` of ChatGLM2-6B and ChatGLM3-6B unchanged, as transformers does.

The keys and their checks are in `plain_config.py`.
"""

from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from chatglm.errors import ConfigError
from chatglm.model.files import read_json
from chatglm.model.plain_config import (
    FIRST_GENERATION,
    STANDARD_NAMES,
    ConfigFields,
    check_folder,
    with_rope_meaning,
)

# Keys an official reader expects to find spelled out, even where our default is the same.
_ALWAYS_WRITTEN = (
    "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels", "num_attention_heads",
    "seq_length", "layernorm_epsilon", "rmsnorm", "post_layer_norm", "add_bias_linear", "add_qkv_bias",
    "apply_residual_connection_post_layernorm", "multi_query_attention", "multi_query_group_num",
    "original_rope", "use_cache", "eos_token_id", "pad_token_id", "tie_word_embeddings",
)  # fmt: skip


class ChatGLMConfig(ConfigFields, PreTrainedConfig):
    """Shape and behaviour of a ChatGLM2 / ChatGLM3 network, under the official key names.

    Defaults are those of the official configuration class (not of the 6B checkpoints), so a `config.json` that leaves
    a key out means the same here as there. The standard transformers names (`num_hidden_layers`, `vocab_size`,
    `max_position_embeddings`, `num_key_value_heads`, ...) read and, where they are plain keys, write the same values.

    `rope_ratio` has two meanings in official files, and no key says which (see `docs/models.md`):
    ChatGLM3-6B-32K / 128K multiply the rotary base by it, ChatGLM2-6B-32K divides positions by it.
    `rope_ratio_meaning` ("base" or "position") states it; when absent it is read from the folder or the model name.

    `rope_precision="model"` computes angles in the model's dtype, as the first ChatGLM2 release did: in half precision
    the table is then far from exact beyond a few hundred positions. Only for bit-level comparison with that release.

    Raises:
        ConfigError: a value has the wrong type or contradicts another one.
    """

    model_type = "chatglm"
    tokenizer_class: ClassVar[str] = "ChatGLMTokenizer"  # for folders without tokenizer_config.json
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = STANDARD_NAMES

    def __post_init__(self, **kwargs: Any) -> None:
        name = kwargs.get("name_or_path") or kwargs.get("_name_or_path") or ""
        derived = self.settle(kwargs)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self.check(derived, str(name))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; `from_dict` is told where the file lies, which the configuration does not keep."""
        folder = Path(str(pretrained_model_name_or_path))
        if (folder / "config.json").is_file():
            read_json(folder / "config.json")  # says what is wrong with it
        kwargs.setdefault("_loaded_from", str(folder))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        if FIRST_GENERATION in config_dict:
            raise ConfigError("this is the configuration of a first-generation ChatGLM-6B; use ChatGLM1Config for it")
        # The file's own `_name_or_path` names the release it came from; transformers overwrites it with the folder.
        original = str(config_dict.get("_name_or_path", ""))
        folder = str(kwargs.pop("_loaded_from", None) or kwargs.get("name_or_path") or original)
        config_dict = with_rope_meaning(config_dict, folder, kwargs)
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Every key, and `num_key_value_heads`, which peft sizes a prefix by."""
        return super().to_dict() | {"num_key_value_heads": self.num_key_value_heads}

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: every official key, and `torch_dtype` beside `dtype` (the name official readers know)."""
        result: dict[str, Any] = super().to_diff_dict()
        result.pop("num_key_value_heads", None)  # official readers know it by its groups
        if result.get("dtype") is not None:
            result["torch_dtype"] = result["dtype"]
        result.update({key: getattr(self, key) for key in _ALWAYS_WRITTEN})
        for key in ("rope_ratio_meaning", "rope_precision"):  # ours: written only where they say something
            if result.get(key) in (None, "float32"):
                result.pop(key, None)
        if self.rope_ratio == 1:
            result.pop("rope_ratio", None)
        return result


def read_config(folder: str | Path, **overrides: Any) -> ChatGLMConfig:
    """The configuration of an official folder, and a check that its other settings can be read.

    Raises:
        CheckpointError: no config.json, a damaged one, or that of another kind of model, with what can be done.
    """
    folder = Path(folder)
    check_folder(folder)
    config: ChatGLMConfig = ChatGLMConfig.from_pretrained(folder, **overrides)
    return config
