"""Tools by name: calls are checked before they are carried out, and answered as text whatever happens."""

import contextvars
import difflib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from chatglm.chat.message import ToolCall
from chatglm.errors import ToolError
from chatglm.tools.definition import Tool, check_limits, tool
from chatglm.tools.result_text import cut, result_text, told
from chatglm.tools.running import Call, TookTooLong

TIMEOUT = 30.0  # seconds
MAX_RESULT = 4000  # characters
_MAX_ABANDONED = 8
_MAX_DEPTH = 4  # tools that call tools
_DEPTH = contextvars.ContextVar("depth of tool calls", default=0)

Kind = Literal["unknown", "arguments", "exception", "timeout", "stopped", "result", "busy"]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What became of a call.

    Attributes:
        text: what the model is told: the result, or what was wrong and what would be right.
        ok: whether the tool was carried out and returned a result.
        error: what was wrong; None if nothing was.
        seconds: how long it took.
        cut: whether the result was longer than the model is shown.
        kind: of an error: an unknown tool, wrong arguments, an exception, too slow, stopped, a result that is no text,
            or too many calls at once.
    """

    text: str
    ok: bool = True
    error: str | None = None
    seconds: float = 0.0
    cut: bool = False
    kind: Kind | None = None


class ToolBox:
    """Tools by name, and calls of them that never raise.

    Args:
        tools: tools, or functions to make tools of.
        timeout: seconds one call may take where the tool does not say.
        max_result: characters of a result the model is shown where the tool does not say.

    Raises:
        ToolError: two tools of one name, or something that is no tool.
    """

    def __init__(
        self,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        *,
        timeout: float = TIMEOUT,
        max_result: int = MAX_RESULT,
    ) -> None:
        check_limits(timeout, max_result, "the tool box")
        self.timeout, self.max_result = timeout, max_result
        self._tools: dict[str, Tool] = {}
        self._abandoned: list[Call] = []
        self._lock = threading.Lock()
        if callable(tools):
            raise ToolError(f"tools is {tools!r}; it must be a list of tools")
        for item in tools:
            self.add(item)

    def add(self, item: Tool | Callable[..., Any]) -> Tool:
        """Adds a tool; a name that is taken is an error."""
        found = item if isinstance(item, Tool) else tool(item)
        if found.name in self._tools:
            raise ToolError(f"two tools have the name {found.name!r}; give one of them another name")
        self._tools[found.name] = found
        return found

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    @property
    def abandoned(self) -> int:
        """How many calls are still running although their time is over."""
        with self._lock:
            self._abandoned = [call for call in self._abandoned if call.is_alive]
            return len(self._abandoned)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def schemas(self) -> list[dict[str, Any]]:
        """The tools as the system message holds them: `Message("system", TOOLS_PROMPT, tools=box.schemas())`."""
        return [found.schema() for found in self]

    def call(self, call: ToolCall, stopped: Callable[[], bool] = lambda: False) -> ToolResult:
        """Carries out a call the model wrote. Never raises for what the model or the tool does.

        Args:
            call: what the model wrote.
            stopped: asked while the call goes on; once true, nobody waits for it any longer.
        """
        prepared = self._prepare(call)
        if isinstance(prepared, ToolResult):
            return prepared

        def deeper() -> Any:
            _DEPTH.set(_DEPTH.get() + 1)  # in the call's own context: nothing to take back, wherever Ctrl-C comes
            return prepared.carry_out()

        running = Call(deeper, prepared.timeout)
        try:
            ended = running.wait(stopped)
            return prepared.answer(running, not ended and stopped())
        finally:  # also after Ctrl-C
            if running.stuck or not running.ended:
                with self._lock:
                    self._abandoned.append(running)

    def _prepare(self, call: ToolCall) -> "_Prepared | ToolResult":
        found = self._tools.get(call.name)
        if found is None:
            return _failed("unknown", f"there is no tool named {call.name!r}", self._suggestion(call.name))
        if call.arguments is None:
            form = "A call is written tool_call(name=value, ...) with plain values."
            return _failed(
                "arguments", f"the call of {found.name} cannot be read: {call.error}", f"{form} {found.usage()}"
            )
        arguments, problems = found.check(call.arguments)
        if problems:
            return _failed("arguments", f"wrong arguments for {found.name}: {'; '.join(problems)}", found.usage())
        if found.function is None:
            return _failed("unknown", f"the tool {found.name} cannot be carried out here", "Answer without it.")
        if _DEPTH.get() >= _MAX_DEPTH:
            return _failed("busy", f"{found.name} was not called: tools call each other in a circle", "")
        if self.abandoned >= _MAX_ABANDONED:
            return _failed("busy", f"{found.name} was not called: {self.abandoned} earlier calls have not ended", "")
        timeout = self.timeout if found.timeout is None else found.timeout
        max_result = self.max_result if found.max_result is None else found.max_result
        return _Prepared(found, arguments, timeout, max_result, time.monotonic())

    def _suggestion(self, name: str) -> str:
        if not self._tools:
            return "No tools are offered. Answer without them."
        close = difflib.get_close_matches(name, self._tools, n=1)
        meant = f"Did you mean {close[0]}? " if close else ""
        return f"{meant}The tools are: {', '.join(self._tools)}."


def _failed(kind: Kind, error: str, advice: str, seconds: float = 0.0) -> ToolResult:
    end = "" if error.endswith((".", "?", "!")) else "."
    text, was_cut = cut(f"Error: {error}{end} {advice}".strip(), MAX_RESULT)
    return ToolResult(text, False, error, seconds, was_cut, kind)


class _NotAccepted(Exception):
    """The type of a parameter did not accept its value."""


@dataclass(frozen=True)
class _Prepared:
    """A call that may be carried out."""

    tool: Tool
    arguments: dict[str, Any]
    timeout: float
    max_result: int
    begun: float

    def carry_out(self) -> Any:
        """Builds the values of the arguments, which may run code of their types, and calls the function."""
        try:
            values = self.tool.build(self.arguments)
        except Exception as error:
            raise _NotAccepted(told(error)) from error
        return self.tool(**values)

    def answer(self, call: Call, stopped: bool) -> ToolResult:
        """What is said about a call that has ended, or that nobody waits for any longer."""
        name, seconds, error = self.tool.name, time.monotonic() - self.begun, call.error
        if not call.ended or isinstance(error, TookTooLong):
            if stopped:
                return _failed("stopped", f"{name} was stopped before it had a result", "", seconds)
            return _failed("timeout", f"{name} gave no answer within {self.timeout:g} seconds", "", seconds)
        if isinstance(error, _NotAccepted):
            return _failed("arguments", f"wrong arguments for {name}: {error}", self.tool.usage(), seconds)
        if error is not None:
            return _failed("exception", f"{name} failed: {told(error)}", "", seconds)
        try:
            text, was_cut = cut(result_text(call.value), self.max_result)
        except ToolError as unusable:
            return _failed("result", f"{name} gave no usable result: {unusable}", "", seconds)
        return ToolResult(text, True, None, seconds, was_cut)
