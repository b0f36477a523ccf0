"""Journeys through the page in a real browser: few and long, for each costs seconds."""

import re
from pathlib import Path

import pytest
from web.injections import PAYLOADS
from web.program import Program
from web.running_page import PHONE

WEATHER = (
    "- name: get_weather\n  description: The weather.\n  parameters: {type: object, properties: {city: {type: string}}}"
)
IPHONE = {**PHONE, "user_agent": "Mozilla/5.0 (iPhone) Mobile/15E148"}


def test_a_chat(visit):
    """Writing, reading, stopping, trying again, editing, taking back, another conversation, and a reload."""
    ann = visit()
    page = ann.page
    ann.picture("chat-empty")
    page.click("#chat .example >> nth=0")
    ann.reads("You said: Explain how vaccines work")
    ann.is_over()
    ann.say("markdown", "Heading")
    assert page.inner_text("#chat .bot code:not(pre code)") == "List<int>"
    assert page.inner_text("#chat .bot pre code").strip() == 'print("<b>not bold</b>")'
    assert page.locator("#chat .bot pre .token").count() > 0
    assert page.locator("#chat .bot .katex").count() == 2
    assert re.search(r"\d+ tokens, .* of 100000", page.inner_text("#counter"))
    ann.picture("chat")

    ann.write("long")
    ann.reads("The quick brown fox")
    ann.stop()
    ann.is_over()
    ann.reads("stopped; what came so far is kept")
    page.click("#chat button[aria-label=Retry]")
    page.wait_for_selector("#box .stop-button")
    ann.stop()
    ann.is_over()
    page.click("#chat button[aria-label=Undo]")
    ann.until("document.querySelector('#box textarea').value === 'long'")
    assert "quick brown" not in ann.text

    page.click("#chat button[aria-label=Edit] >> nth=1")
    assert page.input_value("#chat textarea") == "markdown"
    page.fill("#chat textarea", "edited")
    page.click("#chat button[aria-label=Submit]")
    ann.reads("You said: edited")
    ann.is_over()
    assert "Heading" not in ann.text
    assert "You said: Explain" in ann.text

    page.click("#new")
    page.wait_for_selector("#chat .message", state="detached")
    ann.say("<b>second</b> & `a<b`", "You said:")
    assert "You said: <b>second</b> & a<b" in ann.text
    page.click("#chat button[aria-label=Edit]")  # what was typed is edited, and not how it is shown
    assert page.input_value("#chat textarea").replace("\u2060", "") == "<b>second</b> & `a<b`"
    page.click("#chat button[aria-label=Submit]")
    ann.is_over()
    ann.until("document.querySelector('#chat').innerText.includes('You said: <b>second</b> & a<b')")
    ann.reload()
    ann.reads("You said: <b>second</b>")  # it is there still
    page.click("#conversations label >> nth=1")
    ann.reads("You said: edited")
    with page.expect_download() as download:
        page.click("#take-along a")
    assert download.value.suggested_filename == "conversation.json"
    content = Path(download.value.path()).read_bytes()
    with page.expect_file_chooser() as chooser:
        page.click("#load")
    chooser.value.set_files([{"name": "conversation.json", "mimeType": "application/json", "buffer": content}])
    ann.until("document.querySelectorAll('#conversations label').length === 3")
    page.click("#chat button[aria-label=Clear]")
    ann.until("document.querySelectorAll('#conversations label').length === 2")
    assert page.locator("#chat .message").count() == 0

    bob = visit()  # another browser sees nothing of it
    assert bob.page.locator("#conversations label input").count() == 0
    assert bob.page.locator("#chat .message").count() == 0


