"""Answers of a given form: JSON, a regular expression, a choice, a grammar, or a call of a tool.

llguidance says in every step which tokens may come; the engine's sampler keeps to them. An answer of ChatGLM3 begins
with an empty first line and a blank, which every grammar here lets pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from chatglm.errors import GenerationError, MissingExtraError
from chatglm.own_engine import token_texts
from chatglm.serve.call_grammar import lark_of_answers, lark_of_calls
from chatglm.serve.errors import wrong
from chatglm.serve.protocol.chat import (
    FunctionTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    StructuredOutputs,
    TextFormat,
)

ANSWER = '" "? "\\n" " "?'  # what stands between the assistant's marker and its text
PLAIN = '" "?'  # a text that is continued
_BREAK = "\n"
_VALUES = ("const", "default", "enum", "examples")  # of a schema: what they hold is no schema
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # name -> schema
_ANY_OBJECT = {"type": "object"}


class Forms:
    """Makes what makes constraints, for one tokenizer; each request needs one of its own.

    Args:
        tokenizer: ours; what its ids mean is read once, when the first constraint is asked for.
        max_bytes, max_depth: of schemas and grammars.
    """

    def __init__(self, tokenizer: Any, *, max_bytes: int, max_depth: int) -> None:
        self.tokenizer, self.max_bytes, self.max_depth = tokenizer, max_bytes, max_depth
        self._vocabulary: Any = None

    def of_response(
        self,
        wanted: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
        other: StructuredOutputs | None,
        *,
        chat: bool,
    ) -> Any:
        """The constraint for `response_format` or `structured_outputs`; None where the text is free.

        Raises:
            ApiError: 400, a schema or grammar that is wrong, too large or too deep.
        """
        lead = ANSWER if chat else PLAIN
        if isinstance(wanted, JsonObjectFormat):
            return self._json(_ANY_OBJECT, lead, "response_format")
        if isinstance(wanted, JsonSchemaFormat):
            field, schema = "response_format.json_schema.schema", wanted.json_schema.schema_
            self._check(schema, field)
            return self._json(_closed(schema) if wanted.json_schema.strict else schema, lead, field)
        if other is None:
            return None
        if other.json_ is not None:
            return self._json(_parsed(other.json_), lead, "structured_outputs.json")
        if other.regex is not None:
            return self._lark(f"start: {lead} wanted\nwanted: {_regex(other.regex)}", "structured_outputs.regex")
        if other.choice is not None:
            options = " | ".join(json.dumps(option, ensure_ascii=False) for option in other.choice)
            return self._lark(f"start: {lead} ({options})", "structured_outputs.choice")
        assert other.grammar is not None
        return self._lark(other.grammar, "structured_outputs.grammar")

    def of_call(self, tools: Sequence[FunctionTool], name: str | None) -> Any:
        """The constraint for a call of one of the tools, or of the named one."""
        chosen = [(tool.name, tool.parameters) for tool in tools if name in (None, tool.name)]
        for _, schema in chosen:
            self._check(schema, "tools")
        return self._lark(lark_of_calls(chosen), "tools", own=True)

    def of_answer(self, tools: Sequence[FunctionTool]) -> Any:
        """The constraint for an answer that may call, in which calls of tools with `strict` fit their schemas."""
        chosen = [(tool.name, tool.parameters if tool.strict else None) for tool in tools]
        for _, schema in chosen:
            self._check({} if schema is None else schema, "tools")
        next_segment = f"<[{self.tokenizer.chat_specials['<|assistant|>']}]>"
        return self._lark(lark_of_answers(chosen, next_segment), "tools", own=True)

    def _json(self, schema: Any, lead: str, field: str) -> Any:
        self._check(schema, field)
        return self._lark(f"start: {lead} wanted\nwanted: %json {json.dumps(_compact(schema))}", field, own=True)

    def _lark(self, grammar: str, field: str, *, own: bool = False) -> Any:
        if not own and len(grammar.encode()) > self.max_bytes:
            raise wrong(field, f"{field} has {len(grammar.encode())} bytes; it may have {self.max_bytes}")
        guidance = _library()
        fault = guidance.LLMatcher.validate_grammar(guidance.grammar_from("lark", grammar), self._tokens())
        if fault:
            raise wrong(field, f"{field} is no form that an answer could have: {fault[:300]}")
        return _Form(grammar, self._tokens())

    def _check(self, schema: Any, field: str) -> None:
        if not isinstance(schema, Mapping):
            raise wrong(field, f"{field} is no object; a JSON Schema is one")
        size, depth = len(json.dumps(schema, ensure_ascii=False).encode()), _depth(schema)
        if size > self.max_bytes or depth > self.max_depth:
            raise wrong(
                field,
                f"{field} has {size} bytes and is {depth} levels deep; "
                f"at most {self.max_bytes} bytes and {self.max_depth} levels are read",
            )

    def _tokens(self) -> Any:
        if self._vocabulary is None:
            wrapper = _library().TokenizerWrapper(_Vocabulary(self.tokenizer))
            self._vocabulary = _library().LLTokenizer(wrapper, eos_token=sorted(self.tokenizer.stop_ids))
        return self._vocabulary


class _Vocabulary:
    """A tokenizer as llguidance wants to see it: the bytes of every id."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokens = token_texts(tokenizer)
        self.special_token_ids = [token_id for token_id, text in enumerate(self.tokens) if not text]
        self.eos_token_id = sorted(tokenizer.stop_ids)[0]
        self.bos_token_id = None
        self._encode = tokenizer.tokenizer.encode
        self._lead = len(self._encode(_BREAK))
        for token_id in self.special_token_ids:  # no text is spelled so: 0xFF is no part of UTF-8
            self.tokens[token_id] = b"\xff[%d]" % token_id

    def __call__(self, text: str) -> list[int]:
        """Ids of a text in the middle of another: SentencePiece would put a blank before it, and joins nothing over
        the end of a line."""
        ids: list[int] = self._encode(_BREAK + text)
        return ids[self._lead :]


