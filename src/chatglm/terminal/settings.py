"""What /set changes: how the next answers are sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from chatglm.errors import RequestError, UsageError
from chatglm.terminal.opening import LARGEST_SEED

# name -> how its value is read
NAMES: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "repetition_penalty": float,
    "seed": int,
    "max_new_tokens": int,
}
_LIMIT = "max_new_tokens"


class Settings:
    """The sampling of a session, or of what is asked of a server."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def shown(self) -> dict[str, str]:
        """Every setting as people read it."""
        values = {name: self._value(name) for name in NAMES}
        return {name: "-" if value is None else f"{value}" for name, value in values.items()}

    def change(self, name: str, text: str) -> None:
        """Set one; "-" takes it back to what holds without it.

        Raises:
            UsageError: no such setting, or a value it cannot have.
        """
        if name not in NAMES:
            raise UsageError(f"there is no setting {name!r}; it must be one of: {', '.join(NAMES)}")
        try:
            value = None if text == "-" else NAMES[name](text)
        except ValueError:
            kind = "whole number" if NAMES[name] is int else "number"
            raise UsageError(f"{name} is {text!r}; it must be a {kind}, or - for none") from None
        if name == "seed" and value is not None and not 0 <= value <= LARGEST_SEED:
            raise UsageError(f"seed is {value}; it must be from 0 to {LARGEST_SEED}")
        try:
            self._put(name, value)
        except RequestError as error:
            raise UsageError(str(error)) from None

    @property
    def _remote(self) -> dict[str, Any] | None:
        options: dict[str, Any] | None = getattr(self._session, "options", None)
        return options

    def _value(self, name: str) -> Any:
        if self._remote is not None:
            return self._remote.get("max_tokens" if name == _LIMIT else name)
        return getattr(self._session.limits if name == _LIMIT else self._session.params, name)

    def _check(self, name: str, value: Any) -> None:
        """What no server takes is refused here, and not with every message there."""
        from chatglm.engine.request import SamplingParams

        if name == _LIMIT and value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be a whole number of 1 or more")
        if name not in (_LIMIT, "seed") and value is not None:
            SamplingParams(**{name: value})

    def _put(self, name: str, value: Any) -> None:
        if self._remote is not None:
            self._check(name, value)
            self._remote.pop(key := "max_tokens" if name == _LIMIT else name, None)
            self._remote.update({} if value is None else {key: value})
        elif name == _LIMIT:
            self._session.limits = replace(self._session.limits, max_new_tokens=value)
        else:
            from chatglm.agent.session import OFFICIAL_SAMPLING

            given = getattr(OFFICIAL_SAMPLING, name) if value is None else value
            self._session.params = replace(self._session.params, **{name: given})
