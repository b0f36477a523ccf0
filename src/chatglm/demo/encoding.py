"""From conversations to token ids and the mask of what is to be learned."""

from dataclasses import dataclass
from pathlib import Path

from chatglm.chat.message import Message, Role
from chatglm.chat.template import render
from chatglm.demo.conversation import Conversation
from chatglm.demo.text import Turn

# In the order in which their ids follow the pieces.
SPECIAL_TOKENS = (
    "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """Token ids of a conversation, and for each whether the model has to predict it."""

    ids: list[int]
    learned: list[bool]


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

    def prompt(self, turns: tuple[Turn, ...], question: str, system: str | None) -> list[int]:
        """Ids up to and with the `<|assistant|>` that asks for an answer."""
        messages = [*Conversation(system, turns).messages(), Message(Role.USER, question)]
        return list(render(messages, self.encode, self.specials, version="chatglm3", add_generation_prompt=True).ids)

    def example(self, conversation: Conversation) -> Example:
        """A whole conversation; the `<|user|>` that ends the last answer is learned like those between turns."""
        rendered = render(
            conversation.messages(), self.encode, self.specials, version="chatglm3", add_generation_prompt=False
        )
        return Example([*rendered.ids, self.specials["<|user|>"]], [*rendered.loss_mask, True])
