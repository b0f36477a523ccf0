"""Tools whose results the visitor gives: the manual mode of the official composite demo."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

from chatglm.errors import ToolError
from chatglm.tools import Tool

MOST_TEXT = 20_000  # characters of the editor
MOST_TOOLS = 20
MOST_DEPTH = 30
PATIENCE = 3600.0  # seconds that a call waits for its result


class ByHand:
    """The tools of a visitor's editor. Only their schemas are read; nothing in them is run."""

    def __init__(self) -> None:
        self.text = ""
        self.tools: list[Tool] = []
        self._results: queue.Queue[str | None] = queue.Queue()

    def read(self, text: str) -> None:
        """Makes the tools that a text describes, in YAML or JSON.

        Args:
            text: one schema or a list of them, in any form that `Tool.from_schema` reads.

        Raises:
            ToolError: it is no such text; the tools are those from before.
        """
        tools = [Tool.from_schema(schema, self._wait, timeout=PATIENCE) for schema in _schemas(text)]
        names = [tool.name for tool in tools]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ToolError(f"two tools have the name {twice!r}; give one of them another name")
        self.text, self.tools = text, tools

    @property
    def names(self) -> list[str]:
        return [tool.name for tool in self.tools]

    def answer(self, result: str) -> None:
        """The result of the call that waits for it."""
        self._results.put(result)

    def forget(self) -> None:
        """Before a turn: what was answered too late belongs to nobody, and no call of before takes an answer away."""
        self._results = queue.Queue()

    def release(self) -> None:
        """After a turn: a call that still waits ends."""
        self._results.put(None)

    def _wait(self, **_: Any) -> str:
        result = self._results.get()
        if result is None:
            raise ToolError("nobody has given a result")
        return result


def _schemas(text: str) -> Sequence[Any]:
    import yaml

    if len(text) > MOST_TEXT:
        raise ToolError(f"the tools have {len(text)} characters; at most {MOST_TEXT} are read")
    try:
        _check_shape(text)
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ToolError(f"the tools are no YAML and no JSON: {error}") from None
    listed = [] if found is None else found if isinstance(found, list) else [found]
    if len(listed) > MOST_TOOLS:
        raise ToolError(f"there are {len(listed)} tools; at most {MOST_TOOLS} are taken")
    return listed


def _check_shape(text: str) -> None:
    """Refuses what makes a short text long to read: values in values without end, and aliases."""
    import yaml

    depth = 0
    for token in yaml.scan(text):
        name = type(token).__name__
        depth += name.endswith("StartToken") - name.endswith("EndToken")
        if depth > MOST_DEPTH or isinstance(token, yaml.AliasToken):
            raise ToolError(f"the tools hold an alias (*name), or values in more than {MOST_DEPTH} others")
