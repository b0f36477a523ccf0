"""The tokens of one request, one by one, and why they end. What every reader of a single answer is built on."""

from collections.abc import Callable, Iterator
from contextlib import closing

from chatglm.engine.interface import Answering
from chatglm.engine.request import Request
from chatglm.errors import GenerationError

Token = tuple[int | None, str | None]  # (id, None); the last one is (stop id or None, why it ended)


def stream_tokens(engine: Answering, request: Request, stopped: Callable[[], bool] = lambda: False) -> Iterator[Token]:
    """(id, None) for every token of the answer, then (stop token or None, "stop" or "length").

    Nothing stands at the end of an answer that `stopped` has ended; it is asked after every step. Closing the
    iterator aborts the request.

    Raises:
        GenerationError: the engine could not go on.
    """
    with closing(engine.stream(request)) as outputs:  # type: ignore[type-var]
        for output in outputs:
            for token_id in output.token_ids:
                yield token_id, None
            if output.finish_reason == "error":
                raise GenerationError(f"generation failed after {request.num_output} tokens: {output.error}")
            if stopped():
                engine.abort(request)
                return
    yield request.stop_id, request.finish_reason
