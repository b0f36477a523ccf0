"""The Streamlit page: its Markdown, its gate, what its parts call, and journeys through it in a real browser."""

import asyncio
import base64
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from web.running_page import PHONE, RunningApp
from web.scripted_app import USERS
from web.scripted_page import PROSE, answers
from web.streamlit_visit import BOX, MESSAGE, StreamlitVisit

from chatglm.web.conversations import Conversations
from chatglm.web.no_html import Code
from chatglm.web.streamlit_draw import Row, typed
from chatglm.web.streamlit_gate import KEY, PAGE, StreamlitGate
from chatglm.web.streamlit_markdown import for_streamlit, paragraphs
from chatglm.web.users import Users
from chatglm.web.visitor import Visitor
from chatglm.web.visitors import Visitors

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Streamlit needs Python 3.11")
COOKIE = f"chatglm_visitor={'a' * 43}"
WEATHER = (
    "- name: get_weather\n  description: The weather.\n  parameters: {type: object, properties: {city: {type: string}}}"
)


# Markdown


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("`List<int>` and List<int>", "`List<int>` and List&lt;int>"),
        ("![x](http://evil.example/x.png)", "!\\[x](http://evil.example/x.png)"),
        (":red[no sign] at 12:30, `:red[code]`", "\\:red[no sign] at 12:30, `:red[code]`"),
        ("so \\(a:b\\) and \\( c \\)", "so $a:b$ and $c$"),
        ("\\[x^2\\]", "$$\nx^2\n$$"),
        ("in \\[x\\] line", "in $$x$$ line"),
        ("  $$\na<b\n$$", "  $$\n  a<b\n  $$"),
        ("$a<b$ but a<b", "$a<b$ but a&lt;b"),
        ("an open $$ x :y", "an open $$ x \\:y"),
        ("[a](https://b/c) [d](data:text/html,x)", "[a](https://b/c) [d]\\(data\\:text/html,x)"),
        ("[a](d&#97;ta:x)\n[b]: data:x\n[c]: http://d", "[a]\\(d&#97;ta\\:x)\n\\[b]: data\\:x\n[c]: http://d"),
    ],
)
def test_markdown_means_what_it_says(text, written):
    assert for_streamlit(text) == written


def test_paragraphs_are_apart_and_nothing_that_belongs_together_is():
    text = "one\n\ntwo\nlines\n\n- a\n\n- b\n\n  more\n\n1. x\n\n2. y\n\n$$\nf\n\ng\n$$\n\nlast\n"
    found = paragraphs(text)
    assert found == ["one", "two\nlines\n\n- a\n\n- b\n\n  more\n\n1. x\n\n2. y", "$$\nf\n\ng\n$$", "last\n"]


def test_what_is_finished_of_a_growing_text_is_not_drawn_again():
    drawn = []
    place = SimpleNamespace(markdown=drawn.append, code=lambda text, language: drawn.append(text))
    row = Row(SimpleNamespace(empty=lambda: place))
    for end in range(0, len(PROSE), 10):
        row.draw(typed(PROSE[:end]))
    assert sum(map(len, drawn)) < 40 * len(PROSE)  # all of it anew would be 300 times as much
    assert "```" not in "".join(part for part in typed(PROSE) if isinstance(part, str))
    assert [part for part in typed(PROSE) if isinstance(part, Code)] == [Code('print("<b>not bold</b>")', "python")] * 5


# the gate


@pytest.fixture
def gate():
    told = []

    async def app(scope, receive, send):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        told.append((gate.visitor(headers), headers[PAGE]))
        await receive()

    visitors = Visitors(lambda key: SimpleNamespace(key=key, is_busy=False, close=lambda: None))
    gate = StreamlitGate(app, ("127.0.0.1",), Users(), visitors)
    gate.told = told
    return gate


