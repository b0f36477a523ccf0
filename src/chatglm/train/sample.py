"""What a row says, whatever it was spelled like: a conversation, or a text."""

from dataclasses import dataclass

from chatglm.chat.message import Message


@dataclass(frozen=True, slots=True)
class Sample:
    """One row.

    Attributes:
        messages: of the conversation; the tools are in its system message.
        loss: for each message whether it is learned; None: as its role says.
        text: instead of messages, for models that only go on with a text.
        unused: keys of the row that say nothing here.
    """

    messages: tuple[Message, ...] = ()
    loss: tuple[bool | None, ...] = ()
    text: str | None = None
    unused: tuple[str, ...] = ()
