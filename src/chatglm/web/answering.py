"""Where answers come from: a model that is loaded here, or a server. What stands above does not know which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from chatglm.agent.remote import RemoteSession
from chatglm.agent.remote_api import RemoteApi
from chatglm.agent.session import Session
from chatglm.engine.request import SamplingParams
from chatglm.errors import SandboxError
from chatglm.tools import Tool
from chatglm.web.settings import RANGES, Settings

Mode = Literal["chat", "tool", "code"]
MODES: tuple[Mode, ...] = ("chat", "tool", "code")
MOST_SECONDS = 1800.0  # of one turn


class Local:
    """A model in this process.

    Args:
        engine, tokenizer: what answers.
        name: what the model is called.
        tools: of the tool mode.
        pool: gives interpreters for the code mode; None: there are none.
    """

    def __init__(self, engine: Any, tokenizer: Any, name: str, tools: Sequence[Tool] = (), pool: Any = None) -> None:
        self.engine, self.tokenizer, self.name = engine, tokenizer, name
        self.tools, self.pool = list(tools), pool

    @property
    def modes(self) -> tuple[Mode, ...]:
        """ChatGLM2 has plain turns only."""
        if self.tokenizer.version != "chatglm3":
            return ("chat",)
        return MODES if self.pool is not None else ("chat", "tool")

    @property
    def has_system(self) -> bool:
        return bool(self.tokenizer.version == "chatglm3")

    sliders: Sequence[str] = tuple(RANGES)

    def sandbox(self) -> Any:
        """An interpreter that nobody has used.

        Raises:
            SandboxError: there is none.
        """
        if self.pool is None:
            raise SandboxError("there is no code interpreter here")
        return self.pool.take()

    def session(self, mode: Mode, system: str | None, by_hand: Sequence[Tool] = (), sandbox: Any = None) -> Session:
        """A session for a mode. The visitor's own tools come first: one of the same name replaces the server's."""
        names = {tool.name for tool in by_hand}
        tools = [*by_hand, *(tool for tool in self.tools if tool.name not in names)] if mode == "tool" else []
        return Session(
            self.engine,
            self.tokenizer,
            system=system,
            tools=tools,
            sandbox=sandbox,
            on_dangerous="ask",
            max_seconds=MOST_SECONDS,
        )

    def send(self, session: Session, text: str, files: Sequence[Any], settings: Settings) -> Iterator[Any]:
        return session.send(text, files, params=_params(settings), max_new_tokens=settings.max_new_tokens)

    def again(self, session: Session, settings: Settings) -> Iterator[Any]:
        return session.regenerate(params=_params(settings), max_new_tokens=settings.max_new_tokens)

    def close(self) -> None:
        if self.pool is not None:
            self.pool.close()


class Remote:
    """A server in the OpenAI format, which carries out nothing.

    Args:
        api: the server.
        model: its name there; None: the first it lists.

    Raises:
        RemoteError: the server does not answer, or lists no model.
    """

    modes: tuple[Mode, ...] = ("chat",)
    has_system = True
    tools: Sequence[Tool] = ()
    sliders: Sequence[str] = ("temperature", "top_p", "max_new_tokens")  # the penalty is no field of OpenAI's

    def __init__(self, api: RemoteApi, model: str | None = None) -> None:
        self.api = api
        self.name = str(RemoteSession(api, model).model)

    def sandbox(self) -> Any:
        """There is none.

        Raises:
            SandboxError: always.
        """
        raise SandboxError("no code is run over a server")

    def session(self, mode: Mode, system: str | None, by_hand: Sequence[Tool] = (), sandbox: Any = None) -> Any:
        return RemoteSession(self.api, self.name, system=system)

    def send(self, session: RemoteSession, text: str, files: Sequence[Any], settings: Settings) -> Iterator[Any]:
        session.options = _options(settings)
        return session.send(text)

    def again(self, session: RemoteSession, settings: Settings) -> Iterator[Any]:
        session.options = _options(settings)
        return session.regenerate()

    def close(self) -> None:
        """Nothing is open between answers."""


def _params(settings: Settings) -> SamplingParams:
    if settings.temperature == 0:
        return SamplingParams(temperature=0, repetition_penalty=settings.repetition_penalty)
    return SamplingParams(
        temperature=settings.temperature, top_p=settings.top_p, repetition_penalty=settings.repetition_penalty
    )


def _options(settings: Settings) -> dict[str, Any]:
    """Fields that every server knows."""
    return {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_new_tokens,
    }
