"""The chat format of ChatGLM-6B: `[Round 0]` text before `[gMASK] <sop>`, and the marks of its answers.

`[gMASK]` and `<sop>` stand at the end of a prompt, and what a user types never becomes one of them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chatglm.chat.message import Message, Role, as_messages
from chatglm.chat.parser import TRAINING_DATE, TRAINING_YEAR, Decoder, beginning_of_date
from chatglm.chat.template import Encode, Rendered, check_rounds
from chatglm.errors import PromptError

NAME = "ChatGLM-6B"
_HAN = "[\u4e00-\u9fff]"
_WIDE = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_NARROW_MARK = re.compile(f"(?<={_HAN})[,!:;?]|[,!:;?](?={_HAN})")


def build_prompt(query: str, history: Iterable[tuple[str, str]] = ()) -> str:
    """The prompt text: the query alone, or after earlier ones rounds numbered from 0, up to where the answer begins."""
    rounds = list(history)
    if not rounds:
        return query
    texts = [f"[Round {number}]\n问：{asked}\n答：{answer}\n" for number, (asked, answer) in enumerate(rounds)]
    return "".join(texts) + f"[Round {len(rounds)}]\n问：{query}\n答："


def render(
    messages: Iterable[Message | Mapping[str, Any]],
    encode: Encode,
    specials: Mapping[str, int],
    *,
    add_generation_prompt: bool = True,
    add_eos: bool = False,
    loss: Sequence[bool | None] | None = None,
) -> Rendered:
    """A conversation as ids: the rounds, `[gMASK] <sop>`, and a last answer where there is one.

    The last answer alone is learned, with `<sop>` before it, as in the official training code. Earlier answers count
    by their text, whatever ids they were made of.

    Raises:
        PromptError: anything but user and assistant messages in turn, without tools or metadata.
    """
    found = as_messages(messages)
    check_rounds(found, NAME)
    if any((loss or ())[:-1]):
        raise PromptError(
            f"message {list(loss or ()).index(True)} is to be learned; {NAME} learns only its last answer"
        )
    answer = found.pop() if found[-1].role is Role.ASSISTANT else None
    asked = [message.content for message in found]
    query, history = asked[-1], list(zip(asked[::2], asked[1::2], strict=False))
    ids = encode(build_prompt(query, history))
    if answer is None and not add_generation_prompt:
        return Rendered(ids, [False] * len(ids))
    prompt = [*ids, specials["[gMASK]"]]
    said = [] if answer is None else list(answer.ids or encode(answer.content))
    written = [specials["<sop>"], *said, *[specials["<eos>"]] * add_eos]
    learned = answer is not None and (loss is None or loss[-1] is not False)
    return Rendered([*prompt, *written], [False] * len(prompt) + [learned] * len(written))


def widen(text: str, before: str = "") -> str:
    """The text with narrow marks beside Han characters made wide; `before`: the character in front of it."""
    return _NARROW_MARK.sub(lambda mark: _WIDE[mark[0]], before + text)[len(before) :]


def process_response(text: str) -> str:
    """The official form of an answer: no blanks around it, the year of training, wide marks between Han characters."""
    return widen(text.strip().replace(TRAINING_DATE, TRAINING_YEAR))


class AnswerText:
    """A decoder whose texts are already as people are shown them: they join to `process_response` of the whole, but
    for blanks around it.

    Held back is only what the next character decides: a mark that follows no Han character, and the beginning of the
    placeholder of the training date.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._held, self._before = "", ""

    def push(self, token_id: int) -> str:
        """The text that became certain."""
        text = (self._held + self._decoder.push(token_id)).replace(TRAINING_DATE, TRAINING_YEAR)
        end = len(text) - beginning_of_date(text)
        last_two = (self._before + text[:end])[-2:]
        if end and last_two[-1] in _WIDE and not re.match(_HAN, last_two):
            end -= 1
        return self._passed(text, end)

    def flush(self) -> str:
        """What is left."""
        text = self._held + self._decoder.flush()
        passed = self._passed(text, len(text))
        self._before = ""
        return passed

    def _passed(self, text: str, end: int) -> str:
        """Hand out `text[:end]`; what follows it is known, and decides about a mark at its end."""
        shown = widen(text, self._before)[:end]
        self._held, self._before = text[end:], shown[-1:] or self._before
        return shown
