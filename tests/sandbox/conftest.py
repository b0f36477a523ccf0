"""Sandboxes for tests. Where none can be opened the tests are skipped - but never on a machine that must have one."""

import os
import time
from functools import cache

import pytest

from chatglm.errors import SandboxError
from chatglm.sandbox import SandboxConfig, open_sandbox

MiB = 1 << 20
SMALL = SandboxConfig(
    wall_seconds=10, grace_seconds=0.5, memory=700 * MiB, disk=16 * MiB, temporary=8 * MiB, num_files=2000,
    file_size=12 * MiB, output_size=8 * MiB, transfer_size=4 * MiB, kept_size=8 * MiB, num_images=3,
)  # fmt: skip


def must_have_sandbox() -> bool:
    return bool(os.environ.get("CI") or os.environ.get("CHATGLM_REQUIRE_SANDBOX"))


def opened(tier="auto", config=None, **options):
    """An open sandbox, or a skipped test (a failed one where a sandbox is required)."""
    try:
        return open_sandbox(tier, config, **options)
    except SandboxError as error:
        if must_have_sandbox() and tier != "landlock":
            raise
        pytest.skip(f"no sandbox of tier {tier} here: {error}")


@cache
def reason_against(tier):
    """Why no sandbox can be opened here; None where one can."""
    try:
        open_sandbox(tier).close()
    except SandboxError as error:
        return str(error)
    return None


def require(tier="auto"):
    """Skips the test where no sandbox can be opened (fails it where one is required)."""
    reason = reason_against(tier)
    if reason is not None and not (must_have_sandbox() and tier != "landlock"):
        pytest.skip(f"no sandbox of tier {tier} here: {reason}")
    assert reason is None, reason


@pytest.fixture(scope="session", autouse=True)
def canary():
    """A secret in the environment of the host, which every guest would inherit."""
    os.environ["CHATGLM_CANARY"] = "canary-in-the-environment"
    yield
    del os.environ["CHATGLM_CANARY"]


@pytest.fixture(scope="session")
def shared(canary):
    """One small sandbox for all files: what one case breaks must not hurt the next."""
    with opened(config=SMALL) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared):
    """The shared sandbox; after the test the next cell must work."""
    yield shared
    result = shared.run("print('works', 6 * 7)")
    assert (result.status, result.stdout) == ("ok", "works 42\n"), result


@pytest.fixture
def fresh():
    """A sandbox of the test's own."""
    with opened(config=SMALL) as sandbox:
        yield sandbox


def wait_until(condition, seconds=5.0):
    """Whether the condition became true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())