def knock(gate, **headers):
    """Opens a WebSocket and closes it again; what the gate has sent."""
    sent = []
    headers = {"host": "127.0.0.1:7870", "cookie": COOKIE, **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]

    async def receive():
        return {"type": "websocket.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(gate({"type": "websocket", "path": "/_stcore/stream", "headers": raw}, receive, send))
    return sent


def test_a_socket_has_the_visitor_of_its_cookie_and_is_left_with_it(gate):
    assert knock(gate, **{KEY.replace("-", "_"): "user%3Aann", PAGE.replace("-", "_"): "forged"}) == []
    [(visitor, page)] = gate.told
    assert visitor.key == f"cookie:{'a' * 43}"
    assert page != "forged"
    assert gate.visitors.owner(page) is None
    late = gate.visitor({KEY: "cookie%3Ab", PAGE: page})  # a script that still runs
    assert (late.key, gate.visitors.owner(page)) == ("cookie:b", None)


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}, {"cookie": ""}],
)
def test_a_socket_of_others_is_not_opened(gate, headers):
    assert knock(gate, **headers) == [{"type": "websocket.close", "code": 1008}]
    assert gate.told == []


def test_a_socket_needs_the_login_or_its_ticket(gate):
    gate.users = Users({**USERS, "张三": "密码密码密码密码"})
    name = base64.b64encode("张三:密码密码密码密码".encode()).decode()
    assert knock(gate) == knock(gate, authorization="Basic " + name[:-4]) != []
    assert knock(gate, authorization="Basic " + name) == []
    assert knock(gate, cookie=f"chatglm_ticket={gate.users.ticket('ann')}") == []
    assert [visitor.key for visitor, _ in gate.told] == ["user:张三", "user:ann"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/static/js/index.js", 200), ("/_stcore/health", 200), ("/_stcore/upload_file/a/b", 200),
     ("/_stcore/metrics", 404), ("/_stcore/agent/interact", 404), ("/media/x.png", 404), ("/component/x", 404),
     ("/_stcore/", 404), ("/app/static/x", 404), ("/_stcore/upload_file/../metrics", 200)],
)  # fmt: skip
def test_only_what_the_page_needs_is_there(gate, path, status):
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    gate.app = app
    scope = {"type": "http", "path": path, "headers": [(b"host", b"127.0.0.1")]}
    asyncio.run(gate(scope, None, send))
    assert sent[0]["status"] == status


def test_uploads_leave_memory_free(gate, monkeypatch):
    monkeypatch.setattr(gate, "free", lambda: 1024**3)
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/_stcore/upload_file/a/b", "headers": [(b"host", b"127.0.0.1")]}
    asyncio.run(gate(scope, None, send))
    assert sent[0]["status"] == 507


# the script, without a browser


def test_the_page_by_its_parts(tmp_path, monkeypatch):
    """A chat, a refused tool, a file that is none, another mode, and taking back."""
    import streamlit
    from streamlit.testing.v1 import AppTest

    from chatglm.web import streamlit_app

    visitor = Visitor(answers(), Conversations(tmp_path, "ann"))
    gate = SimpleNamespace(visitor=lambda headers: visitor, visitors=SimpleNamespace(busy=lambda: 1))
    monkeypatch.setattr(streamlit_app, "_served", [streamlit_app.Served(gate, visitor.answers, False, "zh")])
    monkeypatch.setattr(type(streamlit.context), "headers", {KEY: "cookie%3Aann", PAGE: "1"})
    page = AppTest.from_file(str(Path(streamlit_app.__file__).with_name("streamlit_script.py")), default_timeout=60)
    page.run()
    assert (page.exception.len, page.chat_input[0].placeholder) == (0, "输入消息，按回车发送")
    page.slider(key="temperature").set_value(0.5)
    page.text_area(key="system").input("be brief")
    page.chat_input[0].set_value("<b>hello</b> :red[x]").run()
    assert [message.markdown[0].value for message in page.chat_message] == [
        "&lt;b>hello&lt;/b> \\:red[x]",
        "You said: &lt;b>hello&lt;/b> \\:red[x]",
    ]
    assert visitor.system == "be brief"
    page.button(key="edit-0").click().run()
    page.text_area(key="edited").input("edited")
    page.button(key="send-edited").click().run()
    assert page.chat_message[1].markdown[0].value == "You said: edited"
    page.button(key="undo").click().run()
    assert (page.chat_message.len, visitor.told) == (0, [])
    page.radio(key="mode").set_value("tool").run()
    page.chat_input[0].set_value("danger").run()
    assert "everything" in page.code[-1].value
    page.button(key="refuse").click().run()
    assert "未允许" in page.status[0].label
    visitor.set_tools(WEATHER)
    page.chat_input[0].set_value("by hand").run()
    assert "get_weather" in page.chat_input[0].placeholder
    page.chat_input[0].set_value("25 度").run()
    assert "25 度" in page.status[1].code[1].value
    page.text_area(key="by_hand").input("{")
    page.button(key="apply").click().run()
    assert "YAML" in page.warning[0].value
    assert page.exception.len == 0
    monkeypatch.setattr(type(streamlit.context), "headers", {KEY: "cookie%3Aeve", PAGE: "2"})
    page.run()  # somebody else has got to know the name of this page
    assert "此页面属于另一位访问者" in page.error[0].value
    assert page.chat_message.len == 0
    visitor.close()


