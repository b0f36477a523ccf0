"""JSON Schemas as grammars of what this model writes: Python literals in `tool_call(key='value', ...)`.

The model was trained to write calls as Python, so that is what a call is held to; JSON would be another language to
it. What a grammar cannot say (minimum, multipleOf, ...) is left to the one who reads the call: a grammar that is too
wide still gives calls that parse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chatglm.serve.errors import ApiError

BEGIN = '" "?'  # the piece that begins a segment carries a blank
BREAK = '"\\n" " "?'
_CHARACTER = r"([^'\\\n\r]|\\(['\\nrt]|u[0-9a-f]{4}|x[0-9a-f]{2}))"
_RULES = rf"""
STRING: /'{_CHARACTER}*'/
INTEGER: /-?(0|[1-9][0-9]{{0,17}})/
NUMBER: /-?(0|[1-9][0-9]{{0,17}})(\.[0-9]{{1,17}})?/
boolean: "True" | "False"
any: STRING | NUMBER | boolean | "None" | any_list | any_dict
any_list: "[]" | "[" any (", " any)* "]"
any_dict: "{{}}" | "{{" STRING ": " any (", " STRING ": " any)* "}}"
"""
_MAX_RULES = 2000
_MAX_OPTIONAL = 12  # properties that may be left out; each doubles nothing, but adds a rule
_KEYWORD = "type"


def lark_of_calls(tools: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A Lark grammar of a call of one of the tools, from behind the assistant's marker on.

    Args:
        tools: names and their JSON Schemas, of objects.

    Raises:
        ApiError: 400, a schema that is no object's or has too many parts.
    """
    grammar = _Grammar()
    calls = [f'"{name}" {BREAK} {grammar.call(schema)}' for name, schema in tools]
    return f"start: {BEGIN} ({' | '.join(calls)})\n" + grammar.text()


def lark_of_answers(tools: Sequence[tuple[str, Mapping[str, Any] | None]], marker: str) -> str:
    """A Lark grammar of whole answers: texts, and calls that fit the schemas there are.

    Args:
        tools: names and their JSON Schemas; None: any arguments.
        marker: what stands between two segments of an answer, as Lark spells it.

    Raises:
        ApiError: see `lark_of_calls`.
    """
    grammar, terminals, segments = _Grammar(), [], []
    for number, (name, schema) in enumerate(tools):
        # Each way to begin is one terminal: the longest that fits is taken, so that a name is no line of text.
        free = r"(.|\n)*" if schema is None else ""
        terminals.append(r"CALL_{}: / ?{}\n ?{}/".format(number, name.replace(".", r"\."), free))
        segments.append(f"CALL_{number}" + ("" if schema is None else f" {grammar.call(schema)}"))
    # A text has an empty first line or no second one, else its first line would be a tool's name.
    terminals.append(r"TEXT: /[^\n]*|[ \t]*\n(.|\n)*/")
    segment = f"segment: {' | '.join([*segments, 'TEXT'])}"
    return "\n".join([f"start: segment ({marker} segment)*", segment, *terminals, grammar.text()])


