"""One browser and one app for the tests that need them."""

import os
import sys

import pytest
from web.running_page import CHROMIUM, FLAGS, RunningApp, Visit


def required():
    return bool(os.environ.get("CI") or os.environ.get("CHATGLM_REQUIRE_BROWSER"))


@pytest.fixture(scope="module")  # no longer: it has an event loop of its own, beside which no other can run
def browser():
    if CHROMIUM is None:
        reason = "there is no Chromium; apt install chromium fonts-noto-cjk fonts-noto-color-emoji"
        pytest.fail(reason) if required() else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


@pytest.fixture(scope="session")
def has_sandbox():
    from chatglm.errors import ChatGLMError
    from chatglm.sandbox import open_sandbox

    try:
        open_sandbox().close()
    except ChatGLMError:
        if sys.platform == "linux" and (os.environ.get("CI") or os.environ.get("CHATGLM_REQUIRE_SANDBOX")):
            raise
        return False
    return True


@pytest.fixture(scope="session")
def app(has_sandbox):
    running = RunningApp(*(["--code"] if has_sandbox else []))
    yield running
    assert running.end() == 0


@pytest.fixture
def visit(browser, app):
    """Opens visits; at the end of the test nothing foreign was asked for, and no page has complained."""
    opened, logged = [], len(app.log)

    def open_one(**options):
        opened.append(Visit(browser, app.url, **options))
        return opened[-1]

    yield open_one
    assert "Traceback" not in "".join(app.log[logged:])
    for one in opened:
        assert (one.foreign, one.complaints, one.dialogs) == ([], [], [])
        one.close()
