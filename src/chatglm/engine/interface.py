"""What others may count on from whatever answers: this package's engine, or an adapter onto another one."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from chatglm.engine.purpose import Pool
from chatglm.engine.request import Output, Request, SamplingParams, Sink
from chatglm.engine.results import Completion, Stats


class Answering(Protocol):
    """The engine as its callers know it; `Engine` says what each call means."""

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        after: Request | None = None,
        sink: Sink | None = None,
        pool: Pool | None = None,
        scored_from: int = 1,
    ) -> Request: ...

    def step(self) -> list[Output]: ...

    def stream(self, request: Request) -> Iterator[Output]: ...

    def wait(self, request: Request) -> Completion: ...

    def abort(self, request: Request) -> None: ...

    def stats(self) -> Stats: ...


def answers_of(engine: Answering, submitted: Iterable[Request]) -> list[Completion]:
    """The answers to requests that are submitted one by one, all of them before the first is waited for.

    Where one is refused, or Ctrl-C comes, the others are aborted: nobody waits for them.
    """
    requests: list[Request] = []
    try:
        for request in submitted:
            requests.append(request)
        return [engine.wait(request) for request in requests]
    finally:
        for request in requests:
            engine.abort(request)
