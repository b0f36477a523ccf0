"""`POST /` of the official ChatGLM2 `api.py`: a prompt and pairs in, the answer and the longer history out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from chatglm.serve.described_answers import LEGACY
from chatglm.serve.description import described
from chatglm.serve.errors import wrong
from chatglm.serve.protocol.base import Body
from chatglm.serve.protocol.chat import ChatMessage
from chatglm.serve.protocol.sampling import Sampling
from chatglm.serve.service import Answers, Job, Service

if TYPE_CHECKING:
    from chatglm.serve.server import Server

MAX_LENGTH, TOP_P, TEMPERATURE = 2048, 0.7, 0.95  # where a request says nothing
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class LegacyRequest(Body):
    """What `api.py` reads. The history is pairs as ChatGLM2 has them, or messages as ChatGLM3's `chat` gives them."""

    prompt: Annotated[str, Field(min_length=1)]
    history: list[Pair] | list[ChatMessage] = []
    max_length: Annotated[int, Field(ge=0)] | None = None  # of prompt and answer together; 0: as if not sent
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None

    @property
    def in_pairs(self) -> bool:
        return not self.history or isinstance(self.history[0], list)

    def messages(self) -> list[Mapping[str, Any]]:
        said: list[Mapping[str, Any]] = []
        for item in self.history:
            if isinstance(item, ChatMessage):
                said.append(item.model_dump(exclude_none=True))
            else:
                said += [{"role": "user", "content": item[0]}, {"role": "assistant", "content": item[1]}]
        return [*said, {"role": "user", "content": self.prompt}]


def add_routes(app: FastAPI, server: Server) -> None:
    """The route, if the server has it."""
    if not server.config.legacy:
        return
    service = server.service

    @app.post("/", openapi_extra=described(LegacyRequest, LEGACY))
    async def answer(request: Request) -> Response:
        asked = await server.body(request, LegacyRequest)

        async def whole(answers: Answers) -> dict[str, Any]:
            async for _ in answers.events():
                pass
            return _told(asked, "".join(segment.display for segment in answers.made[0].segments).strip())

        return await server.answered(request, lambda: [_job(service, asked)], whole, None)


def _job(service: Service, asked: LegacyRequest) -> Job:
    ids = service.render(asked.messages(), [])
    most = min(asked.max_length or MAX_LENGTH, service.context)
    if len(ids) >= most:
        raise wrong("max_length", f"the prompt has {len(ids)} tokens and max_length, the answer included, is {most}")
    settings = Sampling(temperature=asked.temperature, top_p=asked.top_p or TOP_P)
    room = service.most_tokens(len(ids), most - len(ids), field="prompt")
    return Job(ids, settings.params(temperature=TEMPERATURE, top_p=TOP_P, max_tokens=room))


def _told(asked: LegacyRequest, response: str) -> dict[str, Any]:
    history: list[Any] = list(asked.history)
    if asked.in_pairs:
        history.append([asked.prompt, response])
    else:
        history = [item.model_dump(exclude_none=True) for item in history]
        history += [{"role": "user", "content": asked.prompt}]
        history += [{"role": "assistant", "metadata": "", "content": response}]
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return {"response": response, "history": history, "status": 200, "time": now}