class _Form:
    """Makes a request's constraint. An engine that has its own grammars reads `lark`."""

    def __init__(self, lark: str, tokens: Any) -> None:
        self.lark, self._tokens = lark, tokens

    def __call__(self) -> _Matching:
        guidance = _library()
        return _Matching(guidance.LLMatcher(self._tokens, guidance.grammar_from("lark", self.lark)))


class _Matching:
    """The engine's `Constraint` over one matcher."""

    def __init__(self, matcher: Any) -> None:
        self.matcher = matcher

    def accept(self, ids: Sequence[int]) -> None:
        """The answer goes on with these tokens."""
        if not self.matcher.consume_tokens(list(ids)):
            raise GenerationError(f"an answer has left its form: {self.matcher.get_error() or 'a token does not fit'}")

    def fill(self, row: Any) -> None:
        """Say in packed bits which tokens may come."""
        self.matcher.unsafe_compute_mask_ptr(row.data_ptr(), row.numel() * row.element_size())

    def rollback(self, n: int) -> None:
        """Forget the last `n` tokens."""
        self.matcher.rollback(n)

    @staticmethod
    def fill_many(asked: Sequence[tuple[_Matching, int]], rows: Any) -> None:
        """Several rows at once, in threads."""
        pairs = [(one.matcher, index) for one, index in asked]
        _executor().unsafe_compute_mask_ptr(pairs, rows.data_ptr(), rows.shape[1] * 4, rows.shape[0])


@lru_cache(maxsize=1)
def _executor() -> Any:
    return _library().LLExecutor()


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtraError("llguidance", "serve", "an answer of a given form") from error
    return llguidance


def _parsed(schema: Any) -> Any:
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise wrong("structured_outputs.json", f"structured_outputs.json is no JSON: {error}") from None


def _regex(pattern: str) -> str:
    """A regular expression as Lark spells it."""
    return "/" + pattern.replace("/", r"\/") + "/"


def _compact(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Blanks as Python writes JSON: a model must not be able to write them for ever."""
    layout = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return {**schema, "x-guidance": layout}


def _closed(schema: Any) -> Any:
    """A schema whose objects have no properties but those it names, as `strict` asks for.

    OpenAI refuses strict schemas that do not say so; a model that may add properties adds some for ever.
    """
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed: dict[str, Any] = {}
    for word, value in schema.items():
        if word in _NAMED and isinstance(value, Mapping):
            closed[word] = {name: _closed(inner) for name, inner in value.items()}
        else:
            closed[word] = value if word in _VALUES else _closed(value)
    if "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def _depth(value: Any) -> int:
    """How deep a JSON value is nested."""
    deepest, open_ = 0, [(value, 1)]
    while open_:
        value, level = open_.pop()
        deepest = max(deepest, level)
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        open_.extend((item, level + 1) for item in inner)
    return deepest
