"""The chat format for programs that know it only as a text template: jinja in, and a pattern of the answers out.

`ChatGLMTokenizer.apply_chat_template(tokenize=True)` does not go through these: it renders ids, exactly and safely.
The text is for servers that render and tokenize by themselves. Tokenized with the special tokens recognised
(`encode_special_tokens="all"`), it gives the same ids, unless a text contains the spelling of a special token.
"""

from typing import Any

from chatglm.chat.template import TOOLS_PROMPT

_MARK = "{#- chatglm: rendered exactly by the tokenizer itself -#}"

# Every `-` is meant: what is written lies in the expressions alone, whatever the blank settings of the environment.
CHATGLM3_TEMPLATE = (
    _MARK
    + """
{%- macro text(message) -%}
    {%- if message.content is not defined or message.content is none -%}
    {%- elif message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}{{- part.text -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro turn(role, metadata, content) -%}
    {%- if '\\n' in metadata -%}{{- raise_exception('metadata must be one line: ' ~ metadata) -}}{%- endif -%}
    {{- '<|' ~ role ~ '|>' ~ metadata ~ '\\n' -}}
    {%- if content -%}{{- ' ' ~ content -}}{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(tools=[], written=false) -%}
{%- if tools is defined and tools -%}
    {%- for tool in tools -%}
        {%- set ns.tools = ns.tools + [tool.function if tool.function is defined else tool] -%}
    {%- endfor -%}
{%- endif -%}
{{- '[gMASK]sop' -}}
{%- if ns.tools and messages[0].role not in ['system', 'developer'] -%}
    {{- turn('system', '', '"""
    + TOOLS_PROMPT
    + """\\n' ~ ns.tools | tojson(indent=4)) -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role in ['system', 'developer'] -%}
        {%- if message.tools is defined -%}
            {{- turn('system', message.metadata or '', text(message) ~ '\\n' ~ message.tools | tojson(indent=4)) -}}
        {%- elif ns.tools and loop.first -%}
            {{- turn('system', message.metadata or '', text(message) ~ '\\n' ~ ns.tools | tojson(indent=4)) -}}
        {%- else -%}
            {{- turn('system', message.metadata or '', text(message)) -}}
        {%- endif -%}
    {%- elif message.role == 'assistant' and message.tool_calls -%}
        {%- if text(message).strip() -%}{{- turn('assistant', message.metadata or '', text(message)) -}}{%- endif -%}
        {%- for call in message.tool_calls -%}
            {%- set function = call.function if call.function is defined else call -%}
            {%- if function.arguments is string -%}
                {{- raise_exception('the arguments of a tool call must be an object, not a text') -}}
            {%- endif -%}
            {%- set written = namespace(arguments=[]) -%}
            {%- for name, value in (function.arguments or {}).items() -%}
                {%- set written.arguments = written.arguments + [name ~ '=' ~ '%r' | format(value)] -%}
            {%- endfor -%}
            {{- turn('assistant', function.name,
                     '```python\\ntool_call(' ~ written.arguments | join(', ') ~ ')\\n```') -}}
        {%- endfor -%}
    {%- elif message.role in ['user', 'assistant', 'observation'] -%}
        {{- turn(message.role, message.metadata or '', text(message)) -}}
    {%- elif message.role in ['tool', 'function'] -%}
        {{- turn('observation', '', text(message)) -}}
    {%- else -%}
        {{- raise_exception('unknown role: ' ~ message.role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
)

CHATGLM2_TEMPLATE = (
    _MARK
    + """
{{- '[gMASK]sop' -}}
{%- for message in messages -%}
    {%- if message.role == 'user' and loop.index0 % 2 == 0 -%}
        {{- ('' if loop.first else '\\n\\n') ~ '[Round ' ~ (loop.index0 // 2 + 1) ~ ']\\n\\n问：' ~ message.content -}}
    {%- elif message.role == 'assistant' and loop.index0 % 2 == 1 -%}
        {{- '\\n\\n答：' ~ message.content -}}
    {%- else -%}
        {{- raise_exception('ChatGLM2 has only user and assistant messages, in turn; found ' ~ message.role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1].role == 'user' -%}{{- '\\n\\n答：' -}}{%- endif -%}
"""
)


class ResponseTemplate(dict[str, Any]):
    """A response template that is false: transformers' pipelines ask for its truth before they leave special tokens in
    every text they give; its servers, which parse calls with it, ask whether it is None."""

    def __bool__(self) -> bool:
        return False


# What transformers' `parse_response` needs to find calls in an answer. A pattern can only approximate Python's
# literals (True, False and None arrive as text unless the tool's schema says what they are); `StreamParser` is exact.
_BEGIN = r"(?:\A|<\|assistant\|>)[ ]*"
_BEGIN_IN_TEXT = r"(?:\A|(?<=[ \n]))"  # where special tokens were left out
_VALUE = (
    r"(?P<value>'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
    r"|(?P<nested>[\[{(](?:'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[^\[\]{}()'\"]|(?&nested))*[\]})])|[^\s,()]+)"
)
RESPONSE_TEMPLATE = ResponseTemplate(
    {
        "version": 1,
        "defaults": {"role": "assistant"},
        "start_anchor": "<|assistant|>",
        "fields": {
            "code": {
                "open_pattern": _BEGIN + r"interpreter[ ]*\n[ ]*```(?:python)?[ ]*\n",
                "close_pattern": r"\n```[ ]*(?:<\|observation\|>)?",
                "content": "text",
                "content_args": {"strip": False},
            },
            "tool_calls": {
                "open_pattern": _BEGIN
                + r"(?P<name>(?!interpreter[ ]*\n)[\w.-]+)[ ]*\n[ ]*```(?:python)?[ ]*\n[ ]*tool_call\(",
                "close_pattern": r"\)[ ]*\n```[ ]*(?:<\|observation\|>)?",
                "repeats": True,
                "content": "xml-inline",
                "content_args": {
                    "tag_pattern": r"(?P<key>[^\W\d][\w.-]*)\s*=\s*" + _VALUE,
                    "value_parser": {"name": "json", "args": {"string_delims": [["'", "'"]], "allow_non_json": True}},
                },
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
            "content": {
                "close_pattern": r"<\|(?:assistant|user|observation)\|>",
                "repeats": True,
                "join": "\n",
                "content": "text",
            },
        },
    }
)


def response_template(marked: bool) -> dict[str, Any]:
    """The template for answers with their special tokens, or for those that lost them (`skip_special_tokens`)."""
    if marked:
        return RESPONSE_TEMPLATE
    fields = {
        name: {key: _in_text(value) for key, value in field.items()}
        for name, field in RESPONSE_TEMPLATE["fields"].items()
    }
    return ResponseTemplate(RESPONSE_TEMPLATE | {"fields": fields})


def _in_text(value: Any) -> Any:
    return value.replace(_BEGIN, _BEGIN_IN_TEXT) if isinstance(value, str) else value


def is_exact(template: Any) -> bool:
    """Whether a template stands for the format itself, so that ids are rendered without it.

    Ours does, and so do the ones of official folders: they lack metadata and tools, the older ones have a stray blank,
    and none was ever meant to differ from what the model was trained on.
    """
    if template is None:
        return True
    if not isinstance(template, str):
        return False
    return template.startswith(_MARK) or "".join(template.split()) == _OFFICIAL


_TURN = "<|{{message['role']}}|>{{message['content']}}"
_OFFICIAL = (
    "{%formessageinmessages%}{%ifloop.first%}[gMASK]sop" + _TURN + "{%else%}" + _TURN + "{%endif%}{%endfor%}"
    "{%ifadd_generation_prompt%}<|assistant|>{%endif%}"
)
