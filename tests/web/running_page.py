"""The app in a process of its own, and a real browser that shows it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update").split()
TESTS = Path(__file__).resolve().parents[1]
SECONDS = 60  # that long only where something is wrong
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}


class RunningApp:
    """`scripted_app.py` with some options, started and ready."""

    def __init__(self, *options):
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "web" / "scripted_app.py"), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        self.log = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError("the app did not start:\n" + "".join(self.log))

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(SECONDS)
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return status


class Visit:
    """A browser that nobody has used, with one page of the app open.

    Attributes:
        foreign: addresses of other hosts that the page has asked for.
        complaints: what the page's console says is wrong.
    """

    def __init__(self, browser, url, **options):
        options = {"locale": "en-US", **DESKTOP, **options}
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.url, self.foreign, self.complaints, self.dialogs = url, [], [], []
        self.page.on("request", self._request)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.open()

    def open(self):
        self.page.goto(self.url)
        self.page.wait_for_selector("#mode label:has-text('💬')")  # the server has told what there is

    def reload(self):
        """What a page complains of while it goes, whose connections break off, is no fault."""
        self.page.reload()
        self.page.wait_for_selector("#mode label:has-text('💬')")
        self.complaints.clear()

    def _request(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(request.url)

    # what a visitor does

    def write(self, text):
        """Writes and sends a message; what begins with it has emptied the box then, and will not do so later."""
        box = self.page.locator("#box textarea")
        box.fill(text)
        box.press("Enter")
        self.until("document.querySelector('#box textarea').value === ''")

    def say(self, text, answer):
        """Sends a message, and waits for a piece of what is answered and the end."""
        self.write(text)
        self.reads(answer)
        self.is_over()

    def mode(self, name):
        self.page.locator(f"#mode input[value={name}]").click()
        self.page.wait_for_selector(f"#mode input[value={name}]:checked")
        self.page.wait_for_selector("#chat .message", state="detached")

    def stop(self):
        self.page.click("#box .stop-button")

    def side(self):
        """Opens what is folded away."""
        self.page.click(".sidebar .toggle-button")

    # what a visitor sees

    def reads(self, text):
        self.page.locator("#chat .message", has_text=text).first.wait_for()

    def is_over(self):
        self.page.wait_for_selector("#counter :text('token')")  # what it has cost
        self.page.wait_for_selector("#box .submit-button")
        self.page.wait_for_selector("#box .stop-button", state="detached")

    def until(self, expression):
        """Waits until a piece of JavaScript is true. Not by Playwright's own means, which the page's policy forbids."""
        for _ in range(SECONDS * 20):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"it has not come true: {expression}")

    @property
    def text(self):
        return self.page.inner_text("#chat")

    def picture(self, name):
        """For looking at by eye, where somebody has asked for it."""
        if folder := os.environ.get("CHATGLM_SCREENSHOTS"):
            self.page.screenshot(path=f"{folder}/{name}.png")

    def close(self):
        self.context.close()
