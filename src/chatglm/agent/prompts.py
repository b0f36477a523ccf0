"""The system message of a session: the official words for tools and for code, and the form of results."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chatglm.chat.message import Message, Role
from chatglm.chat.template import TOOLS_PROMPT

# Official wording: the model was trained on it.
CODE_PROMPT = (
    "你是一位智能AI助手，你叫ChatGLM3，你连接着一台电脑，但请注意不能联网。在使用Python解决任务时，你可以运行代码并得到结果，"
    "如果运行结果有错误，你需要尽可能对代码进行改进。你可以处理用户上传到电脑上的文件，文件默认存储路径是/mnt/data/。"
)


def system_message(text: str | None, tools: Sequence[Any], code: bool) -> Message | None:
    """What stands at the beginning of a conversation; None where there is nothing to say.

    A text of one's own comes first; the sentence that announces the tools stands right before them, as in training.

    Args:
        text: one's own system prompt; it replaces the official one for code.
        tools: the tools as the model reads them.
        code: whether code can be run.
    """
    parts = [text] if text else [CODE_PROMPT] if code else []
    if tools:
        parts.append(TOOLS_PROMPT)
    if not parts:
        return None
    return Message(Role.SYSTEM, "\n".join(parts), tools=list(tools) or None)


def reopened(saved: Message, tools: Sequence[Any], code: bool) -> Message | None:
    """The system message a saved conversation goes on with: as it was, with the tools there are now."""
    if saved.tools is not None:
        return replace(saved, tools=list(tools) or saved.tools)
    return system_message(own_text(saved), tools, code) if tools else saved


def reworded(saved: Message | None, text: str | None, code: bool) -> Message | None:
    """A saved system message with other words of one's own; the tools it offers stay. None where it offers none."""
    if saved is None or saved.tools is None:
        return None
    words = system_message(text, [None], code)
    assert words is not None
    return replace(saved, content=words.content)


def own_text(system: Message) -> str:
    """One's own words in a system message that `system_message` has made, or anybody else."""
    lines = system.content.split("\n")
    if system.tools is not None and lines[-1] == TOOLS_PROMPT:
        del lines[-1]
    return "" if lines == [CODE_PROMPT] else "\n".join(lines)


def code_result(text: str) -> str:
    """What code has printed and shown, in the fence the model was trained to read it in."""
    return f"```result\n{text.rstrip()}\n```"
