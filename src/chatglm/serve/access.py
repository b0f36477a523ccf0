"""Who may ask, and how much at once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chatglm.errors import ConfigError
from chatglm.serve.errors import ApiError

OPEN = "anyone"  # the key's name where none is asked for


class Keys:
    """API keys, of which only hashes are kept.

    Args:
        keys: the keys; none: everybody may ask.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = [_hash(key) for key in keys]

    @classmethod
    def read(cls, file: str | Path | None, environment: str | None) -> Keys:
        """Keys of a file, one a line (blank lines and those with # are left out), and of a comma-separated text.

        Raises:
            ConfigError: the file cannot be read, or holds no key; a key with blanks or other invisible characters.
        """
        found = [key.strip() for key in (environment or "").split(",") if key.strip()]
        if file is not None:
            try:
                lines = [line.strip() for line in Path(file).read_text(encoding="utf-8-sig").splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or error
                raise ConfigError(f"the API keys in {str(file)!r} cannot be read: {why}") from None
            keys = [line for line in lines if line and not line.startswith("#")]
            if not keys:
                raise ConfigError(f"{str(file)!r} holds no API key; write one a line, or leave the option out")
            found += keys
        wrong = next((number for number, key in enumerate(found, 1) if not key.isascii() or " " in key), None)
        if wrong is not None:
            raise ConfigError(f"API key number {wrong} has blanks or characters outside ASCII; clients cannot send it")
        return cls(found)

    @property
    def asked_for(self) -> bool:
        return bool(self._hashes)

    def check(self, authorization: str | None, x_api_key: str | None = None) -> str:
        """A name for the key in a request's headers, for counting; the same for the same key.

        Raises:
            ApiError: 401, no key or one that is not known.
        """
        if not self._hashes:
            return OPEN
        scheme, _, key = (authorization or "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else x_api_key or ""
        if not given:
            raise ApiError(401, "no API key was sent; send it as 'Authorization: Bearer KEY'", code="missing_api_key")
        hashed = _hash(given)
        # All are compared, in constant time each: how long it takes tells nothing.
        matches = [hmac.compare_digest(hashed, known) for known in self._hashes]
        if not any(matches):
            raise ApiError(401, "the API key is not one of this server's", code="invalid_api_key")
        return hashed.hex()[:12]


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@dataclass(slots=True)
class _Line:
    """The requests of one key."""

    running: int = 0
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class Turnstile:
    """Lets so many requests of a key run at once and so many wait; more are told to come back.

    Used on one event loop.

    Args:
        max_running: of one key, answered at once.
        max_waiting: of one key, in line.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self.max_running, self.max_waiting = max_running, max_waiting
        self._lines: dict[str, _Line] = {}

    @property
    def running(self) -> int:
        return sum(line.running for line in self._lines.values())

    @property
    def waiting(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    @asynccontextmanager
    async def admitted(self, key: str) -> AsyncIterator[None]:
        """Inside it one request of the key is counted as running.

        Raises:
            ApiError: 429, too many wait already.
        """
        await self._enter(key)
        try:
            yield
        finally:
            self._leave(key)

    async def _enter(self, key: str) -> None:
        line = self._lines.setdefault(key, _Line())
        if line.running < self.max_running:
            line.running += 1
            return
        if len(line.waiting) >= self.max_waiting:
            raise ApiError(
                429,
                f"{line.running} requests of this key are being answered and {len(line.waiting)} wait; ask again later",
                code="rate_limit_exceeded",
                retry_after=1.0,
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append(place)
        try:
            await place  # whoever leaves hands its place on
        except BaseException:
            if place in line.waiting:
                line.waiting.remove(place)
            elif place.done() and not place.cancelled():
                self._leave(key)
            raise

    def _leave(self, key: str) -> None:
        line = self._lines[key]
        while line.waiting:
            place = line.waiting.pop(0)
            if not place.done():
                place.set_result(None)
                return
        line.running -= 1
        if not line.running:
            del self._lines[key]
