"""What is checked and opened before a session begins."""

from typing import Any

from chatglm.chat.message import Message
from chatglm.chat.template import tool_names
from chatglm.engine.request import SamplingParams
from chatglm.errors import SessionError
from chatglm.tools import ToolBox


def check_parts(engine: Any, tokenizer: Any) -> None:
    """Refuses what cannot answer, and says what would be right; the commonest slip is a model in the engine's place."""
    right = "give it as Session(chatglm.engine_for(model, tokenizer), tokenizer)"
    if not all(callable(getattr(engine, name, None)) for name in ("submit", "stream", "stats")):
        raise SessionError(f"the engine is a {type(engine).__name__}, which is no engine; {right}")
    if not all(callable(getattr(tokenizer, name, None)) for name in ("render", "stream_parser")):
        raise SessionError(f"the tokenizer is a {type(tokenizer).__name__}, which is no ChatGLM tokenizer; {right}")


def context_of(engine: Any, wanted: int | None) -> int:
    """Tokens a conversation and its answer may have: the model's context, the engine's cache, and what is wished."""
    most = min(int(engine.context), int(engine.stats().cache_tokens))
    if wanted is None:
        return most
    if not 1 <= wanted <= most:
        raise SessionError(f"context_length is {wanted}; it must be from 1 to {most}, what the engine has room for")
    return wanted


def check_version(tokenizer: Any, system: str | None, tools: ToolBox, sandbox: Any) -> None:
    if tokenizer.version == "chatglm3":
        return
    given = {"a system prompt": system is not None, "tools": len(tools) > 0, "a code interpreter": sandbox is not None}
    wrong = [what for what, there in given.items() if there]
    if wrong:
        name = "ChatGLM2" if tokenizer.version == "chatglm2" else "ChatGLM-6B"
        raise SessionError(f"{name} was given {' and '.join(wrong)}; it has plain turns only, ChatGLM3 has them all")


def checked_params(params: Any) -> SamplingParams:
    if not isinstance(params, SamplingParams):
        raise SessionError(f"params is {params!r}; it must be a chatglm.SamplingParams")
    return params


def opened(sandbox: Any) -> Any:
    if isinstance(sandbox, str):
        from chatglm.sandbox import open_sandbox

        opened_here = open_sandbox(sandbox)
        opened_here.warm_up()  # while the first message is typed and answered
        return opened_here
    if sandbox is not None and not hasattr(sandbox, "run"):
        raise SessionError(f"sandbox is {sandbox!r}; it must be 'auto', an open sandbox, or None: code is not run")
    return sandbox


def check_tools(system: Message, tools: ToolBox) -> None:
    missing = sorted({*tool_names(system.tools)} - set(tools.names))
    if missing:
        raise SessionError(f"the conversation offers the tools {', '.join(missing)}; give them with tools=")
