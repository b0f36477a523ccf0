"""Carrying out what the model has written: a call of a tool, or code. Whatever it wrote, an observation comes back."""

import inspect
import time
from collections.abc import Callable
from typing import Any, Literal

from chatglm.agent.consent import Consents
from chatglm.agent.events import Event, FileProduced, ImageProduced, Notice, Observation
from chatglm.agent.prompts import code_result
from chatglm.agent.waiting import start, wait
from chatglm.chat.message import INTERPRETER, ToolCall
from chatglm.chat.parser import Segment
from chatglm.errors import SessionError
from chatglm.tools.toolbox import ToolBox, ToolResult

MAX_CODE_RESULT = 8000  # characters of one result that the model is told
GRACE_SECONDS = 5.0  # for code to end after it was interrupted

Ask = Callable[[ToolCall], bool] | Literal["ask"]


class Actions:
    """The tools and the code interpreter of one conversation.

    Args:
        tools: what may be called.
        sandbox: a `chatglm.sandbox.Sandbox`; None: code is not run.
        ask: whether a dangerous tool may be called: only `True` allows it. "ask": somebody answers `consents`. None:
            none may.

    Raises:
        SessionError: `ask` is something else, or a coroutine function, whose result would be no answer.
    """

    def __init__(self, tools: ToolBox, sandbox: Any = None, ask: Ask | None = None) -> None:
        if inspect.iscoroutinefunction(ask):
            raise SessionError(
                f"on_dangerous is {ask!r}, a coroutine function; it must be a plain one that returns True"
            )
        if not (ask is None or ask == "ask" or callable(ask)):
            raise SessionError(f'on_dangerous is {ask!r}; it must be a function that returns True, "ask", or None')
        self.tools, self.sandbox, self.ask = tools, sandbox, ask
        self.consents = Consents()

    def allows(self, segment: Segment) -> bool | None:
        """Whether a call or code may be carried out; None: somebody is to be asked through `consents`."""
        call = segment.call
        if call is None or not self._is_dangerous(call):
            return True
        if self.ask == "ask":
            return None
        return self.ask is not None and self.ask(call) is True

    def carry_out(
        self, segment: Segment, allowed: bool, stopped: Callable[[], bool]
    ) -> tuple[Observation, list[Event]]:
        """The observation for a call or code, and what else it has brought about.

        Args:
            segment: a tool call or code.
            allowed: what became of `allows`.
            stopped: asked while it goes on; once true, nobody waits for it any longer.
        """
        began = time.monotonic()
        if segment.kind == "code":
            return self._run(segment, began, stopped)
        if not allowed:
            return _observation(segment, "The user has not allowed this call.", "refused", began), []
        return self._call(segment, began, stopped), []

    def _call(self, segment: Segment, began: float, stopped: Callable[[], bool]) -> Observation:
        call = segment.call
        assert call is not None
        future = start(lambda: self.tools.call(call))
        if not wait(future, stopped):
            return _observation(segment, "The call was stopped before it had a result.", "stopped", began)
        result = future.result()
        return Observation(segment.id, call.name, result.text, result.ok, _status(result), result.seconds, result.cut)

    def _is_dangerous(self, call: ToolCall) -> bool:
        """Whether the user is to be asked; not about a call that is wrong and will not be carried out."""
        if call.name not in self.tools or call.arguments is None:
            return False
        found = self.tools[call.name]
        return found.dangerous and not found.check(call.arguments)[1]

    def _run(self, segment: Segment, began: float, stopped: Callable[[], bool]) -> tuple[Observation, list[Event]]:
        if self.sandbox is None:
            text = "There is no code interpreter in this conversation; answer without running code."
            return _observation(segment, text, "invalid", began), []
        result = self._result(segment.code or "", stopped)
        if result is None:
            text = code_result("The code was stopped and has not ended yet.")
            return _observation(segment, text, "stopped", began), []
        text = _encodable(result.text(MAX_CODE_RESULT))
        observation = _observation(segment, code_result(text), str(result.status), began)
        return observation, _brought(segment.id, result)

    def _result(self, code: str, stopped: Callable[[], bool]) -> Any:
        """What running the code gave; None when it could not be ended in time."""
        future = start(lambda: self.sandbox.run(code))
        try:
            if wait(future, stopped):
                return future.result()
        except KeyboardInterrupt:
            self.sandbox.interrupt()
            raise
        last = time.monotonic() + GRACE_SECONDS

        def given_up() -> bool:
            self.sandbox.interrupt()  # again and again: the first one may have come before the code began
            return time.monotonic() > last

        return future.result() if wait(future, given_up) else None


def _observation(segment: Segment, text: str, status: str, began: float) -> Observation:
    name = segment.call.name if segment.call is not None else INTERPRETER
    return Observation(segment.id, name, text, status == "ok", status, time.monotonic() - began)


def _brought(cell: int, result: Any) -> list[Event]:
    """Pictures and files of a cell, and a notice where the interpreter had to begin anew."""
    events: list[Event] = [ImageProduced(cell, image.mime, image.data) for image in result.images]
    events += [FileProduced(cell, file.name, file.size) for file in result.files]
    if result.status == "killed":
        events.append(Notice("restarted", cell, reason=result.reason or ""))
    return events


def _encodable(text: str) -> str:
    """Text that has bytes: half of a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _status(result: ToolResult) -> str:
    if result.ok:
        return "ok"
    return {"unknown": "invalid", "arguments": "invalid", "timeout": "timeout"}.get(str(result.kind), "error")
