"""Token by token out of `generate()`: the whole of its options, as an iterator that can be stopped.

`generate()` hands tokens to a streamer object while it runs, so it runs in a thread of its own here and the iterator
reads from a queue. Closing the iterator, or setting `stop`, ends the generation after the step it is in.
"""

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer


class _QueueStreamer(BaseStreamer):
    """Puts new tokens into a queue, one [B] after the other; the first call, which carries the prompt, is left out.

    With assistants and lookups a step may bring several tokens at once, as [1, tokens].
    """

    def __init__(self, other: BaseStreamer | None) -> None:
        self.other = other  # the caller's own
        self.items: queue.SimpleQueue[Tensor | BaseException | None] = queue.SimpleQueue()
        self.rows: int | None = None  # B

    def put(self, value: Tensor) -> None:
        if self.other is not None:
            self.other.put(value)
        if self.rows is None:
            self.rows = len(value)
            return
        for tokens in value.reshape(self.rows, -1).T.clone():
            self.items.put(tokens)

    def end(self) -> None:
        """Only the caller's streamer ends here: an error must have its chance to be reported after it."""
        if self.other is not None:
            self.other.end()


class _StopWhenSet(StoppingCriteria):
    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self.stop.is_set(), device=input_ids.device, dtype=torch.bool)


def stream_generate(
    model: Any,
    inputs: dict[str, Any],
    *,
    stop: threading.Event | None = None,
    seed: int | None = None,
    **generation: Any,
) -> Generator[Tensor, None, None]:
    """The new tokens [B] one after the other as `model.generate(**inputs, **generation)` makes them.

    Raises:
        Whatever `generate()` raises, at the step where it happens.
    """
    streamer, stop = _QueueStreamer(generation.pop("streamer", None)), stop or threading.Event()
    criteria = StoppingCriteriaList([*(generation.pop("stopping_criteria", None) or ()), _StopWhenSet(stop)])

    generate: Callable[..., Any] = model.generate

    def run() -> None:
        try:
            if seed is not None:
                torch.manual_seed(seed)
            generate(**inputs, **generation, streamer=streamer, stopping_criteria=criteria)
            streamer.items.put(None)
        except BaseException as error:  # handed to the reader, who raises it
            streamer.items.put(error)

    worker = threading.Thread(target=run, name="chatglm-generate", daemon=True)
    worker.start()
    try:
        while (item := streamer.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()
