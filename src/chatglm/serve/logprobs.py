"""Log-probabilities as the two OpenAI formats tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatglm.engine.request import TokenLogprobs


def chat_logprobs(items: Sequence[TokenLogprobs], texts: Sequence[bytes]) -> dict[str, Any]:
    """For chat completions: each token with its bytes, and the likeliest ones beside it."""
    return {
        "content": [
            {
                **_entry(item.token_id, item.logprob, texts),
                "top_logprobs": [_entry(token_id, logprob, texts) for token_id, logprob in item.top],
            }
            for item in items
        ],
        "refusal": None,
    }


def _entry(token_id: int, logprob: float, texts: Sequence[bytes]) -> dict[str, Any]:
    raw = texts[token_id]
    return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(raw)}


def completion_logprobs(
    items: Sequence[TokenLogprobs | None], token_ids: Sequence[int], texts: Sequence[bytes], offset: int = 0
) -> dict[str, Any]:
    """For completions: four lists beside each other; the first token of a prompt has no probability."""
    tokens = [texts[token_id].decode("utf-8", "replace") for token_id in token_ids]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [None if item is None else max(item.logprob, -9999.0) for item in items],
        "top_logprobs": [None if item is None else _top(item, texts) for item in items],
        "text_offset": offsets,
    }


def _top(item: TokenLogprobs, texts: Sequence[bytes]) -> dict[str, float]:
    """The likeliest tokens and the one that stands there; of two that look the same the likelier."""
    found: dict[str, float] = {}
    for token_id, logprob in ((item.token_id, item.logprob), *item.top):
        text = texts[token_id].decode("utf-8", "replace")
        found[text] = max(found.get(text, -9999.0), logprob)
    return found
