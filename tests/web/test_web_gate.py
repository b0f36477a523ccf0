"""Who may come in, and what a program instead of a browser can do: nothing that a browser could not."""

import asyncio
import base64
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import httpx2
import pytest
from web.program import Program
from web.scripted_app import USERS

from chatglm.errors import ConfigError, UsageError
from chatglm.web.gate import COOKIE, LEAST_FREE, POLICY, TICKET
from chatglm.web.gradio_blocks import check_files
from chatglm.web.gradio_gate import GradioGate
from chatglm.web.users import MOST_WRONG, TooManyWrongError, Users
from chatglm.web.visitors import Visitors

TOKEN = "a" * 43


async def whoever(scope, receive, send):
    """Says whom the gate takes the visitor for."""
    body = scope["state"]["visitor"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOW")]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def visitors():
    return Visitors(lambda key: SimpleNamespace(is_busy=False, close=lambda: None))


@pytest.fixture
def ask(visitors):
    def ask(path="/", hosts=("127.0.0.1", "localhost"), users=None, **headers):
        async def asked():
            transport = httpx2.ASGITransport(app=GradioGate(whoever, hosts, Users(users), visitors))
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:7870") as client:
                return await client.get(
                    path, headers={name.replace("_", "-"): value for name, value in headers.items()}
                )

        return asyncio.run(asked())

    return ask


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def test_a_stranger_gets_a_cookie_and_keeps_it(ask):
    first = ask()
    cookie = first.headers["set-cookie"]
    token = cookie.partition("=")[2].partition(";")[0]
    assert first.text == f"cookie:{token}"
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    again = ask(cookie=f"other=1; {COOKIE}={token}; more=2")
    assert again.text == first.text
    assert "set-cookie" not in again.headers
    assert ask().text != first.text


@pytest.mark.parametrize("forged", ["", "short", "a" * 44, "a" * 42 + "/", "é" * 43, "user:ann"])
def test_a_cookie_that_was_never_given_is_none(ask, forged):
    answer = ask(cookie=f"{COOKIE}={forged}".encode("latin-1"))
    assert answer.text.startswith("cookie:")
    assert forged not in answer.text or not forged


def test_every_answer_forbids_what_a_page_must_not_do(ask):
    for answer in (ask(), ask(host="evil.example"), ask(users=USERS)):
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "http:" not in POLICY
    assert "unsafe-eval" not in POLICY


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7870", "LOCALHOST:1"])
def test_names_of_this_machine_are_known(ask, host):
    assert ask(host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7870", "", "[::1]:7870", "localhost@evil"])
def test_other_names_are_refused(ask, host):
    assert ask(host=host).status_code == 403
    assert ask(host=host, hosts=()).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:7871", "http://localhost:7870"])
def test_pages_of_others_may_not_ask(ask, origin):
    assert ask(origin=origin).status_code == 403


def test_the_page_itself_may(ask):
    assert ask(origin="http://127.0.0.1:7870").status_code == 200


def test_users_come_in_with_their_password_and_are_known_by_name(ask):
    refused = ask(users=USERS)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    admitted = ask(users=USERS, authorization=basic("ann", USERS["ann"]))
    assert admitted.text == "user:ann"
    [ticket] = [cookie for cookie in admitted.headers.get_list("set-cookie") if cookie.startswith(TICKET)]
    assert "HttpOnly; SameSite=Lax" in ticket
    assert ask(users=USERS, cookie=ticket.partition(";")[0]).status_code == 401  # of a server that has ended
    wrong = [
        basic("ann", "wrong"),
        basic("ann", USERS["bob"]),
        basic("eve", ""),
        basic("", ""),
        "Basic !!!",
        "Bearer x",
    ]
    for given in wrong:
        assert ask(users=USERS, authorization=given).status_code == 401, given


def test_a_ticket_stands_for_one_user_of_one_program():
    users, others = Users(USERS), Users(USERS)
    ticket = users.ticket("ann")
    assert users.check("", ticket=ticket) == "ann"
    assert others.check("", ticket=ticket) is None
    for forged in ("", ticket[:-1], ticket + "0", ticket.replace(ticket[:6], b"bob".hex()), users.ticket("eve")):
        assert users.check("", ticket=forged) is None, forged
    assert users.check(basic("bob", USERS["bob"]), ticket=ticket) == "bob"  # a password says more
    assert users.check(basic("bob", "wrong"), ticket=ticket) is None


def test_who_guesses_is_sent_away_and_nobody_else():
    now = [100.0]
    users, flood, tried = Users(USERS, clock=lambda: now[0]), "10.0.0.1", 0
    for _ in range(1000):
        with suppress(TooManyWrongError):
            assert users.check(basic("ann", "wrong"), flood) is None
            tried += 1
    assert tried == MOST_WRONG
    with pytest.raises(TooManyWrongError) as told:
        users.check(basic("ann", USERS["ann"]), flood)  # not even looked at, or guessing would go on
    assert 0 < told.value.seconds <= 1
    assert users.check(basic("ann", USERS["ann"]), "10.0.0.2") == "ann"
    assert users.check(basic("bob", USERS["bob"]), flood) == "bob"
    assert users.check(basic("ann", USERS["ann"]), flood, users.ticket("ann")) == "ann"  # was here before
    for name in range(1000):  # names that there are not count as one
        with suppress(TooManyWrongError):
            users.check(basic(f"user{name}", "wrong"), flood)
            tried += 1
    assert tried == 2 * MOST_WRONG
    now[0] += told.value.seconds + 0.01
    assert users.check(basic("ann", USERS["ann"]), flood) == "ann"
    now[0] += 3600
    assert [users.check(basic("ann", "wrong"), flood) for _ in range(MOST_WRONG)] == [None] * MOST_WRONG


def test_those_of_one_network_are_one_and_what_is_kept_of_them_is_little(monkeypatch):
    monkeypatch.setattr("chatglm.web.users.MOST_GUESSERS", 5)
    users = Users(USERS, clock=lambda: 100.0)
    for number in range(MOST_WRONG):
        assert users.check(basic("ann", "wrong"), f"2001:db8::{number:x}") is None
    with pytest.raises(TooManyWrongError):
        users.check(basic("ann", "wrong"), "2001:db8::ffff")
    for number in range(100):
        assert users.check(basic("ann", "wrong"), f"10.0.1.{number}") is None
    assert len(users._guesses._until) == 5


def test_a_guesser_is_told_when_to_come_again(visitors):
    async def guess():
        transport = httpx2.ASGITransport(app=GradioGate(whoever, (), Users(USERS), visitors))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            wrong = {"authorization": basic("ann", "wrong")}
            return [await client.get("/", headers=wrong) for _ in range(MOST_WRONG + 1)]

    *wrong, last = asyncio.run(guess())
    assert {answer.status_code for answer in wrong} == {401}
    assert (last.status_code, last.headers["retry-after"]) == (429, "1")
    assert "try again in 1 s" in last.text


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("", "names no user"), ("ann", "line 1"), ("ann:short", "line 1"), ("# a\n\na:12345678\na:12345678", "line 4")],
)
def test_a_wrong_file_of_users_is_told_without_its_passwords(tmp_path, text, wrong):
    file = tmp_path / "users"
    file.write_text(text)
    with pytest.raises(ConfigError, match=wrong) as told:
        Users.read(file)
    assert "12345678" not in str(told.value)


