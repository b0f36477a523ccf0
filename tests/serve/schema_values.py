"""Values that a JSON schema of our own description allows: as much of it as pydantic writes."""

from hypothesis import strategies as st

ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def values(schema, page):
    """A strategy; `page` is where references lead."""
    if "$ref" in schema:
        found = page
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return st.deferred(lambda: values(found, page))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return st.one_of([values(one, page) for one in schema[word]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return _OF_TYPE.get(schema.get("type"), lambda *_: ANY)(schema, page)


def _number(schema, page):
    low, high = schema.get("minimum", -1000), schema.get("maximum", 1000)
    low = schema.get("exclusiveMinimum", low)
    if schema["type"] == "integer":
        return st.integers(low, min(high, schema.get("exclusiveMaximum", high + 1) - 1))
    return st.floats(low, high, exclude_min="exclusiveMinimum" in schema)


def _text(schema, page):
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    return st.text(min_size=schema.get("minLength", 0), max_size=min(12, schema.get("maxLength", 12)))


def _list(schema, page):
    low = schema.get("minItems", 0)
    return st.lists(
        values(schema.get("items", {}), page), min_size=low, max_size=min(low + 2, schema.get("maxItems", 9))
    )


def _object(schema, page):
    fields, needed = schema.get("properties"), set(schema.get("required", ()))
    if fields is None:
        inner = schema.get("additionalProperties")
        return st.dictionaries(st.text(max_size=6), values(inner if isinstance(inner, dict) else {}, page), max_size=2)
    made = {name: values(field, page) for name, field in fields.items()}
    # Of many fields that may be there few are: with all of them hardly any request would be taken.
    chosen = st.sets(st.sampled_from(sorted(set(made) - needed) or [None]), max_size=3)
    return chosen.flatmap(lambda more: st.fixed_dictionaries({name: made[name] for name in (needed | more) - {None}}))


_OF_TYPE = {
    "object": _object, "array": _list, "string": _text, "integer": _number, "number": _number,
    "boolean": lambda *_: st.booleans(), "null": lambda *_: st.none(),
}  # fmt: skip