class _Grammar:
    """Rules collected on the way through the schemas of one grammar."""

    def __init__(self) -> None:
        self._rules: list[str] = []
        self._named: dict[int, str] = {}
        self._root: Mapping[str, Any] = {}

    def text(self) -> str:
        return "\n".join(self._rules) + _RULES

    def call(self, schema: Mapping[str, Any]) -> str:
        """What stands behind the tool's name."""
        return f'"```python\\ntool_call(" {self.arguments(schema)} ")\\n```"'

    def arguments(self, schema: Mapping[str, Any]) -> str:
        """What stands between the brackets of `tool_call(...)`."""
        self._root, self._named = schema, {}
        schema = self._resolved(schema)
        if schema.get("type", "object") != "object":
            raise ApiError(400, f"the parameters of a tool are of type {schema['type']!r}; they must be an object")
        return self._members(schema, lambda name: f'"{name}="')

    def _members(self, schema: Mapping[str, Any], key: Any) -> str:
        """Properties in their order, those that are not required possibly left out, with commas between."""
        required = set(schema.get("required") or ())
        entries = [
            (f"{key(name)} {self.value(value)}", name in required)
            for name, value in (schema.get("properties") or {}).items()
        ]
        # after[i]: what may follow when something stands before; first[i]: when nothing does
        after = first = '""'
        for written, needed in reversed(entries):
            following = self._rule(f'", " {written} {after}' + ("" if needed else f" | {after}"))
            first = self._rule(f"{written} {after}" + ("" if needed else f" | {first}"))
            after = following
        return first

    def value(self, schema: Any) -> str:
        """A rule for a value that fits a schema."""
        if not isinstance(schema, Mapping) or schema is True:
            return "any"
        if id(schema) in self._named:
            return self._named[id(schema)]
        schema_id, schema = id(schema), self._resolved(schema)
        if id(schema) in self._named:
            return self._named[id(schema)]
        name = self._reserve()
        self._named[schema_id] = self._named[id(schema)] = name
        self._rules[self._place(name)] = f"{name}: {self._alternatives(schema)}"
        return name

    def _alternatives(self, schema: Mapping[str, Any]) -> str:
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return " | ".join(_literal(value) for value in schema["enum"]) or "any"
        for word in ("anyOf", "oneOf"):
            if schema.get(word):
                return " | ".join(self.value(option) for option in schema[word])
        if len(schema.get("allOf") or ()) == 1:
            return self.value(schema["allOf"][0])
        kinds = schema.get(_KEYWORD)
        kinds = kinds if isinstance(kinds, list) else [kinds or ("object" if "properties" in schema else None)]
        return " | ".join(self._of_kind(kind, schema) for kind in kinds)

    def _of_kind(self, kind: Any, schema: Mapping[str, Any]) -> str:
        simple = {"string": "STRING", "integer": "INTEGER", "number": "NUMBER", "boolean": "boolean", "null": '"None"'}
        if kind == "string" and ("minLength" in schema or "maxLength" in schema):
            least, most = int(schema.get("minLength", 0)), schema.get("maxLength", "")
            return f"/'{_CHARACTER}{{{least},{most}}}'/"
        if kind in simple:
            return simple[kind]
        if kind == "array":
            item = self.value(schema.get("items", True))
            empty = "" if schema.get("minItems") else '"[]" | '
            return f'{empty}"[" {item} (", " {item})* "]"'
        if kind == "object":
            if not schema.get("properties"):
                return "any_dict"
            return '"{" ' + self._members(schema, lambda name: _quoted(repr(name) + ": ")) + ' "}"'
        return "any"

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema a `$ref` leads to, within the tool's own."""
        for _ in range(16):
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                return schema
            found: Any = self._root
            for part in reference.removeprefix("#").split("/")[1:]:
                part = part.replace("~1", "/").replace("~0", "~")
                found = found.get(part) if isinstance(found, Mapping) else None
            if not reference.startswith("#") or not isinstance(found, Mapping):
                raise ApiError(400, f"a tool's schema refers to {reference!r}, which is not in it", param="tools")
            schema = found
        raise ApiError(400, "a tool's schema has references that lead in a circle", param="tools")

    def _rule(self, body: str) -> str:
        name = self._reserve()
        self._rules[self._place(name)] = f"{name}: {body}"
        return name

    def _reserve(self) -> str:
        if len(self._rules) >= _MAX_RULES:
            raise ApiError(
                400, f"the tools have more than {_MAX_RULES} parts; give fewer or smaller ones", param="tools"
            )
        self._rules.append("")
        return f"r{len(self._rules) - 1}"

    @staticmethod
    def _place(name: str) -> int:
        return int(name[1:])


def _literal(value: Any) -> str:
    """A JSON value as Python writes it."""
    return _quoted(repr(value))


def _quoted(text: str) -> str:
    """A text as Lark spells it."""
    return json.dumps(text, ensure_ascii=False)