def test_a_file_of_users(tmp_path):
    file = tmp_path / "users"
    file.write_text("# who\nann: correct horse:battery \n\n张三:密码密码密码密码\n", encoding="utf-8")
    users = Users.read(file)
    assert users.check(basic("ann", "correct horse:battery")) == "ann"
    assert users.check(basic("张三", "密码密码密码密码")) == "张三"
    with pytest.raises(ConfigError, match="cannot be read"):
        Users.read(tmp_path / "none")


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/queue/data?session_hash=page1", "/gradio_api/heartbeat/page1",
     "/gradio_api/queue/data?session_hash=page3&session_hash=page1",
     "/gradio_api/queue/data?session_hash=page1&session_hash=page3",
     "/gradio_api/queue/data?session%5Fhash=page1", "/gradio_api/heartbeat/page3?session_hash=page1"],
)  # fmt: skip
def test_nobody_reads_along(ask, visitors, path):
    visitors.get(f"cookie:{TOKEN}", "page1")
    assert ask(path, cookie=f"{COOKIE}={TOKEN}").status_code == 200
    assert ask(path, cookie=f"{COOKIE}={'b' * 43}").status_code == 403
    assert ask(path.replace("page1", "page2")).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["cancel", "cancel/", "reset", "call/send/page1", "call/v2/send/page1", "stream/page1", "api/send",
     "component_server", "process_recording", "deep_link", "vibe-edit", "queue/join/../../cancel", "", "/"],
)  # fmt: skip
def test_what_no_page_asks_for_is_not_there(ask, path):
    assert ask(f"/gradio_api/{path}").status_code == 404


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload", "/anything"])
@pytest.mark.parametrize("says_how_much", [True, False])
def test_no_request_is_longer_than_any_needs_to_be(visitors, monkeypatch, path, says_how_much):
    monkeypatch.setattr("chatglm.web.gate.MOST_BYTES", 1000)
    monkeypatch.setattr("chatglm.web.gate.MOST_UPLOADED", 5000)
    most = 5000 if path.endswith("upload") else 1000
    read = []

    async def reads_all(scope, receive, send):
        more = True
        while more:
            message = await receive()
            read.append(len(message["body"]))
            more = message["more_body"]
        await whoever(scope, receive, send)

    async def pieces(size):
        for _ in range(size // 100):
            yield b"x" * 100

    async def post(size):
        transport = httpx2.ASGITransport(app=GradioGate(reads_all, (), Users(), visitors))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(path, content=b"x" * size if says_how_much else pieces(size))

    assert asyncio.run(post(most)).status_code == 200
    read.clear()
    answer = asyncio.run(post(100 * most))
    assert (answer.status_code, answer.headers["x-frame-options"]) == (413, "DENY")
    assert sum(read) <= most


def test_uploads_do_not_fill_the_disk(visitors, monkeypatch, tmp_path):
    async def post(path):
        transport = httpx2.ASGITransport(app=GradioGate(whoever, (), Users(), visitors, uploads=str(tmp_path)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.post(path, content=b"x")).status_code

    for free, status in ((2 * LEAST_FREE, 200), (LEAST_FREE, 507), (0, 507)):
        monkeypatch.setattr(
            "chatglm.web.gradio_gate.shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free)
        )
        assert asyncio.run(post("/gradio_api/upload")) == status
        assert asyncio.run(post("/gradio_api/queue/join")) == 200


# the whole app, asked by a program


@pytest.fixture
def ann(app):
    with Program(app.url, f"pageofann{secrets.token_hex(4)}") as one:
        yield one


@pytest.fixture
def bob(app):
    with Program(app.url, f"pageofbob{secrets.token_hex(4)}") as one:
        yield one


def test_forged_values_and_pages_of_others_are_refused(ann, bob):
    assert ann.talk("hello ann")[-1] == "You said: hello ann"
    message, told = ann.send("hot", settings=(99, 0.8, 1.1, 100))
    assert not message["success"] or "temperature is 99" in told[0]
    _, [told] = ann.send("x" * 1_000_001)
    assert "characters" in told
    forged = {"index": 17, "value": "forged", "previous_value": "x"}
    _, [told] = ann.run(ann.event("chat", "edit"), [0.95, 0.8, 1.1, 100], event_data=forged)
    assert "there is no message 17" in told
    message, told = ann.run(ann.event("mode", "input"), ["root"])
    assert not message["success"] or "is not there" in told[0]
    assert ann.talk("more") == ["hello ann", "You said: hello ann", "more", "You said: more"]

    _, [told] = bob.run(bob.event("chat", "undo"), [])  # his own conversation, which is empty
    assert "nothing to take back" in told
    with bob.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": ann.page}) as stream:
        assert stream.status_code == 403  # nor does he read along
    assert bob.client.get(f"/gradio_api/heartbeat/{ann.page}").status_code == 403
    [leaves] = [event["id"] for event in bob.events if any(trigger == "unload" for _, trigger in event["targets"])]
    assert bob.join(leaves, [], page=ann.page).status_code == 200
    with ann.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": ann.page}) as stream:
        next(line for line in stream.iter_lines() if "process_completed" in line)
    with bob.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": ann.page}) as stream:
        assert stream.status_code == 403  # to say that she has left gives him nothing
    cancel = {"session_hash": ann.page, "fn_index": ann.event("box", "submit"), "event_id": "0"}
    assert bob.client.post("/gradio_api/cancel", json=cancel).status_code == 404  # nor does he stop her
    assert bob.client.get(f"/gradio_api/call/send/{ann.page}").status_code == 404
    opens = ann.event("conversations", "input")
    [card] = ann.listed()
    assert ann.run(opens, [card])[0]["success"]
    message, told = bob.run(opens, [card])
    assert not message["success"] or "no conversation" in told[0]
    assert bob.talk("hello bob") == ["hello bob", "You said: hello bob"]


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/hostname", "/gradio_api/file=../../etc/hostname", "/chatglm/file/../../etc/hostname",
     "/chatglm/file/%2e%2e%2fetc%2fhostname", "/docs", "/openapi.json", "/chatglm/picture/0/0", "/chatglm/conversation",
     "/chatglm/file/x"],
)  # fmt: skip
def test_no_file_of_the_machine_is_served(ann, path):
    assert ann.client.get(path).status_code in (403, 404)


