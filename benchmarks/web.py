"""What the web page costs: the first page, streaming, stopping, and many visitors at once.

    python benchmarks/web.py            # needs Chromium and playwright
    python benchmarks/web.py visitors   # only the many visitors

The engine is a script (tests/web/scripted_app.py) that gives 200 tokens of 4 characters a second, so that only the page
is measured; the many visitors ask the embedded model through `chatglm web`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path[0] = str(Path(__file__).resolve().parents[1] / "tests")  # and not this folder, whose web.py this is
from web.program import Program  # noqa: E402
from web.running_page import CHROMIUM, FLAGS, RunningApp, Visit  # noqa: E402

VISITORS = 20
QUESTIONS = ("你是谁？", "Who are you?", "What colour is the sky?", "法国的首都是哪里？", "Hello")


def main() -> None:
    if sys.argv[1:] != ["visitors"]:
        page()
    many_visitors()


def page() -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        app = RunningApp("--code")
        Visit(browser, app.url).close()  # what is read for the first time is not the page's
        first_page(browser, app)
        for tokens in (500, 1000, 2000):
            streaming(browser, app, tokens)
        stopping(browser, app)
        app.end()
        browser.close()


def first_page(browser, app) -> None:
    before = time.monotonic()
    visit = Visit(browser, app.url)
    print(f"first page: {time.monotonic() - before:.2f} s; requests to other hosts: {len(visit.foreign)}")
    visit.close()


def streaming(browser, app, tokens: int) -> None:
    visit = Visit(browser, app.url)
    devtools = visit.context.new_cdp_session(visit.page)
    devtools.send("Performance.enable")
    visit.page.evaluate(
        """() => {window.firstSeen = 0; new MutationObserver(() => {
            if (!window.firstSeen && document.querySelector('#chat').innerText.includes('begun at'))
                window.firstSeen = Date.now() / 1000}).observe(
            document.querySelector('#chat'), {subtree: true, childList: true, characterData: true})}"""
    )
    server, begun = psutil.Process(app.process.pid), time.monotonic()
    before, server_before = _task_seconds(devtools), sum(server.cpu_times()[:2])
    visit.write(f"tokens {tokens}")
    visit.page.wait_for_selector("#box .stop-button")
    visit.page.wait_for_selector("#box .stop-button", state="detached")
    wall = time.monotonic() - begun
    at = float(re.search(r"begun at ([\d.]+)", visit.text)[1])
    print(
        f"{tokens} tokens: {wall:.1f} s; browser {_task_seconds(devtools) - before:.1f} s; "
        f"server {sum(server.cpu_times()[:2]) - server_before:.1f} s; "
        f"first token on the screen after {(visit.page.evaluate('window.firstSeen') - at) * 1000:.0f} ms"
    )
    visit.close()


def _task_seconds(devtools) -> float:
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def stopping(browser, app) -> None:
    for mode, text, sign in (("chat", "long", "quick"), ("tool", "wait", "wait"), ("code", "loop", "while True")):
        visit = Visit(browser, app.url)
        visit.mode(mode)
        visit.write(text)
        visit.reads(sign)
        visit.page.wait_for_selector("#box .stop-button")
        before = time.monotonic()
        visit.stop()
        visit.page.wait_for_selector("#box .stop-button", state="detached")
        print(f"stop in {mode} ({text}): the button is back after {time.monotonic() - before:.2f} s")
        visit.close()


def many_visitors() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "chatglm", "web", "--port", "0", "--no-code", "--conversations", folder]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line))).rstrip("/")
        try:
            alone = {
                question: _answers(url, f"alone{number}", question)[0] for number, question in enumerate(QUESTIONS)
            }
            found: dict[int, tuple[str, float]] = {}

            def ask(number: int) -> None:
                found[number] = _answers(url, f"page{number}", QUESTIONS[number % len(QUESTIONS)])

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(VISITORS)]
            before = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            same = sum(found[number][0] == alone[QUESTIONS[number % len(QUESTIONS)]] for number in range(VISITORS))
            slowest = max(seconds for _, seconds in found.values())
            print(
                f"{VISITORS} visitors at once: {time.monotonic() - before:.1f} s in all, the slowest waited "
                f"{slowest:.1f} s; {same} answers equal to those given alone"
            )
        finally:
            process.terminate()
            process.wait()


def _answers(url: str, page: str, question: str) -> tuple[str, float]:
    with Program(url, page) as program:
        before = time.monotonic()
        said = program.talk(question, settings=(0, 1, 1, 200))
        return said[-1], time.monotonic() - before


if __name__ == "__main__":
    main()