def test_tools_in_chinese_on_a_phone_in_the_dark(visit):
    """A step, consent given and refused, a tool by hand, stopping inside a tool."""
    ann = visit(locale="zh-CN", color_scheme="dark", **IPHONE)
    page = ann.page
    assert page.evaluate("document.body.classList.contains('dark')")
    assert page.get_attribute("#box textarea", "placeholder") == "输入消息，按回车发送"
    assert "对话 🛠️ 工具" in " ".join(page.inner_text("#mode").split())
    ann.mode("tool")
    ann.say("tool", "Done, 1 results.")
    assert "calculator" in ann.text
    assert "成功" in ann.text
    page.click("#chat .message >> text=calculator")
    ann.reads("6 * 7")
    ann.picture("tool-phone")

    ann.write("danger")
    page.wait_for_selector("#allow")
    assert "模型想使用 remove" in page.inner_text("#question")
    assert "<b>everything</b>" in page.inner_text("#question")
    ann.picture("consent-phone")
    ann.reload()  # the turn waits for its visitor
    page.click("#refuse")
    ann.reads("未允许")
    ann.is_over()
    ann.write("danger")
    page.click("#allow")
    page.wait_for_selector("#ask", state="hidden")
    ann.until("document.querySelector('#chat').innerText.split('Done, 1 results.').length === 4")

    ann.write("wait")
    page.wait_for_selector("#box .stop-button")
    ann.stop()
    ann.reads("已停止")
    ann.is_over()

    ann.side()
    page.click("#side button:has-text('工具')")
    page.fill("#by-hand textarea", WEATHER)
    page.click("#apply")
    page.wait_for_selector("text=自己的工具：1 个")
    page.click(".toast-close")  # on a phone it lies over what folds the side away
    page.click(".sidebar .toggle-button")
    ann.write("by hand")
    ann.until("document.querySelector('#box textarea').placeholder.includes('get_weather')")
    ann.write("25 度")
    page.wait_for_selector("#box .stop-button", state="detached")
    page.click("#chat .message >> text=get_weather")
    ann.reads("25 度")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_code_with_files_and_pictures(visit, has_sandbox):
    if not has_sandbox:
        pytest.skip("code cannot be isolated here")
    ann = visit()
    page = ann.page
    ann.mode("code")
    with page.expect_file_chooser() as chooser:
        page.click("#box .upload-button")
    chooser.value.set_files(
        [
            {"name": "数据.csv", "mimeType": "text/csv", "buffer": b"1,2"},
            {"name": "page.html", "mimeType": "text/html", "buffer": b"<script>parent.__pwned=1</script>"},
        ]
    )
    page.wait_for_selector("#box .thumbnail-item >> nth=1")
    ann.say("files", "Done, 1 results.")
    page.click("#chat .message >> text=Code Interpreter")
    ann.reads("['page.html', '数据.csv']")
    ann.say("plot", "数据 1.csv")
    ann.until("[...document.querySelectorAll('#chat .bot img')].some(img => img.naturalWidth > 300)")
    ann.picture("code")
    with page.expect_download() as download:
        page.click("text=数据 1.csv")
    assert download.value.suggested_filename == "数据 1.csv"
    assert Path(download.value.path()).read_text() == "a,b"
    picture = page.get_attribute("#chat .bot img", "src")
    assert page.request.get(picture if ":" in picture else f"{ann.url}/{picture}").status == 200

    with Program(ann.url, "pageofbob") as bob:  # whoever knows the address is not shown the picture, nor the file
        for path in ("picture/1/0", "file/数据 1.csv", "conversation"):
            assert bob.client.get(f"/chatglm/{path}").status_code == 404
            assert page.request.get(f"{ann.url}/chatglm/{path}").status == 200

    ann.write("loop")
    page.wait_for_selector("#box .stop-button")
    ann.reload()  # the turn goes on
    ann.reads("while True: pass")
    ann.stop()
    ann.is_over()
    ann.say("files", "Done, 1 results.")  # the same interpreter
    assert page.locator("#chat .bot img").count() == 1


@pytest.mark.parametrize("who", ["model", *(pytest.param(who, marks=pytest.mark.slow) for who in ("visitor", "tool"))])
def test_nothing_hostile_is_run_drawn_or_fetched(visit, who):
    ann = visit()
    page = ann.page
    if who == "tool":
        ann.mode("tool")
        ann.say("hostile tool", "Done, 1 results.")
        page.click("#chat .message >> text=read_page")
        ann.reads("a comment that hides the rest")
    else:
        ann.say("inject" if who == "model" else "\n\n".join(PAYLOADS), "a comment that hides the rest")
    assert page.evaluate("window.__pwned") is None
    assert page.evaluate("document.title") == "scripted <b>model</b>"
    found = page.evaluate(
        """() => [...document.querySelectorAll('#chat .message *')].filter(element =>
            ['fixed', 'absolute', 'sticky'].includes(getComputedStyle(element).position) && !element.closest('.katex')
            && !element.closest('.code_wrap')
            || ['FORM', 'INPUT', 'IFRAME', 'STYLE', 'DETAILS', 'OBJECT', 'EMBED', 'LINK', 'META', 'BASE', 'TEXTAREA',
                'SCRIPT'].includes(element.tagName)
            || element.tagName === 'IMG' || (element.tagName === 'A' && !/^https?:/.test(element.href) && element.href)
        ).map(element => element.outerHTML.slice(0, 200))"""
    )
    assert found == []
    ann.picture(f"injection-{who}")
