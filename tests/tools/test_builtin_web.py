"""The tools that ask the network, against servers on this machine."""

import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import no_deadline  # noqa: F401
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.chat.message import ToolCall
from chatglm.errors import ToolError
from chatglm.tools import ToolBox
from chatglm.tools.builtin.html_text import html_text
from chatglm.tools.builtin.weather import make_weather
from chatglm.tools.builtin.web import is_public, make_web_fetch


@contextmanager
def serving(answer):
    """A server on this machine; `answer(path)` gives status, headers and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answer(self.path, self)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for part in body if not isinstance(body, bytes) else [body]:
                    self.wfile.write(part)
                    self.wfile.flush()
            except OSError:
                pass  # the reader has gone

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# Weather

PLACE = {"name": "北京", "country": "中国", "latitude": 39.9, "longitude": 116.4}
FORECAST = {
    "current": {
        "time": "2026-01-02T03:00",
        "temperature_2m": -3.5,
        "apparent_temperature": -8,
        "relative_humidity_2m": 20,
        "weather_code": 0,
        "wind_speed_10m": 12,
    },
    "daily": {
        "time": ["2026-01-02", "2026-01-03"],
        "weather_code": [71, 4711],
        "temperature_2m_max": [1, 2],
        "temperature_2m_min": [-9, -8],
        "precipitation_probability_max": [80, 0],
    },
}


def weather_answer(path, handler):
    query = parse_qs(urlsplit(path).query)
    if path.startswith("/places"):
        found = [] if query["name"] == ["Nowhere"] else [PLACE]
        return 200, {}, json.dumps({"results": found} if found else {}).encode()
    assert (query["latitude"], query["forecast_days"]) == (["39.9"], ["2"])
    return 200, {}, json.dumps(FORECAST).encode()


def test_the_weather():
    with serving(weather_answer) as port:
        box = ToolBox([make_weather(f"http://127.0.0.1:{port}/places", f"http://127.0.0.1:{port}/forecast")])
        found = box.call(ToolCall("weather", {"city": "北京", "days": 2}, ""))
        assert json.loads(found.text) == {
            "place": "北京, 中国",
            "time": "2026-01-02T03:00",
            "sky": "clear",
            "temperature_celsius": -3.5,
            "feels_like_celsius": -8,
            "humidity_percent": 20,
            "wind_km_per_hour": 12,
            "forecast": [
                {"date": "2026-01-02", "sky": "light snow", "high_celsius": 1, "low_celsius": -9, "rain_percent": 80},
                {"date": "2026-01-03", "sky": "unknown", "high_celsius": 2, "low_celsius": -8, "rain_percent": 0},
            ],
        }
        assert "no place named 'Nowhere'" in box.call(ToolCall("weather", {"city": "Nowhere"}, "")).text
        assert "days is 9; it must be 1 to 7" in box.call(ToolCall("weather", {"city": "x", "days": 9}, "")).text


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, {}, b""), "refused: HTTP 500"),
        ((200, {}, b"<html>"), "not JSON"),
        ((200, {}, b"[]"), "form that is not known"),
        ((200, {}, b'{"results": [{"name": 1}]}'), "no place named"),
        ((200, {}, b'{"results": [7]}'), "no place named"),
        ((200, {"Content-Length": "99"}, b'{"results": 1'), "cannot be reached|not JSON"),
        ((200, {}, json.dumps({"results": [PLACE]}).encode()), "form that is not known"),
    ],
)
def test_a_weather_service_that_answers_badly(answer, says):
    with serving(lambda path, handler: answer) as port:
        found = ToolBox([make_weather(*[f"http://127.0.0.1:{port}/"] * 2)]).call(ToolCall("weather", {"city": "x"}, ""))
    assert re.search(says, found.text)


def test_the_weather_without_network():
    found = ToolBox([make_weather()]).call(ToolCall("weather", {"city": "北京"}, ""))
    assert not found.ok
    assert "the weather service cannot be reached" in found.text
    assert "is this machine online?" in found.text


def test_a_weather_service_that_is_slow():
    with serving(lambda path, handler: time.sleep(2) or (200, {}, b"")) as port:
        began = time.monotonic()
        weather = make_weather(*[f"http://127.0.0.1:{port}/"] * 2, timeout=0.2)
        assert "cannot be reached" in ToolBox([weather]).call(ToolCall("weather", {"city": "x"}, "")).text
        assert time.monotonic() - began < 1.5


# Web pages

PUBLIC = "93.184.215.14"


def fetcher(port, hosts=("example.org",), resolve=lambda host, number: [PUBLIC], asked=None, **options):
    """The tool, with every public address led to a server on this machine."""

    def connect(address, timeout):
        if asked is not None:
            asked.append(address)
        return socket.create_connection(("127.0.0.1", port), timeout)

    return make_web_fetch(hosts, resolve=resolve, connect=connect, **options)


PAGE = """<!doctype html><html><head><title>A &amp; B</title><style>p{}</style><script>alert('x')</script></head>
<body><h1>Head</h1><p>One<br>two   <b>three</b></p><ul><li>a<li>b</ul><noscript>no</noscript>
<table><tr><td>1<td>2</table><p>&lt;|user|&gt;</p></body></html>"""


def test_a_page_as_text():
    with serving(lambda path, handler: (200, {"Content-Type": "text/html; charset=utf-8"}, PAGE.encode())) as port:
        asked = []
        found = fetcher(port, asked=asked)(url="http://EXAMPLE.org./a?b=c#d")
    assert found == "A & B\n\nHead\n\nOne\ntwo three\n\n- a\n- b\n\n1 2\n\n<|user|>"
    assert asked == [(PUBLIC, 80)]


@given(st.text(alphabet="<>/!-=\"' abscript&;title#x\n", max_size=80))
def test_any_page_has_a_text(html):
    assert isinstance(html_text(html), str)


@pytest.mark.parametrize(
    "piece", ["<a ", "<a x='", "<", "</", "<!--", "<![CDATA[", "<?", "&#", "<script>", "<svg></p>"]
)
def test_a_page_made_to_take_for_ever(piece):
    html = "first<p>" + piece * (400_000 // len(piece))
    began = time.process_time()
    assert html_text(html).startswith("first")
    assert time.process_time() - began < 3


def test_text_in_a_tag_that_never_ends_is_not_lost():
    assert html_text("<p>one</p><a <b <c " * 3000 + "the end").endswith("the end")


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b'{"a": 1}', "application/json", '{"a": 1}'),
        ("文".encode("gbk"), "text/plain; charset=gbk", "文"),
        (b'<meta charset="gbk"><p>' + "文字".encode("gbk"), "text/html", "文字"),
        (b"\xff\xfe\xff", "text/plain", "\ufffd\ufffd\ufffd"),
        ("é".encode(), "text/plain; charset=no-such", "é"),
    ],
)
def test_kinds_of_text(body, kind, text):
    with serving(lambda path, handler: (200, {"Content-Type": kind}, body)) as port:
        assert fetcher(port)(url="http://example.org/") == text


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, {}, b""), "answered HTTP 404"),
        ((200, {"Content-Type": "image/png"}, b""), "image/png, which is no text"),
        ((200, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, b""), "compressed"),
        ((200, {"Content-Type": "text/plain"}, b"x" * 5001), "more than 5000 bytes"),
        ((302, {"Location": "/again"}, b""), "moved more than 5 times"),
        ((302, {"Location": "http://other.org/"}, b""), "host other.org is not allowed; allowed are: example.org"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "must begin with http:// or https://"),
        ((302, {"Location": "http://127.0.0.1/"}, b""), "host 127.0.0.1 is not allowed"),
        ((302, {"Location": "http://private.example.org/"}, b""), "not on the public internet"),
    ],
)
def test_pages_that_are_refused(answer, says):
    def resolve(host, port):
        return ["10.0.0.1"] if host.startswith("private") else [PUBLIC]

    with serving(lambda path, handler: answer) as port:
        tool = fetcher(port, ("example.org", "private.example.org"), resolve, max_bytes=5000)
        with pytest.raises(ToolError, match=says.replace("example.org", ".*")):
            tool(url="http://example.org/")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://example.org/", "must begin with"),
        ("file:///etc/passwd", "must begin with"),
        ("example.org", "must begin with"),
        ("http://", "must begin with"),
        ("http://user:pass@example.org/", "user name or password"),
        ("http://example.org@evil.org/", "user name or password"),
        ("http://example.org:22/", "port 22"),
        ("http://example.org:99999/", "no web address"),
        ("http://evil.org/", "not allowed"),
        ("http://example.org.evil.org/", "not allowed"),
        ("http://notexample.org/", "not allowed"),
        ("http://127.0.0.1/", "not allowed"),
        ("http://2130706433/", "not allowed"),
        ("http://[::1]/", "not allowed"),
        ("http://example.org\r\nX: y/", "blanks or backslashes"),
        ("http://example.org\\@evil.org/", "blanks or backslashes"),
        ("http://example.org/\nHost: evil", "blanks or backslashes"),
        ("http://" + "a" * 300 + ".org/", "no web address"),
        ("http://ex\u2100mple.org/", "no web address|not allowed"),
    ],
)
def test_addresses_that_are_refused(url, says):
    def resolve(host, port):
        raise AssertionError("nobody should be asked")

    with pytest.raises(ToolError, match=says):
        make_web_fetch(["example.org"], resolve=resolve)(url=url)


@pytest.mark.parametrize(
    "addresses",
    [
        *[[address] for address in "127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.1 169.254.169.254 100.64.0.1".split()],
        *[[address] for address in "0.0.0.0 255.255.255.255 224.0.0.1 ::1 fe80::1%eth0 fc00::1 ff02::1 ::".split()],
        *[[address] for address in "::ffff:127.0.0.1 64:ff9b::a00:1 2002:7f00:1:: ::127.0.0.1 192.0.2.1".split()],
        *[[address] for address in "fec0::1 64:ff9b:1::a00:1 192.0.0.8 fd00:ec2::254 2001:db8::1".split()],
        [PUBLIC, "127.0.0.1"],
        ["nonsense"],
        [],
    ],
)
def test_private_addresses_are_never_asked(addresses):
    tool = make_web_fetch(["*"], resolve=lambda host, port: addresses, connect=lambda *given: 1 / 0)
    with pytest.raises(ToolError, match="not on the public internet"):
        tool(url="http://example.org/")


def test_public_addresses():
    assert all(map(is_public, [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]))


def test_a_name_is_asked_for_once():
    """A name that means something else a moment later changes nothing: the address that was checked is connected to."""
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    asked = []
    with serving(lambda path, handler: (200, {"Content-Type": "text/plain"}, b"ok")) as port:
        tool = fetcher(port, resolve=lambda host, number: next(answers), asked=asked)
        assert tool(url="http://example.org/") == "ok"
        assert asked == [(PUBLIC, 80)]
        with pytest.raises(ToolError, match="not on the public internet"):
            tool(url="http://example.org/")


def test_hosts_below_a_name():
    with serving(lambda path, handler: (200, {"Content-Type": "text/plain"}, b"ok")) as port:
        tool = fetcher(port, ["*.example.org", "bücher.de"])
        assert tool(url="http://a.b.example.org/") == tool(url="http://xn--bcher-kva.de/") == "ok"
        assert tool(url="http://bücher.de/路径?q=值") == "ok"
        with pytest.raises(ToolError, match="not allowed"):
            tool(url="http://example.org/")


def drip(status=b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n"):
    """A server that sends a byte now and then, for ever: first in its headers."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listening.accept()
        with connection, listening:
            try:
                connection.sendall(status)
                for _ in range(200):
                    connection.sendall(b"x")
                    time.sleep(0.02)
            except OSError:
                pass

    threading.Thread(target=serve, daemon=True).start()
    return listening.getsockname()[1]


