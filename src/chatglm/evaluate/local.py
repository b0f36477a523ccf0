"""A model loaded here, asked through its engine: many queries at once, what they share computed once."""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from chatglm.chat.message import Role, tools_json
from chatglm.chat.openai import from_openai
from chatglm.chat.template import TOOLS_PROMPT
from chatglm.errors import GenerationError
from chatglm.evaluate.asking import ROOM, Query, Reply, shortened

if TYPE_CHECKING:
    from chatglm.agent.answer import Answer
    from chatglm.engine.request import Output, Request

AT_ONCE = 32  # queries computed at once
STEP = 512  # tokens computed in one step
AHEAD = 4  # times as many are handed in, so that the engine always has a choice
_SAMPLES = 64  # values of a tensor that go into the hash


class LocalModel:
    """Answers queries by an engine of its own.

    Args:
        model, tokenizer: as `chatglm.load` gives them.
        name: in reports.
        at_once: queries computed at once.
        kv_memory: bytes for keys and values; None: a quarter of what is free.
    """

    def __init__(
        self, model: Any, tokenizer: Any, name: str = "", at_once: int = AT_ONCE, kv_memory: int | None = None
    ) -> None:
        from chatglm.own_engine import engine_for

        self.tokenizer = tokenizer
        # Nobody waits for a next token: prompts may fill the steps in which others are answered.
        self.engine = engine_for(
            model, tokenizer, max_running=at_once, kv_memory=kv_memory, max_batch_tokens=STEP, max_prompt_tokens=STEP
        )
        self.context: int | None = min(int(model.config.max_position_embeddings), self.engine.stats().cache_tokens)
        self.window = AHEAD * at_once
        self.about: Mapping[str, Any] = {
            "model": name or str(model.config.name_or_path or "embedded"),
            "weights": weights_hash(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
        }
        self._open: dict[str, Request] = {}
        self._done: deque[Reply] = deque()
        self._leaders: dict[str, Request] = {}

    shortens = True

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer.encode_text(text, plain=True))

    def speed(self) -> dict[str, Any]:
        """The engine's counters."""
        stats = self.engine.stats()
        return {
            "prompt_tokens": stats.prompt_tokens,
            "new_tokens": stats.output_tokens,
            "cache_hit_rate": round(stats.hit_rate, 4),
            "cache_bytes": stats.cache_bytes,
        }

    def replies(self, waiting: "deque[Query]") -> Iterator[Reply]:
        """Answers all that waits, and what is put there meanwhile.

        Raises:
            GenerationError: the engine cannot answer; the message names the query.
        """
        try:
            while waiting or self._open or self._done:
                while waiting and len(self._open) < self.window:
                    self._begin(waiting.popleft())
                while self._done:
                    reply = self._done.popleft()
                    if reply.finish == "error":
                        raise GenerationError(f"item {reply.key!r} cannot be answered: {reply.error}")
                    yield reply
                if self._open:
                    self.engine.step()
        finally:
            left = list(self._open.values())
            self._open.clear()
            self._leaders.clear()
            for request in left:
                self.engine.abort(request)

    def _begin(self, query: Query) -> None:
        """Hand a query in."""
        text, dropped = self._shortened(query)
        ids = self._prompt_ids(text, query.chat, query.tools)
        if query.letters:
            self._score(query, ids, dropped)
        elif query.chat:
            self._chat(query, ids, dropped)
        else:
            self._write(query, ids, dropped)

    def _write(self, query: Query, ids: list[int], dropped: int) -> None:
        """A text that is continued."""
        from chatglm.engine.request import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=self._most(query), stop=query.stop)
        texts: list[str] = []

        def take(output: "Output") -> None:
            texts.append(output.text)
            if output.finish_reason is not None and (request := self._ended(query, output)) is not None:
                reason, new = output.finish_reason, request.num_output
                self._done.append(Reply(query.key, ids, "".join(texts), (), reason, dropped, len(ids), new))

        self._submit(query, partial(self.engine.submit, ids, params, sink=take))

    def _chat(self, query: Query, ids: list[int], dropped: int) -> None:
        """An answer in a conversation."""
        from chatglm.agent.answer import Answer
        from chatglm.engine.request import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=self._most(query), stop=query.stop)
        answer = Answer(self.engine, ids, self.tokenizer.stream_parser(), params)

        def take(output: "Output") -> None:
            if output.finish_reason in ("error", "abort"):
                self._ended(query, output)
                return
            answer.feed(output)
            request = self._open.pop(query.key, None) if answer.finished else None
            if request is not None:
                reason, new = answer.finish_reason or "stop", answer.new_tokens
                between = Role.ASSISTANT.marker if query.tools else ""
                self._done.append(Reply(query.key, ids, _text_of(answer, between), (), reason, dropped, len(ids), new))
                self.engine.abort(request)  # a stop string ends it before the engine knows

        self._submit(query, partial(answer.submit, sink=take))

    def _score(self, query: Query, ids: list[int], dropped: int) -> None:
        """How likely each letter is. One pass gives all, where each is one token behind a common beginning."""
        from chatglm.engine.request import SamplingParams

        candidates = [self._letter_ids(letter, query) for letter in query.letters]
        common = _common(candidates)
        rest = [candidate[common:] for candidate in candidates]
        ids = [*ids, *candidates[0][:common]]
        if any(len(ending) != 1 for ending in rest):
            scores = [score.logprob for score in self.engine.score_many((ids, ending) for ending in rest)]
            self._done.append(Reply(query.key, ids, "", tuple(scores), "stop", dropped, len(ids), 0))
            return
        found: list[float] = []

        def look(output_ids: Sequence[int], logits: Any) -> None:
            found[:] = logits.float().log_softmax(-1)[[ending[0] for ending in rest]].tolist()

        def take(output: "Output") -> None:
            if output.finish_reason is not None and self._ended(query, output) is not None:
                self._done.append(Reply(query.key, ids, "", tuple(found), "stop", dropped, len(ids), 0))

        params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, hook=look)
        self._submit(query, partial(self.engine.submit, ids, params, sink=take))

    def _submit(self, query: Query, submit: Any) -> None:
        """Those that begin alike wait for the first, whose beginning they find in the cache."""
        leader = self._leaders.get(query.shared) if query.shared else None
        request = submit(after=leader)
        if query.shared and leader is None:
            self._leaders[query.shared] = request
        self._open[query.key] = request

    def _ended(self, query: Query, output: "Output") -> "Request | None":
        """The request of a query that has ended as it should; of one that broke off the query is told."""
        request = self._open.pop(query.key, None)
        if request is not None and output.finish_reason not in ("stop", "length"):
            self._done.append(Reply(query.key, [], finish="error", error=output.error or "it broke off"))
            return None
        return request

    def _most(self, query: Query) -> int:
        """Tokens of an answer: never more than half the context."""
        assert self.context is not None
        return min(query.max_tokens, self.context // 2)

    def _shortened(self, query: Query) -> tuple[str, int]:
        """The text without its middle, where it is too long, and how many tokens that is."""
        assert self.context is not None
        offered = self.count(tools_json(query.tools)) + self.count(TOOLS_PROMPT) if query.tools else 0
        limit = self.context - ROOM - offered - (len(query.letters) if query.letters else self._most(query))
        limit = limit if query.longest is None else min(limit, query.longest)
        encode = partial(self.tokenizer.encode_text, plain=True)
        return shortened(query.text, limit, encode, self.tokenizer.tokenizer.decode)

    def _prompt_ids(self, text: str, chat: bool, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        if not chat:
            return [*self.tokenizer.get_prefix_tokens(), *self.tokenizer.encode_text(text, plain=True)]
        ids: list[int] = self.tokenizer.render(from_openai([{"role": "user", "content": text}], tools)).ids
        return ids

    def _letter_ids(self, letter: str, query: Query) -> list[int]:
        """A letter with the blank of SentencePiece, or as it stands behind a line break; in a chat behind its line."""
        encode = partial(self.tokenizer.encode_text, plain=True)
        lead = encode("\n") if query.chat and self.tokenizer.version == "chatglm3" else []
        return [*lead, *(encode(letter) if query.blank else encode("\n" + letter)[len(encode("\n")) :])]


def weights_hash(model: Any) -> str:
    """A hash that changes with the weights: names, shapes, dtypes and samples of all tensors."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLES)].contiguous().cpu()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _text_of(answer: "Answer", between: str) -> str:
    return between.join(segment.raw for segment in answer.segments).strip()


def _common(several: list[list[int]]) -> int:
    """How many ids all begin with in common, one of the shortest left over."""
    most = min(map(len, several)) - 1
    return next((index for index in range(most) if len({ids[index] for ids in several}) > 1), most)