# in a browser


@pytest.fixture(scope="module")
def streamlit_app(has_sandbox):
    running = RunningApp("--streamlit", *(["--code"] if has_sandbox else []))
    yield running
    assert running.end() == 0


@pytest.fixture
def visit(browser, streamlit_app):
    opened, logged = [], len(streamlit_app.log)

    def open_one(**options):
        opened.append(StreamlitVisit(browser, streamlit_app.url, **options))
        return opened[-1]

    yield open_one
    assert "Traceback" not in "".join(streamlit_app.log[logged:])
    for one in opened:
        assert (one.foreign, one.complaints, one.dialogs) == ([], [], [])
        one.close()


@pytest.mark.slow
def test_a_chat(visit):
    """Writing, stopping, trying again, editing, taking back, conversations, and a second visitor."""
    ann = visit()
    page = ann.page
    ann.picture("streamlit-empty")
    ann.press("prompt-0")
    ann.reads("You said: Explain how vaccines work")
    ann.is_over()
    ann.say("markdown", "Heading")
    assert page.inner_text(f"{MESSAGE} p code") == "List<int>"
    assert page.inner_text(f"{MESSAGE} pre code").strip() == 'print("<b>not bold</b>")'
    assert page.locator(f"{MESSAGE} .katex").count() == 2
    assert re.search(r"\d+ tokens, .* of 100000", ann.text)
    ann.picture("streamlit-chat")
    ann.write("long")
    ann.reads("The quick brown fox")
    ann.stop()
    ann.is_over()
    ann.reads("stopped; what came so far is kept")
    ann.press("retry")
    page.wait_for_selector(".st-key-stop button")
    ann.stop()
    ann.is_over()
    ann.press("undo")
    ann.until(f"document.querySelector('{BOX}').value === 'long'")
    ann.rests()
    page.fill(BOX, "")
    ann.press("edit-1")
    page.wait_for_selector(".st-key-edited textarea")
    ann.rests()
    page.fill(".st-key-edited textarea", "edited")
    ann.press("send-edited")
    ann.reads("You said: edited")
    ann.is_over()
    assert "Heading" not in ann.text
    ann.press("new")
    page.wait_for_selector(MESSAGE, state="detached")
    ann.say("<b>second</b> & `a<b`", "You said:")
    ann.reads("You said: <b>second</b> & a<b")
    ann.reload()
    ann.reads("You said: <b>second</b>")
    page.click(".st-key-conversation label:has(input) >> nth=1")
    ann.reads("You said: edited")
    with page.expect_download() as download:
        page.click("text=⬇ Download")
    assert download.value.suggested_filename == "conversation.json"
    content = Path(download.value.path()).read_bytes()
    page.click("text=Open a file")
    file = {"name": "conversation.json", "mimeType": "application/json", "buffer": content}
    page.set_input_files(".st-key-load input[type=file]", files=[file])
    ann.until("document.querySelectorAll('.st-key-conversation label input').length === 3")
    ann.press("clear")
    ann.until("document.querySelectorAll('.st-key-conversation label input').length === 2")
    bob = visit()
    assert bob.page.locator(".st-key-conversation").count() == 0
    assert bob.page.locator(MESSAGE).count() == 0


