"""The app around the Streamlit page: who may come in, pictures and files of a conversation, and Streamlit behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm.web.answering import Local, Remote
from chatglm.web.routes import routes
from chatglm.web.streamlit_gate import StreamlitGate
from chatglm.web.users import Users
from chatglm.web.visitor import MOST_FILE_BYTES
from chatglm.web.visitors import Visitors, visitors_of
from chatglm.words import Language

# Its settings, which come before those of files that lie about.
_SETTINGS = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "logger.level": "warning",
    "runner.magicEnabled": False,
    "server.disconnectedSessionTTL": 60,
    "server.enableAgentApi": False,
    "server.enableStaticServing": False,
    "server.enableXsrfProtection": True,
    "server.fileWatcherType": "none",
    "server.maxUploadSize": MOST_FILE_BYTES // 1024**2,
}


@dataclass(frozen=True)
class Served:
    """What the page is made for.

    Attributes:
        gate: knows whose page asks.
        answers: where answers come from.
        embedded: whether the model is the one in the package, which has prompts of its own.
        language: of everybody; None: that of each browser.
    """

    gate: StreamlitGate
    answers: Local | Remote
    embedded: bool
    language: Language | None


_served: list[Served] = []  # Streamlit runs its script by itself, hands it nothing, and serves one in a process


def served() -> Served:
    """What `build_app` was last called with: for the script."""
    return _served[-1]


def build_app(
    answers: Local | Remote,
    folder: Path,
    *,
    hosts: Collection[str] = (),
    users: Users | None = None,
    embedded: bool = False,
    language: Language | None = None,
    visitors: Visitors | None = None,
) -> Any:
    """The whole app, for any ASGI server that has WebSockets. A process can have one.

    Args:
        answers: where answers come from.
        folder: where conversations are kept.
        hosts: names it answers to; empty: any.
        users: who may come in; None: everybody.
        embedded, language: as `Served` has them.
        visitors: None: made of the others.
    """
    import streamlit
    from streamlit.web.bootstrap import load_config_options

    load_config_options(_SETTINGS)
    here = visitors if visitors is not None else visitors_of(answers, folder)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        here.begin()
        yield
        here.close()

    script = Path(__file__).with_name("streamlit_script.py")
    app = streamlit.App(script, lifespan=lifespan, routes=routes(here))
    gate = StreamlitGate(app, hosts, users or Users(), here)
    _served.append(Served(gate, answers, embedded, language))
    return gate
