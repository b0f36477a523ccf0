"""Carrying out what the model has written: a call of a tool, or code. Whatever it wrote, an observation comes back."""

import inspect
import time
from collections.abc import Callable
from typing import Any

from chatglm.agent.events import Event, FileProduced, ImageProduced, Notice, Observation
from chatglm.agent.prompts import code_result
from chatglm.chat.message import INTERPRETER, ToolCall
from chatglm.chat.parser import Segment
from chatglm.errors import SessionError
from chatglm.tools import ToolBox, ToolResult
from chatglm.tools.running import Call

MAX_CODE_RESULT = 8000  # characters of one result that the model is told
GRACE_SECONDS = 5.0  # for code to end after it was interrupted

Ask = Callable[[ToolCall], bool]


class Actions:
    """The tools and the code interpreter of one conversation.

    Args:
        tools: what may be called.
        sandbox: a `chatglm.sandbox.Sandbox`; None: code is not run.
        ask: whether a dangerous tool may be called: only `True` allows it; without it none may.

    Raises:
        SessionError: `ask` is a coroutine function; what it returns would be no answer.
    """

    def __init__(self, tools: ToolBox, sandbox: Any = None, ask: Ask | None = None) -> None:
        if inspect.iscoroutinefunction(ask):
            raise SessionError(
                f"on_dangerous is {ask!r}, a coroutine function; it must be a plain one that returns True"
            )
        self.tools, self.sandbox, self.ask = tools, sandbox, ask

    def carry_out(self, segment: Segment, stopped: Callable[[], bool]) -> tuple[Observation, list[Event]]:
        """The observation for a call or code, and what else it has brought about.

        Args:
            segment: a tool call or code.
            stopped: asked while it goes on; once true, nobody waits for it any longer.
        """
        began = time.monotonic()
        if segment.kind == "code":
            return self._run(segment.code or "", began, stopped)
        assert segment.call is not None
        return self._call(segment.call, began, stopped), []

    def _call(self, call: ToolCall, began: float, stopped: Callable[[], bool]) -> Observation:
        if self._is_dangerous(call) and not (self.ask is not None and self.ask(call) is True):
            return _observation(call.name, "The user has not allowed this call.", "refused", began)
        result = self.tools.call(call, stopped)
        if result.kind == "stopped":
            return _observation(call.name, "The call was stopped before it had a result.", "stopped", began)
        return Observation(call.name, result.text, result.ok, _status(result), result.seconds, result.cut)

    def _is_dangerous(self, call: ToolCall) -> bool:
        """Whether the user is to be asked; not about a call that is wrong and will not be carried out."""
        if call.name not in self.tools or call.arguments is None:
            return False
        found = self.tools[call.name]
        return found.dangerous and not found.check(call.arguments)[1]

    def _run(self, code: str, began: float, stopped: Callable[[], bool]) -> tuple[Observation, list[Event]]:
        if self.sandbox is None:
            text = "There is no code interpreter in this conversation; answer without running code."
            return _observation(INTERPRETER, text, "invalid", began), []
        result = self._result(code, stopped)
        if result is None:
            text = code_result("The code was stopped and has not ended yet.")
            return _observation(INTERPRETER, text, "stopped", began), []
        text = _encodable(result.text(MAX_CODE_RESULT))
        observation = _observation(INTERPRETER, code_result(text), str(result.status), began)
        return observation, _brought(result)

    def _result(self, code: str, stopped: Callable[[], bool]) -> Any:
        """What running the code gave; None when it could not be ended in time."""
        running = Call(lambda: self.sandbox.run(code))
        try:
            if running.wait(stopped):
                return running.result()
        except KeyboardInterrupt:
            self.sandbox.interrupt()
            raise
        last = time.monotonic() + GRACE_SECONDS

        def given_up() -> bool:
            self.sandbox.interrupt()  # again and again: the first one may have come before the code began
            return time.monotonic() > last

        return running.result() if running.wait(given_up) else None


def _observation(name: str, text: str, status: str, began: float) -> Observation:
    return Observation(name, text, status == "ok", status, time.monotonic() - began)


def _brought(result: Any) -> list[Event]:
    """Pictures and files of a cell, and a notice where the interpreter had to begin anew."""
    events: list[Event] = [ImageProduced(image.mime, image.data) for image in result.images]
    events += [FileProduced(file.name, file.size) for file in result.files]
    if result.status == "killed":
        reason = f": {result.reason}" if result.reason else ""
        events.append(Notice("restarted", f"the code interpreter was restarted and its variables are gone{reason}"))
    return events


def _encodable(text: str) -> str:
    """Text that has bytes: half of a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _status(result: ToolResult) -> str:
    if result.ok:
        return "ok"
    return {"unknown": "invalid", "arguments": "invalid", "timeout": "timeout"}.get(str(result.kind), "error")