@pytest.mark.slow
def test_tools_in_chinese_on_a_phone_in_the_dark(visit):
    ann = visit(locale="zh-CN", color_scheme="dark", **PHONE)
    page = ann.page
    assert page.get_attribute(BOX, "placeholder") == "输入消息，按回车发送"
    ann.mode("🛠️")
    ann.say("tool", "Done, 1 results.")
    page.click(f"{MESSAGE} >> text=calculator")
    ann.reads("6 * 7")
    ann.picture("streamlit-tool-phone")
    ann.write("danger")
    page.wait_for_selector(".st-key-allow button")
    ann.picture("streamlit-consent-phone")
    ann.reload()  # the turn waits for its visitor
    ann.press("refuse")
    ann.reads("未允许")
    ann.is_over()
    ann.write("danger")
    ann.press("allow")
    ann.is_over()
    ann.write("wait")
    ann.stop()
    ann.reads("已停止")
    ann.is_over()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_code_with_files_and_pictures(visit, has_sandbox):
    if not has_sandbox:
        pytest.skip("code cannot be isolated here")
    ann = visit()
    page = ann.page
    ann.mode("🧑‍💻")
    files = [{"name": "数据.csv", "mimeType": "text/csv", "buffer": b"1,2"}]
    page.set_input_files("[data-testid=stChatInput] input[type=file]", files=files)
    page.wait_for_selector("[data-testid=stChatInput] >> text=数据.csv")
    page.fill(BOX, "files")
    page.click("[data-testid=stChatInputSubmitButton]:enabled")
    ann.reads("Done, 1 results.")
    ann.is_over()
    page.click(f"{MESSAGE} >> text=Code Interpreter")
    ann.reads("['数据.csv']")
    ann.say("plot", "数据 1.csv")
    ann.until(f"[...document.querySelectorAll('{MESSAGE} img')].some(img => img.naturalWidth > 300)")
    ann.picture("streamlit-code")
    with page.expect_download() as download:
        page.click("a:has-text('数据 1.csv')")
    assert Path(download.value.path()).read_text() == "a,b"
    picture = page.get_attribute(f"{MESSAGE} img", "src")
    assert page.request.get(f"{ann.url}/{picture}").status == 200
    bob = visit()
    assert bob.page.request.get(f"{ann.url}/{picture}").status == 404
    assert bob.page.request.get(f"{ann.url}/chatglm/file/数据 1.csv").status == 404
    ann.write("loop")
    page.wait_for_selector(".st-key-stop button")
    ann.reload()  # the turn goes on
    ann.reads("while True: pass")
    ann.stop()
    ann.is_over()


@pytest.mark.slow
def test_nothing_hostile_is_run_drawn_or_fetched(visit):
    ann = visit()
    page = ann.page
    ann.say("inject", "a comment that hides the rest")
    assert page.evaluate("window.__pwned") is None
    found = page.evaluate(
        f"""() => [...document.querySelectorAll('{MESSAGE} [data-testid=stMarkdownContainer] *')].filter(element =>
            getComputedStyle(element).position === 'fixed'
            || ['FORM', 'INPUT', 'IFRAME', 'STYLE', 'DETAILS', 'OBJECT', 'EMBED', 'LINK', 'META', 'BASE', 'TEXTAREA',
                'SCRIPT'].includes(element.tagName)
            || element.tagName === 'IMG'
            || (element.tagName === 'A' && element.href && !/^https?:/.test(element.href))
        ).map(element => element.outerHTML.slice(0, 200))"""
    )
    assert found == []
    ann.picture("streamlit-injection")


@pytest.mark.slow
def test_a_login_opens_the_page(browser):
    running = RunningApp("--streamlit", "--users")
    try:
        who = {"username": "ann", "password": USERS["ann"]}
        ann = StreamlitVisit(browser, running.url, http_credentials=who)
        ann.say("hello", "You said: hello")
        ann.close()
        again = StreamlitVisit(browser, running.url, http_credentials=who)
        again.reads("You said: hello")
        again.close()
        stranger = browser.new_context()
        assert stranger.request.get(running.url).status == 401
        stranger.close()
    finally:
        assert running.end() == 0