def test_a_path_is_no_upload(app, has_sandbox, tmp_path):
    """In every mode, to every component: nothing of the machine is read, and nothing is fetched."""
    secret = tmp_path / "secret.json"
    secret.write_text("top secret")
    sliders = [0.95, 0.8, 1.1, 100]
    with Program(app.url, f"pageof{tmp_path.name}") as eve:
        if has_sandbox:
            assert eve.run(eve.event("mode", "input"), ["code"])[0]["success"]
        box = eve.event("box", "submit")
        [uploaded] = eve.client.post("/gradio_api/upload", files={"files": ("mine.txt", b"mine")}).json()
        for path in (str(secret), f"{uploaded}/../../../{secret}", "http://127.0.0.1:9/x", "https://example.org/x.png"):
            for more in ({}, {"is_stream": True}, {"url": path}):
                file = {"path": path, "meta": {"_type": "gradio.FileData"}, **more}
                for event, values in (
                    (box, [{"text": "files", "files": [file]}, "", *sliders]),
                    (box, [{"text": "files", "files": []}, file, *sliders]),
                    (box, [{"text": "files", "files": []}, "", file, *sliders[1:]]),
                    (eve.event("load", "upload"), [file]),
                ):
                    message, logged = eve.run(event, values)
                    assert (message["success"], logged) == (False, []), (path, more, values)
        assert eve.client.get("/chatglm/file/secret.json").status_code == 404
        if has_sandbox:  # what was uploaded is taken
            file = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
            assert eve.run(box, [{"text": "files", "files": [file]}, "", *sliders])[0]["success"]
            eve.shown()
            assert eve.client.get("/chatglm/file/mine.txt").text == "mine"
    assert secret.exists()


