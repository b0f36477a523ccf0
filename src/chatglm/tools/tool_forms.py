"""The forms tools are written down in: OpenAI's, the official README's, and the official composite demo's."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from chatglm.errors import ToolError
from chatglm.tools.schema import spelled

# Python's names of types, as the composite demo writes them, and JSON's.
_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "none": "null",
    "nonetype": "null",
}
_PYTHON_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "object": "dict",
    "array": "list",
    "null": "None",
}


def plain_form(schema: Any) -> dict[str, Any]:
    """A tool in the form the model reads, keys in the order they were given.

    Raises:
        ToolError: it has none of the known forms.
    """
    inner = schema.get("function", schema) if isinstance(schema, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise ToolError(f"a tool is {spelled(schema)}; it must be a dict with name, description and parameters")
    form = copy.deepcopy(dict(inner))
    if "params" in form and "parameters" in form:
        raise ToolError(f"the tool {form['name']} has both params and parameters; it must have one of them")
    description = form.get("description", "")
    if not isinstance(description, str):
        raise ToolError(f"the description of the tool {form['name']} is {spelled(description)}; it must be a text")
    if "params" not in form:
        return form
    written = {"parameters": _from_params(form["params"], form["name"])}
    return {
        ("parameters" if key == "params" else key): written.get("parameters") if key == "params" else value
        for key, value in form.items()
    }


def _from_params(params: Any, name: str) -> dict[str, Any]:
    if not isinstance(params, Sequence) or isinstance(params, str):
        raise ToolError(f"params of the tool {name} is {spelled(params)}; it must be a list")
    properties, required = {}, []
    for item in params:
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            raise ToolError(f"a parameter of the tool {name} is {spelled(item)}; it must be a dict with a name")
        properties[item["name"]] = {
            **_json_type(item.get("type")),
            **({"description": item["description"]} if item.get("description") else {}),
        }
        if item.get("required", False):
            required.append(item["name"])
    return {"type": "object", "properties": properties, "required": required}


def _json_type(written: Any) -> dict[str, Any]:
    """`int`, `list[str]`, `tuple[int, int]`, `<class 'int'>` or a JSON type; a type nobody knows says nothing."""
    text = str(written or "").strip()
    match = re.fullmatch(r"<class '(\w+)'>|(?:typing\.)?(\w+)(?:\[(.*)\])?", text)
    if match is None:
        return {}
    name, inside = (match[1] or match[2]).lower(), match[3]
    kind = _JSON_TYPES.get(name, name)
    if kind not in _PYTHON_TYPES:
        return {}
    if kind != "array" or not inside:
        return {"type": kind}
    parts = [_json_type(part) for part in _split(inside)]
    if name == "tuple" and inside.rstrip()[-3:] != "...":
        return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
    return {"type": "array", "items": parts[0]}


def _split(inside: str) -> list[str]:
    """Type arguments, at the commas that are not inside brackets of their own."""
    parts, depth = [""], 0
    for letter in inside:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def to_composite(form: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as the official composite demo writes it: `params`, with types in Python's words."""
    parameters = form.get("parameters") or {}
    required = parameters.get("required", [])
    params = [
        {
            "name": name,
            "description": part.get("description", ""),
            "type": _python_type(part),
            "required": name in required,
        }
        for name, part in parameters.get("properties", {}).items()
    ]
    return {"name": form["name"], "description": form.get("description", ""), "params": params}


def _python_type(schema: Any) -> str:
    if not isinstance(schema, Mapping) or not isinstance(schema.get("type"), str):
        return "Any"
    if "prefixItems" in schema:
        return f"tuple[{', '.join(map(_python_type, schema['prefixItems']))}]"
    if isinstance(schema.get("items"), Mapping):
        return f"list[{_python_type(schema['items'])}]"
    return _PYTHON_TYPES.get(schema["type"], "Any")
