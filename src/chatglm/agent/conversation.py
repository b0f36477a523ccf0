"""What was said in a session and what the model is told before it. State only: no engine, no files."""

from collections.abc import Collection, Mapping, Sequence

from chatglm.agent.actions import Actions
from chatglm.agent.prompts import own_text, reopened, reworded, system_message
from chatglm.agent.uploads import uploaded_text
from chatglm.chat.message import Message, Role
from chatglm.errors import SessionError


class Conversation:
    """The messages of finished turns, and a system message that is made anew from the tools there are.

    Attributes:
        own: the user's own words in the system message; None where there are none.
        messages: without the system message; replaced, never changed.
        untold: names and sizes of files the model was not told about yet.
    """

    def __init__(self, own: str | None, actions: Actions) -> None:
        self.own, self.messages = own or None, list[Message]()
        self.untold: dict[str, int] = {}
        self._actions = actions
        self._saved_system: Message | None = None  # of a saved conversation, until there are other words

    @property
    def system(self) -> Message | None:
        """The system message with the tools there are now."""
        tools, code = self._actions.tools.schemas(), self._actions.sandbox is not None
        if self._saved_system is not None:
            return reopened(self._saved_system, tools, code)
        return system_message(self.own, tools, code)

    def after_system(self, messages: Sequence[Message]) -> list[Message]:
        """Messages with the system message before them, if there is one."""
        system = self.system
        return [*([system] if system else []), *messages]

    def reword(self, own: str | None) -> None:
        """Gives the system message other words; tools that a saved one offers stay."""
        self._saved_system = reworded(self._saved_system, own or None, self._actions.sandbox is not None)
        self.own = own or None

    def replace_system(self, own: str | None) -> None:
        """Leaves a saved system message behind, its tools too."""
        self._saved_system, self.own = None, own or None

    def reopen(self, messages: Sequence[Message]) -> None:
        """Goes on with other messages; the first may be a system message, which stays as it is where it can."""
        system = messages[0] if messages and messages[0].role is Role.SYSTEM else None
        self._saved_system, self.own = system, (own_text(system) or None if system else None)
        self.messages = list(messages[1 if system else 0 :])

    def like(self, other: "Conversation") -> None:
        """Goes on as another conversation does, with tools of its own."""
        self.own, self._saved_system = other.own, other._saved_system
        self.messages, self.untold = other.messages, dict(other.untold)

    def question(self, text: str, uploads: Mapping[str, int]) -> tuple[Message, Collection[str]]:
        """The user's message after all uploads it has to tell of, and their names."""
        told = {**self.untold, **uploads}
        return Message(Role.USER, uploaded_text(told.items(), text)), told.keys()

    def uploaded(self, name: str, size: int) -> None:
        self.untold.pop(name, None)
        self.untold[name] = size

    def told(self, names: Collection[str]) -> None:
        self.untold = {name: size for name, size in self.untold.items() if name not in names}

    def last_turn(self) -> int:
        """Where the last turn begins.

        Raises:
            SessionError: nothing was said yet.
        """
        asked = [index for index, message in enumerate(self.messages) if message.role is Role.USER]
        if not asked:
            raise SessionError("nothing was said yet, so there is no turn to take back or to answer again")
        return asked[-1]
