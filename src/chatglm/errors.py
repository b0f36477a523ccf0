"""The errors this package raises on purpose.

Every message has three parts: what was wrong, the value that was seen, and what would be right.
"""

from collections.abc import Mapping
from typing import Any


class ChatGLMError(Exception):
    """Base of all errors of this package."""


class ConfigError(ChatGLMError, ValueError):
    """A model configuration is contradictory, incomplete or ambiguous."""


class CheckpointError(ChatGLMError, ValueError, RuntimeError):
    """A weight file is missing, damaged, or does not fit the model (of which transformers makes a RuntimeError)."""


class HubError(ChatGLMError, OSError):
    """A model name could not be resolved to a folder on this machine."""


class PromptError(ChatGLMError, ValueError):
    """A conversation breaks the rules of the chat format."""


class ContextFullError(PromptError):
    """A conversation leaves no room for an answer.

    Attributes:
        tokens: of the conversation.
        limit: what it and its answer may have together.
    """

    def __init__(self, message: str, tokens: int, limit: int) -> None:
        super().__init__(message)
        self.tokens, self.limit = tokens, limit


class MissingExtraError(ChatGLMError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}. Install it with: pip install 'chatglm[{extra}]'")


class DataError(ChatGLMError, ValueError):
    """Rows to train on cannot be read, or hold nothing to learn."""


class TrainingError(ChatGLMError, RuntimeError):
    """A training run cannot begin, or had to stop."""


class RequestError(ChatGLMError, ValueError):
    """A generation request cannot be carried out as it stands."""


class GenerationError(ChatGLMError, RuntimeError):
    """An answer broke off because the engine could not go on."""


class RemoteError(ChatGLMError, RuntimeError):
    """A server that was asked has refused or cannot be reached.

    Attributes:
        status: of HTTP; None: there was no answer.
        headers: of the answer, names in lower case.
        body: its JSON.
    """

    def __init__(
        self, message: str, *, status: int | None = None, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> None:
        super().__init__(message)
        self.status, self.headers, self.body = status, dict(headers or {}), body


class ConversationError(ChatGLMError, ValueError):
    """A conversation file cannot be read or written."""


class SessionError(ChatGLMError, ValueError):
    """A session, or one of its turns, cannot be carried out as asked."""


class ToolError(ChatGLMError, ValueError):
    """A tool cannot be described, loaded or run. Raised inside a tool, its message is what the model is told."""


class SandboxError(ChatGLMError, RuntimeError):
    """Code cannot be run in isolation here, or the sandbox was asked for something it does not do."""


class TraceError(ChatGLMError, ValueError):
    """The trace of a task cannot be read or written."""


class UsageError(ChatGLMError, ValueError):
    """The command line cannot be carried out as it stands."""

    exit_status = 2
