"""What all requests have in common: strict JSON types, unknown fields refused, harmless ones ignored."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator

from chatglm.serve.errors import unsupported

# Clients and gateways forward these whatever the server is; they change nothing about the answer.
HARMLESS = frozenset(
    (
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "verbosity",
        "reasoning_effort",
    )
)


class Value(BaseModel):
    """A part of a request: JSON types as they are (`true` is not 1), nothing unknown."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Body(Value):
    """A whole request. `null` stands for a field that was not sent."""

    harmless: ClassVar[frozenset[str]] = HARMLESS
    unsupported: ClassVar[dict[str, str]] = {}  # field -> why it is not carried out
    neutral: ClassVar[dict[str, Any]] = {}  # unsupported field -> the value that asks for nothing

    @model_validator(mode="before")
    @classmethod
    def _without_harmless(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for field, why in cls.unsupported.items():
            value = data.get(field)
            if value is not None and value != cls.neutral.get(field, value is None):
                raise unsupported(field, why)
        dropped = cls.harmless | cls.unsupported.keys()
        kept = {key: value for key, value in data.items() if value is not None}
        return {key: value for key, value in kept.items() if key in cls.model_fields or key not in dropped}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema says what `_without_harmless` does."""
        schema = handler.resolve_ref_schema(handler(core))
        fields: dict[str, Any] = schema.setdefault("properties", {})
        for name, field in fields.items():
            if name not in schema.get("required", ()):
                fields[name] = _or_null(field)
        fields |= {name: {} for name in sorted(cls.harmless - fields.keys())}
        for name in sorted(cls.unsupported.keys() - fields.keys()):
            fields[name] = {"enum": [None, *([cls.neutral[name]] if name in cls.neutral else [])]}
        return schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if {"type": "null"} in schema.get("anyOf", ()):
        return schema
    told = {name: schema[name] for name in ("title", "description", "default") if name in schema}
    rest = {name: value for name, value in schema.items() if name not in told}
    return told | {"anyOf": [rest, {"type": "null"}]}
