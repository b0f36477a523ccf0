"""How far one turn may go."""

import math
from dataclasses import dataclass

from chatglm.errors import SessionError


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one turn, which may call, be answered and go on several times.

    Args:
        max_rounds: how often results are given back to the model; 0 carries nothing out.
        max_errors: how many wrong calls in a row are answered; the one after ends the turn.
        max_new_tokens: tokens the model may write, of all rounds together; None: as many as the context holds.
        max_seconds: wall time, waiting for tools included; None: no limit.

    Raises:
        SessionError: a value that is no such number.
    """

    max_rounds: int = 10
    max_errors: int = 3
    max_new_tokens: int | None = None
    max_seconds: float | None = 1800.0

    def __post_init__(self) -> None:
        require_whole("max_rounds", self.max_rounds, 0)
        require_whole("max_errors", self.max_errors, 0)
        if self.max_new_tokens is not None:
            require_whole("max_new_tokens", self.max_new_tokens, 1)
        seconds = self.max_seconds
        if seconds is not None and not (_is_number(seconds) and math.isfinite(seconds) and seconds > 0):
            raise SessionError(f"max_seconds is {seconds!r}; it must be a number of seconds above 0, or None")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require_whole(name: str, value: object, least: int) -> None:
    """Refuses a limit that is no whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SessionError(f"{name} is {value!r}; it must be a whole number of {least} or more")