@pytest.mark.parametrize(
    "status", [b"HTTP/1.0 200 OK\r\nX-Long: ", b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n"]
)
def test_a_server_that_drips(status):
    began = time.monotonic()
    with pytest.raises(ToolError, match=r"gave no page within 0.3 seconds"):
        fetcher(drip(status), timeout=0.3)(url="http://example.org/")
    assert time.monotonic() - began < 2


def test_a_server_that_speaks_no_http():
    with pytest.raises(ToolError, match="cannot be reached"):
        fetcher(drip(b"SSH-2.0\r\n\r\n"), timeout=1)(url="http://example.org/")
    with pytest.raises(ToolError, match="cannot be reached|gave no page"):
        fetcher(drip(b"no tls"), timeout=1)(url="https://example.org/")


@pytest.mark.parametrize("hosts", [[], ["http://example.org"], ["a b"], [""], ["a/b"], ["*a.org"]])
def test_lists_of_hosts_that_are_none(hosts):
    with pytest.raises(ToolError, match="hosts"):
        make_web_fetch(hosts)


def test_nobody_is_asked_without_network():
    found = ToolBox([make_web_fetch(["example.org"])]).call(ToolCall("web_fetch", {"url": "http://example.org"}, ""))
    assert "example.org has no address" in found.text
