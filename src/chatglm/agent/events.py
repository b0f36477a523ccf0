"""What a turn tells while it goes on, besides the text and the calls of the answer itself. `wire` writes it as JSON.

Calls and code have ids, counted through a session from 1; what came of one carries its id.
"""

from dataclasses import dataclass
from typing import Literal

from chatglm.chat.message import CodeDone, TextDelta, ToolCall, ToolCallDelta, ToolCallDone

NoticeKind = Literal["history_cut", "no_room", "restarted", "failed"]
TurnReason = Literal["stop", "length", "abort", "rounds", "errors", "seconds"]


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of a call or of code, as the model is told it.

    Attributes:
        id: of the call or code.
        name: the tool; `interpreter` for code.
        text: what came out, or what was wrong.
        ok: whether it was carried out and did not fail.
        status: "ok"; "error": it failed; "invalid": the call was wrong and nothing was carried out; "refused": not
            allowed; "stopped", "timeout" or "killed": it was ended.
        seconds: how long it took.
        cut: whether the text is only the beginning of what came out.
    """

    id: int
    name: str
    text: str
    ok: bool
    status: str
    seconds: float
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ImageProduced:
    """Code has shown a picture.

    Attributes:
        id: of the code.
        mime: "image/png" or "image/jpeg".
        data: its bytes, as a file would hold them.
    """

    id: int
    mime: str
    data: bytes


@dataclass(frozen=True, slots=True)
class FileProduced:
    """Code has written a file; `session.sandbox.get(name)` has its bytes.

    Attributes:
        id: of the code.
        name: its path under /mnt/data.
        size: in bytes.
    """

    id: int
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class ConsentAsked:
    """A dangerous tool is to be used: `session.answer(id, True)` allows it, from any thread.

    The turn waits. Any other answer is a no, and so is none before the turn is stopped or its time is over.

    Attributes:
        id: of the call.
        call: with the arguments the tool would get.
    """

    id: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Notice:
    """Something was done that nobody asked for, or left undone. Data; the words for it are the reader's.

    Attributes:
        kind: "history_cut": old turns were left out, `count` more of them than before; "no_room": the turn has filled
            the context, going on would take `count` tokens; "restarted": the interpreter began anew and its variables
            are gone, after the code `id` and for that `reason`, if one is known; "failed": a task broke off, for that
            `reason`.
        id: of the code it is about; 0: of none.
    """

    kind: NoticeKind
    id: int = 0
    count: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TurnDone:
    """The turn is over; the last event of every turn that did not raise.

    Attributes:
        reason: "stop": the model was done; "length": no tokens were left; "abort": somebody stopped it; "rounds",
            "errors", "seconds": that limit was reached.
        rounds: how many times the model was answered with results.
        prompt_tokens: tokens of the first prompt.
        new_tokens: tokens written, of all rounds together.
        seconds: how long the turn took.
        kept: whether the turn stands in the history; one in which nothing was said does not.
        first_token_seconds: how long the first token took, reading the prompt included; None: there was none.
        writing_seconds: from the first token of each answer to its last, of all rounds together.
    """

    reason: TurnReason
    rounds: int
    prompt_tokens: int
    new_tokens: int
    seconds: float
    kept: bool
    first_token_seconds: float | None = None
    writing_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Speed of writing, without reading prompts and waiting for tools; 0 where it was too short to say."""
        written = self.new_tokens - self.rounds - 1  # the first token of an answer comes with reading its prompt
        return written / self.writing_seconds if written > 0 and self.writing_seconds > 0 else 0.0


Event = (
    TextDelta
    | ToolCallDelta
    | ToolCallDone
    | CodeDone
    | ConsentAsked
    | Observation
    | ImageProduced
    | FileProduced
    | Notice
    | TurnDone
)


# What a task tells besides.


@dataclass(frozen=True, slots=True)
class PlanMade:
    """A plan.

    Attributes:
        steps: what is to be done from here on.
        revision: how many plans came before this one.
    """

    steps: tuple[str, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class StepBegun:
    """A step begins.

    Attributes:
        number: of the steps begun, over all plans; from 1.
        text: what is to be done in it.
    """

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A step is over: `text` is what the model says came of it, or why it failed."""

    number: int
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class AnswerBegun:
    """The steps are over; the text that follows is the final answer."""


@dataclass(frozen=True, slots=True)
class TaskDone:
    """The task is over.

    Attributes:
        answer: the final answer; "" if there was no time or will for one.
        reason: "done"; "failed": a step failed and the plan could not be changed any more, or the answer says that the
            task is not done (see `AgentTask`); "steps", "seconds" or "tokens": that limit was reached; "abort":
            somebody stopped it.
        steps: steps carried out.
        revisions: how often the plan was changed.
        seconds: how long it took.
    """

    answer: str
    reason: str
    steps: int
    revisions: int
    seconds: float


TaskEvent = Event | PlanMade | StepBegun | StepEnded | AnswerBegun | TaskDone
