"""A server in the OpenAI format, asked many queries at once."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import cached_property
from typing import Any

from chatglm.chat.message import Role
from chatglm.chat.openai import from_openai
from chatglm.errors import PromptError, RemoteError
from chatglm.evaluate.asking import ROOM, Query, Reply, shortened

TRIES = 5  # of a request that the server has no room for
_BUSY = (429, 503)


class ServerModel:
    """Answers queries by asking a server.

    Args:
        api: the server, an `agent.remote_api.RemoteApi`.
        model: a name of its list.
        at_once: queries it is asked at once.
    """

    context: int | None = None

    def __init__(self, api: Any, model: str, at_once: int = 16) -> None:
        self.api, self.model, self.at_once = api, model, at_once
        self.about: Mapping[str, Any] = {"model": model, "server": api.base}
        from chatglm.agent.remote_api import RemoteApi

        # Where tokens are told, they are told beside /v1.
        self._beside = RemoteApi(api.base.removesuffix("/v1"), api.key, timeout=api.timeout)
        self._prompt_tokens = self._new_tokens = 0

    @property
    def shortens(self) -> bool:
        """Whether the server tells the tokens of a text, as this package's and vLLM do."""
        return self._told is not None

    @cached_property
    def _told(self) -> Mapping[str, Any] | None:
        """What the server tells of a text's tokens; None: nothing that can be used."""
        try:
            told = self._tokens("/tokenize", {"prompt": "a", "add_special_tokens": False})
        except RemoteError:
            return None
        return told if isinstance(told, dict) and isinstance(told.get("tokens"), list) else None

    def _tokens(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a question about tokens, which is asked beside `/v1`.

        Raises:
            RemoteError: it is refused.
        """
        status, _, told = self._beside.ask(path, {"model": self.model, **body})
        if status != 200:
            raise RemoteError(f"{self._beside.base}{path} has refused with {status}: {_message(told)}", status=status)
        return told

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokens("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
        return ids

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokens("/detokenize", {"tokens": ids})["prompt"])

    def _fitting(self, query: Query) -> tuple[Query, int]:
        """The query with the middle of its text left out, where that is too long, and how many tokens that is."""
        told = self._told or {}
        context = told.get("max_model_len")
        limits = [query.longest] if query.longest is not None else []
        if isinstance(context, int):
            limits.append(context - ROOM - min(query.max_tokens, context // 2))
        if not limits or self._told is None:
            return query, 0
        text, dropped = shortened(query.text, min(limits), self._encode, self._decode)
        return replace(query, text=text), dropped

    def count(self, text: str) -> int:
        """A guess: a token for four letters, or for one character of Chinese."""
        wide = sum(ord(character) > 0x2E7F for character in text)
        return wide + (len(text) - wide) // 4

    def speed(self) -> dict[str, Any]:
        """What the server has counted."""
        return {"prompt_tokens": self._prompt_tokens, "new_tokens": self._new_tokens}

    def replies(self, waiting: "deque[Query]") -> Iterator[Reply]:
        """Answers all that waits, and what is put there meanwhile.

        Raises:
            RemoteError: the server does not answer, refuses the key or does not know the model.
        """
        running: set[Future[Reply]] = set()
        with ThreadPoolExecutor(self.at_once) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < self.at_once:
                        running.add(pool.submit(self._answer, waiting.popleft()))
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        reply = future.result()
                        self._prompt_tokens += reply.prompt_tokens or 0
                        self._new_tokens += reply.new_tokens or 0
                        yield reply
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, query: Query) -> Reply:
        query, dropped = self._fitting(query)
        path, body = self._request(query)
        for attempt in range(TRIES):
            status, headers, told = self.api.ask(path, {"model": self.model, **body})
            if status not in _BUSY:
                break
            time.sleep(_seconds(headers.get("retry-after"), 2.0**attempt))
        if status == 400 or status == 422:
            return Reply(query.key, query.text, finish="refused", dropped=dropped, error=_message(told))
        if status != 200:
            raise RemoteError(f"{self.api.base} has refused with {status}: {_message(told)}", status=status)
        try:
            return replace(_read(query, told), dropped=dropped)
        except (LookupError, TypeError, AttributeError):
            raise RemoteError(
                f"{self.api.base} has answered {query.key} with {str(told)[:200]!r}; it must be an answer in the "
                "OpenAI format" + (", with the log-probabilities of an echoed prompt" if query.letters else "")
            ) from None

    def _request(self, query: Query) -> tuple[str, dict[str, Any]]:
        if query.letters:
            prompts = [query.text + _written(letter, query) for letter in query.letters]
            return "/completions", {"prompt": prompts, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        body: dict[str, Any] = {"max_tokens": query.max_tokens, "temperature": 0}
        if query.stop:
            body["stop"] = list(query.stop)
        if query.chat:
            if query.tools:
                body["tools"] = [{"type": "function", "function": dict(tool)} for tool in query.tools]
            return "/chat/completions", body | {"messages": [{"role": "user", "content": query.text}]}
        return "/completions", body | {"prompt": query.text}


def _written(letter: str, query: Query) -> str:
    return (" " if query.blank and not query.text.endswith(" ") else "") + letter


def _read(query: Query, told: Any) -> Reply:
    usage = told.get("usage") or {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    choices = sorted(told["choices"], key=lambda choice: choice["index"])
    if query.letters:
        return Reply(
            query.key, query.text, "", _likelihoods([choice["logprobs"] for choice in choices]), "stop", 0, *counts
        )
    text = choices[0]["message"]["content"] if query.chat else choices[0]["text"]
    if query.tools:
        text = _said(choices[0]["message"])
    finish = "length" if choices[0]["finish_reason"] == "length" else "stop"
    return Reply(query.key, query.text, text or "", (), finish, 0, *counts)


def _said(message: Mapping[str, Any]) -> str:
    """What a message says, its calls as the model writes them. A call that cannot be read is none."""
    content, calls = message.get("content"), message.get("tool_calls")
    try:
        parts = from_openai([{"role": "assistant", "content": content, "tool_calls": calls}])
    except PromptError:
        return content or ""
    texts = (f"{part.metadata}\n{part.content}" if part.metadata else part.content for part in parts)
    return Role.ASSISTANT.marker.join(texts)


def _likelihoods(told: list[Any]) -> tuple[float, ...]:
    """The log-probability of what differs between echoed prompts: their ends. The last token is one too many."""
    tokens = [list(one["tokens"])[:-1] for one in told]
    most = min(map(len, tokens)) - 1
    common = next((index for index in range(most) if len({row[index] for row in tokens}) > 1), most)
    return tuple(float(sum(one["token_logprobs"][common:-1])) for one in told)


def _seconds(told: str | None, otherwise: float) -> float:
    """How long a server wants to be left alone; it may tell a date as well, which is not worth reading."""
    return min(60.0, float(told)) if told is not None and told.isascii() and told.isdigit() else otherwise


def _message(told: Any) -> str:
    error = told.get("error", told) if isinstance(told, dict) else told
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
