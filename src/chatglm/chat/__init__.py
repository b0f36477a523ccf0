"""ROOM messages, prompts and parsing. Standard library only: no tensors, no model.

- `message`: what is said, and the events an answer is made of.
- `template`: a conversation as token ids with its loss mask, and the rules of a conversation.
- `parser`: token ids of an answer as events and typed segments; `call` reads the calls in it.
- `openai`: conversations as other programs spell them.
- `response`: the official `process_response` on text.
"""

from chatglm.chat.call import extract_code, format_tool_call, parse_tool_call
from chatglm.chat.message import (
    CodeDone,
    Done,
    Event,
    Message,
    Role,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallDone,
)
from chatglm.chat.openai import from_openai
from chatglm.chat.parser import Segment, StreamParser
from chatglm.chat.response import process_response
from chatglm.chat.template import Rendered, render, validate

__all__ = [
    "CodeDone",
    "Done",
    "Event",
    "Message",
    "Rendered",
    "Role",
    "Segment",
    "StreamParser",
    "TextDelta",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallDone",
    "extract_code",
    "format_tool_call",
    "from_openai",
    "parse_tool_call",
    "process_response",
    "render",
    "validate",
]
