"""Keys, hosts, limits, clients that leave, signals: what a server must withstand."""

import concurrent.futures
import json
import signal
import socket
import time

import httpx2
import openai
import pytest
from running_server import RunningServer

MODEL = "chatglm-tiny"
LONG = {"model": MODEL, "messages": [{"role": "user", "content": "你好"}], "ignore_eos": True, "temperature": 1.0}


@pytest.fixture(scope="module")
def guarded(python, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("# of the tests\nfirst-key\n\nsecond-key\n")
    options = ["--api-key-file", str(keys), "--max-running", "2", "--max-waiting", "1", "--max-body-bytes", "20000"]
    running = RunningServer(python, *options, "--alias", "other", "--grace", "2")
    yield running
    running.end()


def running(url):
    """What the engine is at."""
    told = httpx2.get(f"{url}/metrics").text
    found = [line for line in told.splitlines() if line.startswith("chatglm_engine_running ")]
    return float(found[0].split()[1])


def until(holds, seconds=120):  # that long only where something is wrong
    last = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < last, "it did not come to hold"
        time.sleep(0.02)


def post(server, body, key="first-key", **options):
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=120, **options)


def test_without_a_key_nothing_but_health_is_told(guarded):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "first-key"}, {"x-api-key": "no"}):
        answer = httpx2.get(f"{guarded.url}/v1/models", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
    assert httpx2.get(f"{guarded.url}/health").status_code == 200
    for headers in ({"Authorization": "Bearer second-key"}, {"x-api-key": "first-key"}):
        assert httpx2.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200


def test_aliases(guarded):
    hello = {"model": "other", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert post(guarded, hello).json()["model"] == "other"


def test_a_page_of_another_site_does_not_get_in_through_a_name_of_its_own(guarded):
    answer = httpx2.get(f"{guarded.url}/health", headers={"Host": "evil.example"})
    assert answer.status_code == 403
    asked = httpx2.options(f"{guarded.url}/v1/models", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in asked.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_a_page_of_another_site_does_not_get_in_through_our_own_name(guarded, origin):
    """A browser asks nobody before it sends a form."""
    headers = {"Authorization": "Bearer first-key", "Origin": origin, "Content-Type": "text/plain"}
    answer = httpx2.post(f"{guarded.url}/v1/completions", content="{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unknown_origin")
    ours = httpx2.get(f"{guarded.url}/v1/models", headers=headers | {"Origin": guarded.url})
    assert ours.status_code == 200


def test_pages_that_may_ask_and_names_the_server_is_known_under(python):
    site = "https://chat.example"
    options = ["--allow-origin", site, "--allow-host", "Mine.example"]
    server = RunningServer(python, *options, environment={"CHATGLM_API_KEYS": "key"})
    try:
        asks = {
            "Origin": site,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        asked = httpx2.options(f"{server.url}/v1/models", headers=asks)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, site)
        for key, status in (("key", 200), ("no", 401)):
            told = httpx2.get(f"{server.url}/v1/models", headers={"Origin": site, "Authorization": f"Bearer {key}"})
            assert (told.status_code, told.headers["access-control-allow-origin"]) == (status, site)
        for host, status in (
            ("mine.example", 200), ("MINE.example:81", 200), ("[::1]", 200), ("[::1]:80", 200), ("127.0.0.1", 200),
            ("evil.mine.example", 403), ("mine.example.evil", 403), ("", 403), ("[::1].evil:80", 403),
        ):  # fmt: skip
            assert httpx2.get(f"{server.url}/health", headers={"Host": host}).status_code == status, host
    finally:
        server.end()


def test_too_large_a_body(guarded):
    answer = post(guarded, {"model": MODEL, "messages": [{"role": "user", "content": "x" * 30000}]})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_more_than_a_key_may_ask_is_told_to_come_back(guarded):
    body = LONG | {"max_tokens": 120}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: post(guarded, body), range(6)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[:3] == [200] * 3
    assert 429 in statuses
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert post(guarded, LONG | {"max_tokens": 1}, key="second-key").status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answer(server, stream):
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(LONG | {"max_tokens": 1900, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + body)
        until(lambda: running(server.url) > 0)
    until(lambda: running(server.url) == 0)


def test_many_who_leave_at_random_leave_nothing_behind(server):
    import random

    choose = random.Random(5)

    def come_and_go(_):
        body = LONG | {"max_tokens": 400, "stream": True}
        with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=120) as answer:
            for count, _line in enumerate(answer.iter_lines()):
                if count >= choose.randrange(40):
                    return

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(come_and_go, range(48)))
    until(lambda: running(server.url) == 0)
    told = httpx2.get(f"{server.url}/metrics").text
    values = dict(line.split() for line in told.splitlines() if line.startswith("chatglm_cache_tokens"))
    assert values["chatglm_cache_tokens"] == values["chatglm_cache_tokens_free"]
    assert "chatglm_requests_running 0.0" in told


def test_many_streams_at_once_say_what_each_says_alone(client):
    texts = ["你好", "Hello", "你是谁？", "What is the capital of Japan?", "3 + 4"] * 4

    def ask(text):
        messages = [{"role": "user", "content": text}]
        chunks = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    alone = {text: ask(text) for text in set(texts)}
    with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
        assert list(pool.map(ask, texts)) == [alone[text] for text in texts]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(python, number):
    running_server = RunningServer(python, "--grace", "1")
    client = openai.OpenAI(base_url=f"{running_server.url}/v1", api_key="x", max_retries=0)
    more = {"max_tokens": 1900, "stream": True, "extra_body": {"ignore_eos": True}}
    stream = client.chat.completions.create(model=MODEL, messages=LONG["messages"], **more)
    next(iter(stream))
    assert running_server.end(number) == 0
    with pytest.raises((openai.APIError, httpx2.HTTPError)):
        for _ in stream:
            pass
    client.close()


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--tls-key", __file__], "give it by --tls-cert"),
        (["--tls-cert", "/nowhere"], "there is no file '/nowhere'"),
        (["--tls-cert", __file__], "are no certificate with its key"),
        (["--port", "99999"], "from 0 to 65535"),
        (["--api-key-file", "/nowhere"], "cannot be read: No such file or directory\n"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(options, wrong, capsys):
    from chatglm import cli

    assert cli.main(["serve", *options]) == 1
    said = capsys.readouterr().err
    assert wrong in said
    assert "loading" not in said


def test_a_taken_port_is_told_before_a_model_is_loaded(server, capsys):
    from chatglm import cli

    port = server.url.rsplit(":", 1)[1]
    assert cli.main(["serve", "--port", port]) == 1
    assert "choose another --port" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--timeout", "0"], ["--top-p", "2"], ["--api-key-file", "/none"]])
def test_wrong_options(options, capsys):
    from chatglm import cli

    assert cli.main(["serve", *options]) == 1
    assert "error" in capsys.readouterr().err
