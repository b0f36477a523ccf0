"""What the bodies of answers look like, as JSON schemas for the server's description of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_YES_OR_NO: Schema = {"type": "boolean"}
_NULL: Schema = {"type": "null"}
_OBJECT: Schema = {"type": "object"}


def _const(value: str) -> Schema:
    return {"const": value}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, _NULL]}


def _listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _record(optional: Mapping[str, Schema] | None = None, /, **needed: Schema) -> Schema:
    """An object with these fields and no others."""
    fields = {**needed, **(optional or {})}
    return {"type": "object", "properties": fields, "required": list(needed), "additionalProperties": False}


ERROR = _record(error=_record(message=_TEXT, type=_TEXT, param=_or_null(_TEXT), code=_or_null(_TEXT)))
MESSAGES_ERROR = _record(type=_const("error"), error=_record(type=_TEXT, message=_TEXT))

_USAGE = _record(
    prompt_tokens=_WHOLE,
    completion_tokens=_WHOLE,
    total_tokens=_WHOLE,
    prompt_tokens_details=_record(cached_tokens=_WHOLE),
)
_FUNCTION = _record(name=_TEXT, arguments=_TEXT)
_TOKEN = {"token": _TEXT, "logprob": _NUMBER, "bytes": _or_null(_listed(_WHOLE))}
_CHAT_CHOICE = _record(
    index=_WHOLE,
    message=_record(
        {
            "function_call": _FUNCTION,
            "tool_calls": _listed(_record(id=_TEXT, type=_const("function"), function=_FUNCTION)),
        },
        role=_const("assistant"),
        content=_or_null(_TEXT),
        refusal=_NULL,
    ),
    logprobs=_or_null(
        _record(content=_listed(_record(**_TOKEN, top_logprobs=_listed(_record(**_TOKEN)))), refusal=_NULL)
    ),
    finish_reason={"enum": ["stop", "length", "tool_calls", "function_call"]},
)
CHAT = _record(
    id=_TEXT,
    object=_const("chat.completion"),
    created=_WHOLE,
    model=_TEXT,
    choices=_listed(_CHAT_CHOICE),
    usage=_USAGE,
)
COMPLETION = _record(
    id=_TEXT,
    object=_const("text_completion"),
    created=_WHOLE,
    model=_TEXT,
    choices=_listed(
        _record(
            index=_WHOLE,
            text=_TEXT,
            logprobs=_or_null(
                _record(
                    tokens=_listed(_TEXT),
                    token_logprobs=_listed(_or_null(_NUMBER)),
                    top_logprobs=_listed(_or_null({"type": "object", "additionalProperties": _NUMBER})),
                    text_offset=_listed(_WHOLE),
                )
            ),
            finish_reason={"enum": ["stop", "length"]},
        )
    ),
    usage=_USAGE,
)
MESSAGE = _record(
    id=_TEXT,
    type=_const("message"),
    role=_const("assistant"),
    model=_TEXT,
    content=_listed(
        {
            "oneOf": [
                _record(type=_const("text"), text=_TEXT),
                _record(type=_const("tool_use"), id=_TEXT, name=_TEXT, input=_OBJECT),
            ]
        }
    ),
    stop_reason={"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
    stop_sequence=_or_null(_TEXT),
    usage=_record(input_tokens=_WHOLE, output_tokens=_WHOLE),
)
COUNT = _record(input_tokens=_WHOLE)
_PART = _record(
    type=_const("output_text"), text=_TEXT, annotations=_listed(_OBJECT), logprobs=_listed(_OBJECT)
)  # fmt: skip
_ITEM = {
    "oneOf": [
        _record(
            id=_TEXT, type=_const("message"), status=_TEXT, role=_const("assistant"), content=_listed(_PART)
        ),
        _record(id=_TEXT, type=_const("function_call"), status=_TEXT, call_id=_TEXT, name=_TEXT, arguments=_TEXT),
    ]
}  # fmt: skip
RESPONSE = _record(
    id=_TEXT,
    object=_const("response"),
    created_at=_WHOLE,
    status={"enum": ["completed", "incomplete", "in_progress"]},
    error=_NULL,
    incomplete_details=_or_null(_record(reason=_TEXT)),
    instructions=_or_null(_TEXT),
    max_output_tokens=_or_null(_WHOLE),
    metadata=_OBJECT,
    model=_TEXT,
    output=_listed(_ITEM),
    parallel_tool_calls=_YES_OR_NO,
    previous_response_id=_NULL,
    reasoning=_OBJECT,
    store=_YES_OR_NO,
    temperature=_or_null(_NUMBER),
    text=_record(format=_OBJECT),
    tool_choice={"anyOf": [_TEXT, _OBJECT, _NULL]},
    tools=_listed(_OBJECT),
    top_p=_or_null(_NUMBER),
    truncation=_TEXT,
    usage=_or_null(
        _record(
            input_tokens=_WHOLE,
            input_tokens_details=_record(cached_tokens=_WHOLE),
            output_tokens=_WHOLE,
            output_tokens_details=_record(reasoning_tokens=_WHOLE),
            total_tokens=_WHOLE,
        )
    ),
)
EMBEDDINGS = _record(
    object=_const("list"),
    model=_TEXT,
    data=_listed(
        _record(object=_const("embedding"), index=_WHOLE, embedding={"anyOf": [_listed(_NUMBER), _TEXT]})
    ),
    usage=_record(prompt_tokens=_WHOLE, total_tokens=_WHOLE),
)  # fmt: skip
TOKENS = _record({"token_strs": _listed(_TEXT)}, count=_WHOLE, max_model_len=_WHOLE, tokens=_listed(_WHOLE))
DETOKENIZED = _record(prompt=_TEXT)
TOKENIZER = _record(
    tokenizer_class=_TEXT,
    vocab_size=_WHOLE,
    model_max_length=_WHOLE,
    eos_token=_or_null(_TEXT),
    bos_token=_or_null(_TEXT),
    pad_token=_or_null(_TEXT),
    chat_template=_or_null(_TEXT),
)
MODEL = _record(id=_TEXT, object=_const("model"), created=_WHOLE, owned_by=_TEXT, max_model_len=_WHOLE)
MODELS = _record(object=_const("list"), data=_listed(MODEL))
STATUS = _record(status=_TEXT)


def page_of(card: Schema) -> Schema:
    """A part of a list, as `files.page` makes it."""
    ids = {"first_id": _or_null(_TEXT), "last_id": _or_null(_TEXT)}
    return _record(object=_const("list"), data=_listed(card), has_more=_YES_OR_NO, **ids)


FILE = _record(
    id=_TEXT,
    object=_const("file"),
    bytes=_WHOLE,
    created_at=_WHOLE,
    filename=_TEXT,
    purpose=_TEXT,
    status=_TEXT,
    expires_at=_NULL,
)
DELETED = _record(id=_TEXT, object=_TEXT, deleted=_YES_OR_NO)
_WHEN = _or_null(_WHOLE)
BATCH = _record(
    id=_TEXT,
    object=_const("batch"),
    endpoint=_TEXT,
    errors=_or_null(_OBJECT),
    input_file_id=_TEXT,
    completion_window=_TEXT,
    status=_TEXT,
    output_file_id=_or_null(_TEXT),
    error_file_id=_or_null(_TEXT),
    created_at=_WHOLE,
    expires_at=_WHOLE,
    in_progress_at=_WHEN,
    finalizing_at=_WHEN,
    completed_at=_WHEN,
    failed_at=_WHEN,
    expired_at=_WHEN,
    cancelling_at=_WHEN,
    cancelled_at=_WHEN,
    request_counts=_record(total=_WHOLE, completed=_WHOLE, failed=_WHOLE),
    metadata=_or_null({"type": "object", "additionalProperties": _TEXT}),
)
ADAPTER = _record(status=_TEXT, id=_TEXT)
LEGACY = _record(response=_TEXT, history={"type": "array"}, status=_WHOLE, time=_TEXT)
CONSENT = _record(call=_WHOLE, allowed=_YES_OR_NO)
STOPPED = _record(id=_TEXT, stopped=_YES_OR_NO)
CONVERSATION_FILES = _record(object=_const("list"), data=_listed(_record(name=_TEXT, bytes=_WHOLE)))

CONVERSATION = _record(
    id=_TEXT,
    object=_const("agent.conversation"),
    created_at=_WHOLE,
    busy=_YES_OR_NO,
    messages=_listed(_OBJECT),
)
CONVERSATIONS = _record(object=_const("list"), data=_listed(CONVERSATION))