@pytest.mark.parametrize("path", ["/etc/hostname", "", "..", "a/../..", "http://x/y", 5, None, ["a"], "a\0b"])
def test_only_what_was_uploaded_is_a_file(tmp_path, path):
    (tmp_path / "link").symlink_to("/etc")
    inside = {"path": str(tmp_path / "a" / "b.txt")}
    check_files([{"text": "x", "files": [inside]}, 5, None], tmp_path)
    for wrong in (path, str(tmp_path / "link" / "hostname"), f"{tmp_path}/../x"):
        with pytest.raises(UsageError, match="not uploaded"):
            check_files([{"text": "x", "files": [inside, {"deep": [{"path": wrong}]}]}], tmp_path)


def test_foreign_hosts_and_origins_are_refused_by_the_app(ann):
    assert ann.client.get("/", headers={"host": "evil.example"}).status_code == 403
    body = {"fn_index": 0, "data": [], "session_hash": "x"}
    answer = ann.client.post("/gradio_api/queue/join", json=body, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403


def test_twenty_visitors_at_once_get_each_their_own_answer(app):
    def ask(number):
        with Program(app.url, f"page{number}of20") as program:
            return program.talk(f"count {number}:", settings=(0.95, 0.8, 1.1, 1000))

    with ThreadPoolExecutor(20) as pool:
        for number, said in enumerate(pool.map(ask, range(20))):
            assert said == [f"count {number}:", " ".join(f"{number}:{count}" for count in range(1, 41))]
