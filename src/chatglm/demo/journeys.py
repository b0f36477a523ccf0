"""The tiny model end to end: through sessions of the product, with tools that are called and code that is run.

Each set asks conversations that training never drew, greedily. A tool answers what its sample says it answers; code
runs in the real sandbox.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from chatglm.agent.prompts import code_result
from chatglm.agent.session import Session
from chatglm.chat.message import INTERPRETER, Message, Role
from chatglm.chat.saved import SavedConversation, vocabulary_of
from chatglm.demo import exact
from chatglm.demo.conversation import Conversation, question_of, with_code, with_tools
from chatglm.demo.text import Split, Turn
from chatglm.demo.topics.unknown import REFUSALS
from chatglm.engine.request import SamplingParams
from chatglm.loading import load
from chatglm.own_engine import engine_for
from chatglm.sandbox import open_sandbox
from chatglm.tools import Tool, ToolBox

GREEDY = SamplingParams(temperature=0.0)
_LONGEST_ANSWER = 400  # tokens; who says more has not stopped
UNKNOWN = ("unknown", "capitals", "opposites", "translation")  # on the entity split these ask for what nobody knows


@dataclass
class Outcome:
    """What one conversation came to; None where a question does not arise."""

    name: bool | None = None
    call: bool | None = None
    values: bool | None = None
    value: bool | None = None
    second: bool | None = None
    stopped: bool = True


class Judged:
    """A model with its engine and a sandbox, ready to be asked.

    Args:
        folder: a model folder.
        quantize: a scheme such as "int4"; None: as the folder is.
    """

    def __init__(self, folder: Path, quantize: str | None = None) -> None:
        model, tokenizer = load(folder, dtype=None if quantize else "float32", quantize=quantize)
        self.tokenizer, self.engine = tokenizer, engine_for(model, tokenizer)
        self.sandbox = open_sandbox()

    def __enter__(self) -> "Judged":
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.close()

    def table(self, samples: int, seed: int) -> dict[str, float]:
        """Every set's share of right outcomes."""
        found: dict[str, float] = {}
        stops: list[bool] = []
        for split, title in (
            ("train", "seen phrasings"), ("phrasing", "new phrasings"), ("entity", "new entities"),
            ("family", "new families"),
        ):  # fmt: skip
            outcomes = [self.with_tools(one) for one in islice(_last_acts(with_tools, split, seed), samples)]
            found |= _shares(outcomes, f"tools, {title}: ", ("name", "call", "values"))
            stops += [outcome.stopped for outcome in outcomes]
        for split, title in (("train", "seen"), ("phrasing", "new phrasings"), ("entity", "new entities")):
            outcomes = [self.with_code(one) for one in islice(_last_acts(with_code, split, seed), samples)]
            found |= _shares(outcomes, f"code, {title}: ", ("value", "values", "second"))
            stops += [outcome.stopped for outcome in outcomes]
        found["says that it does not know"] = self.unknown(samples, seed)
        return found | {"stops by itself": sum(stops) / max(1, len(stops))}

    def with_tools(self, one: Conversation) -> Outcome:
        """The last turn of a conversation, its tools answering what they answer there."""
        turn = one.turns[-1]
        wanted = [step for step in turn.steps if step.learned]
        left = list(wanted)
        made: list[tuple[str, dict[str, Any]]] = []

        def answering(name: str) -> Callable[..., str]:
            def call(**arguments: Any) -> str:
                made.append((name, arguments))
                step = next((step for step in left if step.name == name), None)
                if step is None:
                    return "nothing was found"
                left.remove(step)
                return step.observation

            return call

        tools = ToolBox([Tool.from_schema(form, answering(form["name"])) for form in one.tools])
        answer, stopped = self._said(Session(self.engine, self.tokenizer, system=one.system, tools=tools), one)
        same = made == [(step.name, dict(step.arguments or {})) for step in wanted]
        return Outcome(
            name=[name for name, _ in made] == [step.name for step in wanted],
            call=same,
            values=all(value in answer for value in turn.values) if same and turn.values else None,
            stopped=stopped,
        )

    def with_code(self, one: Conversation) -> Outcome:
        """The last turn of a conversation, its code really run; after an error, only the second cell counts."""
        turn = one.turns[-1]
        self.sandbox.restart()  # every conversation counts its cells from 1
        if not turn.steps[0].learned:
            return self._after_error(one)
        session = Session(self.engine, self.tokenizer, sandbox=self.sandbox)
        answer, stopped = self._said(session, one)
        printed = [message.content for message in session.history if message.role is Role.OBSERVATION]
        wanted = turn.steps[-1].observation
        right = bool(printed) and (printed[-1] == wanted or ("[image" in wanted and "[image" in printed[-1]))
        told = all(value in answer for value in turn.values)
        return Outcome(value=right, values=told if right and turn.values else None, stopped=stopped)

    def _after_error(self, one: Conversation) -> Outcome:
        """Shown a cell with a mistake and the error the sandbox really gives, the model writes the next cells."""
        for name, content in one.turns[-1].files:
            self.sandbox.put(name, content)
        first = one.turns[-1].steps[0]
        failed = self.sandbox.run(first.text.removeprefix("```python\n").removesuffix("\n```")).text()
        messages = [*_messages_before(one), question_of(one.turns[-1])]
        messages += [Message(Role.ASSISTANT, first.text, INTERPRETER), Message(Role.OBSERVATION, code_result(failed))]
        result = ""
        for _ in one.turns[-1].steps[1:]:
            ids = list(self.tokenizer.render(messages).ids)
            [written] = self.engine.generate([ids], replace(GREEDY, max_tokens=_LONGEST_ANSWER))
            parser = self.tokenizer.stream_parser(False)
            for token in written.token_ids:
                parser.feed(token)
            parser.finish()
            segment = parser.segments[0]
            if segment.kind != "code":
                break
            result = code_result(self.sandbox.run(segment.code or "").text())
            messages += [segment.message(), Message(Role.OBSERVATION, result)]
        return Outcome(second=result == one.turns[-1].steps[-1].observation)

    def unknown(self, samples: int, seed: int) -> float:
        """Share of questions outside its world to which it says that it does not know."""
        asked = [one for name in UNKNOWN for one in islice(exact.questions(name, "entity", seed), samples // 4 + 1)]
        refused = []
        for one in asked:
            answer, _ = self._said(Session(self.engine, self.tokenizer), one)
            refused.append(answer in REFUSALS)
        return sum(refused) / max(1, len(refused))

    def say(self, text: str) -> str:
        """The answer to one message in a new conversation."""
        return self._said(Session(self.engine, self.tokenizer), Conversation(None, (Turn(text, "", ("",)),)))[0]

    def _said(self, session: Session, one: Conversation) -> tuple[str, bool]:
        """Earlier turns are put in as they are in the sample, then the last is asked: the answer, and if it ended."""
        before = _messages_before(one)
        if before:
            session.reopen(SavedConversation(tuple(before), vocabulary_of(self.tokenizer)))
        turn = one.turns[-1]
        files = list(turn.files)
        done = list(session.send(turn.user, files, params=GREEDY, max_new_tokens=_LONGEST_ANSWER))[-1]
        last = session.history[-1]
        return (last.content if last.role is Role.ASSISTANT else ""), getattr(done, "reason", "") == "stop"


def plain_answers(judged: Judged, questions: list[str]) -> Iterator[tuple[str, str]]:
    """Each question with its answer."""
    for question in questions:
        yield question, judged.say(question)


def _messages_before(one: Conversation) -> list[Message]:
    earlier = Conversation(one.system, one.turns[:-1], one.tools, one.code)
    return earlier.messages()


def _last_acts(make: Callable[[Split, random.Random], Conversation], split: str, seed: int) -> Iterator[Conversation]:
    return exact.acted(make, split, seed)  # type: ignore[arg-type]


def _shares(outcomes: list[Outcome], title: str, names: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for name in names:
        answered = [getattr(outcome, name) for outcome in outcomes if getattr(outcome, name) is not None]
        found[title + name] = sum(answered) / len(answered) if answered else float("nan")
    return found
