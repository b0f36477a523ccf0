"""Who may see the page: names and passwords of a file, asked for in the way every browser knows."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from chatglm.errors import ConfigError

WRONG_SECONDS = 1.0  # that a wrong password costs, one after another
_LEAST_PASSWORD = 8


class Users:
    """Names with their passwords, of which only hashes are kept.

    Args:
        passwords: by name; none: everybody may see the page.
    """

    def __init__(self, passwords: Mapping[str, str] | None = None) -> None:
        self._hashes = {name: _hash(name, password) for name, password in (passwords or {}).items()}
        self._wrong = asyncio.Lock()

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

    async def check(self, authorization: str) -> str | None:
        """The user that an Authorization header names; None: nobody, which takes a while if it was tried."""
        name, password = _pair(authorization)
        if name is None:
            return None
        known = self._hashes.get(name, b"")
        given = _hash(name, password)
        if hmac.compare_digest(known, given):
            return name
        async with self._wrong:  # one after another, however many try
            await asyncio.sleep(WRONG_SECONDS)
        return None


def _pair(authorization: str) -> tuple[str | None, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None, ""
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None, ""
    return (name, password) if colon else (None, "")


def _hash(name: str, password: str) -> bytes:
    return hashlib.sha256(f"{name}:{password}".encode()).digest()
