"""From conversations to token ids and the mask of what is to be learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatglm.chat.message import Message, Role
from chatglm.chat.template import Rendered, render
from chatglm.demo.conversation import Conversation
from chatglm.demo.text import Turn

KINDS = ("chat", "tools", "code")  # of conversations
# In the order in which their ids follow the pieces.
SPECIAL_TOKENS = (
    "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """Token ids of a conversation, and for each whether the model has to predict it."""

    ids: list[int]
    learned: list[bool]
    kind: str = "chat"  # one of `KINDS`


class Encoder:
    """The tiny model's vocabulary together with the chat format."""

    def __init__(self, vocabulary: Path) -> None:
        import sentencepiece

        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
        first = self.pieces.get_piece_size()
        self.specials = {token: first + index for index, token in enumerate(SPECIAL_TOKENS)}
        self.vocab_size = first + len(SPECIAL_TOKENS)

    def encode(self, text: str) -> list[int]:
        """Pieces of a text; role markers in it stay text."""
        return self.pieces.encode(text)  # type: ignore[no-any-return]

    def render(self, messages: Sequence[Message], asks: bool) -> Rendered:
        """Ids and loss mask of messages; `asks` ends them with the `<|assistant|>` that asks for an answer."""
        return render(messages, self.encode, self.specials, version="chatglm3", add_generation_prompt=asks)

    def prompt(self, turns: tuple[Turn, ...], question: str, system: str | None) -> list[int]:
        """Ids up to and with the `<|assistant|>` that asks for an answer."""
        messages = [*Conversation(system, turns).messages(), Message(Role.USER, question)]
        return list(self.render(messages, asks=True).ids)

    def example(self, conversation: Conversation) -> Example:
        """A whole conversation; the `<|user|>` that ends the last answer is learned like those between turns."""
        marked = conversation.marked()
        messages = [message for message, _ in marked]
        rendered = self.render(messages, asks=False)
        learned = [*rendered.loss_mask, True]
        for index, (_, counts) in enumerate(marked):
            if not counts:  # a mistake; what ends it is learned all the same
                start, end = (len(self.render(messages[:stop], asks=False).ids) for stop in (index, index + 1))
                learned[start:end] = [False] * (end - start)
        return Example([*rendered.ids, self.specials["<|user|>"]], learned, conversation.kind)
