"""Asks a server in the OpenAI format. Standard library only; the key goes to that server and nowhere else."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from chatglm.errors import RemoteError, UsageError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MOST_ERROR = 64 * 1024  # bytes of an error that are read
_FAILURES = (OSError, http.client.HTTPException)


def key_from(variable: str | None) -> str | None:
    """The API key that an environment variable holds; None where none is named.

    Raises:
        UsageError: the variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"--api-key-env names {variable}, which is not set; it must hold the API key")
    return key


class RemoteApi:
    """One server.

    Args:
        base: its address up to and with `/v1`.
        key: its API key; None: none is sent.
        timeout: seconds of silence after which it counts as gone.

    Raises:
        UsageError: no http or https address.
    """

    def __init__(self, base: str, key: str | None = None, *, timeout: float = 600.0) -> None:
        try:
            parts = urlsplit(base)
            fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            fits = False
        if not fits or parts.username or parts.query or parts.fragment:
            raise UsageError(f"the address is {base!r}; it must be like http://127.0.0.1:8000/v1")
        self.base, self.key, self.timeout = base.rstrip("/"), key, timeout
        handlers: list[Any] = [_NoRedirects(), urllib.request.HTTPSHandler(context=ssl.create_default_context())]
        if parts.hostname in _LOOPBACK:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> Any:
        """The JSON that a GET is answered with.

        Raises:
            RemoteError: see `open`.
        """
        with self.open(path) as answer:
            return _json(_read(answer))

    def ask(self, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, str], Any]:
        """The status, the headers and the JSON of the answer, errors included.

        Raises:
            RemoteError: there is no answer, or one that is no JSON.
        """
        try:
            with self.open(path, body) as answer:
                return answer.status, _lowered(answer.headers), _json(_read(answer))
        except RemoteError as error:
            if error.status is None:
                raise
            return error.status, error.headers, error.body

    def open(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The open answer to a request.

        Raises:
            RemoteError: the server cannot be reached, or has refused.
        """
        headers = {"Accept": "application/json, text/event-stream", "User-Agent": "chatglm"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, headers)
        try:
            return self._opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(self.base, error) from None
        except _FAILURES as error:
            why = getattr(error, "reason", error)
            why = getattr(why, "strerror", None) or why
            raise RemoteError(f"{self.base} does not answer: {why}; is it running?") from None


def events(answer: Any) -> Iterator[Any]:
    """The JSON data of a stream of server-sent events, up to `[DONE]`.

    Raises:
        RemoteError: the stream breaks off, or holds something else.
    """
    try:
        for line in answer:
            if not line.startswith(b"data:"):
                continue
            text = line[5:].strip()
            if text == b"[DONE]":
                return
            yield _json(text)
    except (ValueError, AttributeError, *_FAILURES) as error:  # the first two: closed while it was read
        raise RemoteError(f"the answer has broken off: {error}") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key must not follow a redirect to wherever it leads."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _refusal(base: str, error: urllib.error.HTTPError) -> RemoteError:
    try:
        body = json.loads(error.read(_MOST_ERROR))
    except (ValueError, *_FAILURES):
        body = None
    told = body.get("error", body) if isinstance(body, dict) else None
    message = told.get("message") if isinstance(told, dict) else told
    text = f"{base} has refused with {error.code}: {message or error.reason}"
    if error.code == 404 and not urlsplit(base).path:
        text += f"; most servers answer below /v1: {base}/v1"
    return RemoteError(text, status=error.code, headers=_lowered(error.headers), body=body)


def _read(answer: Any) -> bytes:
    try:
        content: bytes = answer.read()
        return content
    except _FAILURES as error:
        raise RemoteError(f"the answer has broken off: {error}") from None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise RemoteError(f"the server has answered {content[:200]!r}, which is not JSON") from None


def _lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
