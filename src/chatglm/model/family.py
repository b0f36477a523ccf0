"""One call for three generations, which all have `model_type` "chatglm": told apart by the keys of `config.json`."""

from pathlib import Path
from typing import Any

from chatglm.model.config import ChatGLMConfig, read_config
from chatglm.model.files import read_json
from chatglm.model.layout import AnyConfig
from chatglm.model.plain_config import FIRST_GENERATION, read_settings
from chatglm.model.v1.config import ChatGLM1Config


class FamilyConfig(ChatGLMConfig):
    """What transformers' AutoConfig knows as "chatglm": gives the configuration of the generation a folder is of."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        kind = ChatGLM1Config if FIRST_GENERATION in config_dict else ChatGLMConfig
        return kind.from_dict(config_dict, **kwargs)


def read_any_config(folder: str | Path, **overrides: Any) -> AnyConfig:
    """`chatglm.model.config.read_config` of a folder of any generation.

    Raises:
        CheckpointError, ConfigError: as for `read_config`.
    """
    folder = Path(folder)
    if FIRST_GENERATION not in read_settings(folder):
        return read_config(folder, **overrides)
    if (generation := folder / "generation_config.json").is_file():
        read_json(generation)
    config: ChatGLM1Config = ChatGLM1Config.from_pretrained(folder, **overrides)
    return config


def network_of(config: AnyConfig) -> Any:
    """The class of the language model for a configuration."""
    if isinstance(config, ChatGLM1Config):
        from chatglm.model.v1.network import ChatGLM1ForConditionalGeneration

        return ChatGLM1ForConditionalGeneration
    from chatglm.model.network import ChatGLMForConditionalGeneration

    return ChatGLMForConditionalGeneration
