"""Who may see the page: names and passwords of a file, asked for in the way every browser knows."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from chatglm.errors import ConfigError

MOST_WRONG = 10  # passwords that may be wrong at once, of one address for one name
WRONG_SECONDS = 1.0  # after which one more may be
MOST_GUESSERS = 10_000  # of whom is known that they were wrong
_LEAST_PASSWORD = 8


class TooManyWrongError(Exception):
    """Too many passwords were wrong: none is looked at for a while.

    Attributes:
        seconds: for how long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Users:
    """Names with their passwords, of which only hashes are kept.

    Args:
        passwords: by name; none: everybody may see the page.
        clock: seconds that only grow.
    """

    def __init__(self, passwords: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret = secrets.token_bytes(32)
        self._hashes = {name: self._hash(name, password) for name, password in (passwords or {}).items()}
        self._guesses = _Guesses(clock)

    @classmethod
    def read(cls, file: str | Path) -> Users:
        """Lines of `name:password`; blank lines and those with # are left out.

        Raises:
            ConfigError: the file cannot be read, or a line is no such pair; never shows a password.
        """
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"the users in {str(file)!r} cannot be read: {why}") from None
        found: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, password = line.partition(":")
            if not name.strip() or len(password.strip()) < _LEAST_PASSWORD or name.strip() in found:
                raise ConfigError(
                    f"line {number} of {str(file)!r} must be name:password, with a name that no other line has and a "
                    f"password of at least {_LEAST_PASSWORD} characters"
                )
            found[name.strip()] = password.strip()
        if not found:
            raise ConfigError(f"{str(file)!r} names no user; write name:password, one a line")
        return cls(found)

    @property
    def asked_for(self) -> bool:
        return bool(self._hashes)

    def check(self, authorization: str, address: str = "", ticket: str = "") -> str | None:
        """The user that an Authorization header names, or where there is none, a ticket; None: nobody.

        Nobody waits here, however many try: whoever was wrong too often is sent away before the password is looked
        at. That is counted for each address and name apart, so that who tries many does not lock others out.

        Args:
            authorization: the header.
            address: of whoever asks.
            ticket: as `ticket` has made it for somebody who was let in before.

        Raises:
            TooManyWrongError: too many passwords were wrong.
        """
        known = self._holder(ticket)
        if not authorization:
            return known
        name, password = _pair(authorization)
        if name is None:
            return None
        guesser = f"{_network(address)} {name if name in self._hashes else ''}"
        if known != name:
            self._guesses.check(guesser)
        if hmac.compare_digest(self._hashes.get(name, b""), self._hash(name, password)):
            return name
        self._guesses.add(guesser)
        return None

    def ticket(self, name: str) -> str:
        """What shows, as long as this program runs, that somebody has been let in: for what takes no password."""
        return f"{name.encode().hex()}.{self._hash('ticket', name).hex()}"

    def _holder(self, ticket: str) -> str | None:
        given = ticket.encode()
        return next((name for name in self._hashes if hmac.compare_digest(self.ticket(name).encode(), given)), None)

    def _hash(self, name: str, value: str) -> bytes:
        return hmac.digest(self._secret, f"{name}:{value}".encode(), hashlib.sha256)


class _Guesses:
    """Who was wrong, and until when it counts: each wrong password counts for a while, one after another."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._until, self._lock = clock, dict[str, float](), threading.Lock()

    def check(self, guesser: str) -> None:
        allowed = (MOST_WRONG - 1) * WRONG_SECONDS
        with self._lock:
            over = self._until.get(guesser, 0.0) - self._clock() - allowed
        if over > 0:
            raise TooManyWrongError(over)

    def add(self, guesser: str) -> None:
        with self._lock:
            now = self._clock()
            until = max(self._until.pop(guesser, 0.0), now) + WRONG_SECONDS
            if len(self._until) >= MOST_GUESSERS:
                self._until = {other: end for other, end in self._until.items() if end > now}
            if len(self._until) >= MOST_GUESSERS:
                del self._until[next(iter(self._until))]  # who was wrong longest ago
            self._until[guesser] = until


def _network(address: str) -> str:
    """Those who have an IPv6 address have 2 ** 64 of them."""
    try:
        whole = ipaddress.ip_address(address)
    except ValueError:  # a socket of another kind
        return address
    return str(ipaddress.ip_network((whole, 64), strict=False)) if whole.version == 6 else address


def _pair(authorization: str) -> tuple[str | None, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None, ""
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None, ""
    return (name, password) if colon else (None, "")
