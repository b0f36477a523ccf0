"""`chatglm chat --api-base`: the screen over a server that runs already."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from chatglm.errors import UsageError

if TYPE_CHECKING:
    from chatglm.agent.remote import RemoteSession

# What a model that is loaded elsewhere cannot be told from here.
_ELSEWHERE = (
    "hub", "device", "dtype", "quantize", "adapter", "prefix", "rope_ratio_meaning", "no_cache", "max_length",
    "tools", "code", "upload",
)  # fmt: skip


def check_remote(options: argparse.Namespace) -> None:
    """Refuses options that are about loading a model or acting here.

    Raises:
        UsageError: naming the option.
    """
    if options.api_base is None:
        if options.api_key_env is not None:
            raise UsageError("--api-key-env has no meaning without a server; add --api-base URL")
        return
    given = next((name for name in _ELSEWHERE if getattr(options, name, None)), None)
    if given is not None:
        raise UsageError(f"--{given.replace('_', '-')} is for a model that is loaded here; leave it or --api-base out")


def open_remote(options: argparse.Namespace) -> RemoteSession:
    """A conversation with the server that the options name, which chooses what is not said.

    Raises:
        UsageError: no address, or no key where one is named. RemoteError: the server does not answer.
    """
    from chatglm.agent.remote import RemoteSession
    from chatglm.agent.remote_api import RemoteApi, key_from

    api = RemoteApi(options.api_base, key_from(options.api_key_env))
    return RemoteSession(api, options.model, system=options.system, options=_sampling(options))


def _sampling(options: argparse.Namespace) -> dict[str, Any]:
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.max_new_tokens is not None:
        given["max_tokens"] = options.max_new_tokens
    return given | ({"temperature": 0} if options.greedy else {})
