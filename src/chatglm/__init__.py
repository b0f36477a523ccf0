"""Run ChatGLM3-6B and ChatGLM2-6B on today's PyTorch and transformers 5, exactly and without remote code.

Importing this package makes ChatGLM known to transformers' Auto classes (see `_registration`) and costs no import of
torch: the public names below are imported when they are first used.
"""

from typing import TYPE_CHECKING, Any

from chatglm import _registration

if TYPE_CHECKING:
    from chatglm.agent.session import Session
    from chatglm.agent.task import AgentTask, run_task
    from chatglm.chat.message import Message, Role, ToolCall
    from chatglm.engine.config import EngineConfig
    from chatglm.engine.engine import Engine
    from chatglm.engine.request import SamplingParams
    from chatglm.errors import ChatGLMError
    from chatglm.loading import load
    from chatglm.model.config import ChatGLMConfig
    from chatglm.model.network import (
        ChatGLMForConditionalGeneration,
        ChatGLMForSequenceClassification,
        ChatGLMModel,
    )
    from chatglm.model.stream_decoder import StreamDecoder
    from chatglm.model.tokenizer import ChatGLMTokenizer
    from chatglm.own_engine import engine_for
    from chatglm.tools.definition import tool

__version__ = "0.1.0"

# public name -> the module it lives in
_HOMES = {
    "AgentTask": "chatglm.agent.task",
    "ChatGLMConfig": "chatglm.model.config",
    "ChatGLMError": "chatglm.errors",
    "ChatGLMForConditionalGeneration": "chatglm.model.network",
    "ChatGLMForSequenceClassification": "chatglm.model.network",
    "ChatGLMModel": "chatglm.model.network",
    "ChatGLMTokenizer": "chatglm.model.tokenizer",
    "Engine": "chatglm.engine.engine",
    "EngineConfig": "chatglm.engine.config",
    "Message": "chatglm.chat.message",
    "Role": "chatglm.chat.message",
    "SamplingParams": "chatglm.engine.request",
    "Session": "chatglm.agent.session",
    "StreamDecoder": "chatglm.model.stream_decoder",
    "ToolCall": "chatglm.chat.message",
    "engine_for": "chatglm.own_engine",
    "load": "chatglm.loading",
    "run_task": "chatglm.agent.task",
    "tool": "chatglm.tools.definition",
}

__all__ = [
    "AgentTask",
    "ChatGLMConfig",
    "ChatGLMError",
    "ChatGLMForConditionalGeneration",
    "ChatGLMForSequenceClassification",
    "ChatGLMModel",
    "ChatGLMTokenizer",
    "Engine",
    "EngineConfig",
    "Message",
    "Role",
    "SamplingParams",
    "Session",
    "StreamDecoder",
    "ToolCall",
    "__version__",
    "engine_for",
    "load",
    "run_task",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(_unknown(name))
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def _unknown(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _HOMES, n=1)
    return f"module 'chatglm' has no attribute {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


_registration.install()
