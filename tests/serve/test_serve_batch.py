"""Files of requests: on the command line, over a server, and as batches of one."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running_server import RunningServer

from chatglm import cli
from chatglm.errors import ConversationError, RemoteError
from chatglm.serve import batch
from chatglm.serve.batch import BadRow, Counts, Results, Row, count_rows, read_rows, run_batch
from chatglm.serve.batch_command import Progress

MODEL = "chatglm-tiny"


def request(number, **body):
    asked = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{number} + 1"}],
        "max_tokens": 4,
        "temperature": 0,
    }
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": asked | body}


def write(path, rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def echo(url, body):
    await asyncio.sleep(0)
    return 200, {"x-request-id": "1"}, {"said": body["messages"][0]["content"]}


def run(source, target, send=echo, at_once=3):
    with Results(target) as results:
        asyncio.run(run_batch(source, results, send, at_once=at_once))
        return results.counts


BAD = [
    "{",
    "[]",
    json.dumps(request(1) | {"custom_id": 7}),
    json.dumps(request(100) | {"url": "/v1/models"}),
    json.dumps(request(101) | {"method": "GET"}),
    json.dumps(request(102) | {"body": []}),
    json.dumps(request(103, stream=True)),
    json.dumps(request(0)),  # again
]


@settings(max_examples=25)
@given(cut=st.integers(0, 3000))
def test_a_run_that_was_ended_anywhere_goes_on_and_answers_every_row_once(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("batch")
    source = write(folder / "in", [request(number) for number in range(9)] + BAD)
    target = folder / "out"
    counts = run(source, target)
    assert (counts.completed, counts.failed) == (9, len(BAD))
    whole = target.read_bytes()
    target.write_bytes(whole[: cut * len(whole) // 3000])
    asked = []

    async def send(url, body):
        asked.append(body)
        return await echo(url, body)

    kept = whole[: cut * len(whole) // 3000].count(b'"said"')
    counts = run(source, target, send)
    assert (counts.completed, counts.failed) == (9, len(BAD))
    assert len(asked) <= 9 - kept + 1
    lines = read(target)
    good = [line for line in lines if line["response"]]
    assert sorted(line["custom_id"] for line in good) == [f"r{number}" for number in range(9)]
    assert all(line["response"]["body"]["said"] == f"{line['custom_id'][1:]} + 1" for line in good)
    assert sorted(line["error"]["line"] for line in lines if line["error"]) == list(range(10, 10 + len(BAD)))


def test_a_server_that_is_busy_is_asked_again_and_one_that_stays_so_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "WAITS", (0.0, 0.0))
    source, tries = write(tmp_path / "in", [request(0), request(1)]), []

    async def busy_at_first(url, body):
        tries.append(body)
        return (429, {"retry-after": "0"}, {}) if len(tries) < 3 else await echo(url, body)

    assert run(source, tmp_path / "out", busy_at_first).completed == 2

    async def gone(url, body):
        raise RemoteError("nobody is there")

    with pytest.raises(RemoteError, match="run the same command again"):
        run(source, tmp_path / "other", gone)
    assert (tmp_path / "other").read_bytes() == b""


def test_a_file_that_holds_something_else_is_not_touched(tmp_path):
    (tmp_path / "notes").write_text("my notes\n")
    with pytest.raises(ConversationError, match="line 1"):
        Results(tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "my notes\n"
    with Results(tmp_path / "out"), pytest.raises(ConversationError, match="another run"):
        Results(tmp_path / "out")


def test_a_line_that_is_too_long_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MAX_LINE", 400)
    source = write(tmp_path / "in", [request(0), request(1, user="x" * 2000), "", request(2)])
    assert [type(row).__name__ for row in read_rows(source)] == ["Row", "BadRow", "Row"]
    assert [row.number for row in read_rows(source)] == [1, 2, 4]
    assert count_rows(source) == 3


# the command


def test_the_command_over_a_server_is_killed_and_goes_on(server, python, tmp_path):
    source = write(tmp_path / "in", [request(number, max_tokens=40, ignore_eos=True) for number in range(24)])
    target = tmp_path / "out"
    command = [
        *python,
        "-m",
        "chatglm",
        "batch",
        source,
        target,
        "--api-base",
        f"{server.url}/v1",
        "--concurrency",
        "4",
    ]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    last = time.monotonic() + 60
    while not target.exists() or target.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < last
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {line["custom_id"]: line["id"] for line in read(target)[:-1]}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "24 of 24 answered" in done.stderr
    lines = read(target)
    assert len(lines) == len({line["custom_id"] for line in lines}) == 24
    after = {line["custom_id"]: line["id"] for line in lines}
    assert {name: after[name] for name in before} == before  # what had been answered was not asked again


def test_the_command_with_a_model_of_its_own_says_what_the_server_says(server, python, tmp_path):
    rows = [request(number) for number in range(4)]
    rows += [request(9, model="other"), request(10) | {"url": "/v1/embeddings", "body": {"model": MODEL, "input": "a"}}]
    source = write(tmp_path / "in", [*rows, "{"])
    command = [*python, "-m", "chatglm", "batch", source]
    here = subprocess.run([*command, tmp_path / "a"], capture_output=True, text=True, timeout=300)
    there = subprocess.run(
        [*command, tmp_path / "b", "--api-base", f"{server.url}/v1"], capture_output=True, text=True, timeout=300
    )
    for done in (here, there):
        assert done.returncode == 1, done.stderr
        assert "line 7: it is not JSON" in done.stderr
        assert "5 of 7 answered, 2 failed" in done.stderr

    def told(name):
        answers = {line["custom_id"]: line["response"] for line in read(tmp_path / name) if line["response"]}
        texts = {key: item["body"]["choices"][0] for key, item in answers.items() if "choices" in item["body"]}
        return texts, {key: item["status_code"] for key, item in answers.items()}

    assert told("a") == told("b")
    assert told("a")[1]["r9"] == 404


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["/none", "out"], "cannot be read"),
        (["in", "in"], "name two files"),
        (["in", "out", "--concurrency", "0"], "--concurrency"),
        (["in", "out", "--api-base", "file:///etc/passwd"], "it must be like http"),
        (["in", "out", "--api-base", "http://127.0.0.1:9/v1", "--api-key-env", "NOT_SET"], "NOT_SET"),
        (["empty", "out"], "holds no requests"),
    ],
)
def test_wrong_commands(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in", [request(0)])
    write(tmp_path / "empty", [])
    assert cli.main(["batch", *options]) == 2
    assert message in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_a_bar_is_drawn_where_somebody_looks(stream):
    counts = Counts(total=4, completed=1)
    progress = Progress(counts, stream)
    counts.completed, counts.failed = 2, 1
    progress.told(Row(2, "a", "/", {}))
    progress.told(BadRow(3, None, "it is not JSON"))
    progress.end()
    told = stream.getvalue()
    assert "chatglm: line 3: it is not JSON\n" in told
    assert told.endswith("chatglm: 2 of 4 answered, 1 failed\n")
    assert ("] 3/4, 1 failed" in told) == ("\r" in told) == isinstance(stream, Terminal)


# files and batches of a server


@pytest.fixture(scope="module")
def keeping(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    keys = {"CHATGLM_API_KEYS": "one,two"}
    running = RunningServer(
        python,
        "--files-dir",
        str(folder),
        "--max-file-bytes",
        "200000",
        "--max-stored-bytes",
        "400000",
        environment=keys,
    )
    running.folder = folder
    yield running
    running.end()


@pytest.fixture(params=["one"])
def keyed(keeping, request):
    with openai.OpenAI(base_url=f"{keeping.url}/v1", api_key=request.param, max_retries=0) as client:
        yield client


def finished(client, made, seconds=120):
    last = time.monotonic() + seconds
    while (made := client.batches.retrieve(made.id)).status not in ("completed", "failed", "cancelled"):
        assert time.monotonic() < last, made.status
        time.sleep(0.05)
    return made


def lines_of(client, file_id):
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_files_go_there_and_back_and_belong_to_their_key(keyed, keeping):
    for name, content in (("a.txt", b"abc"), ("../../etc/passwd", b"\x00\xff" * 1000), ("空.csv", b"")):
        made = keyed.files.create(file=(name, content), purpose="user_data")
        assert (made.filename, made.bytes) == (name, len(content))
        assert keyed.files.content(made.id).content == content
        assert made.id in [file.id for file in keyed.files.list(purpose="user_data")]
        with openai.OpenAI(base_url=f"{keeping.url}/v1", api_key="two", max_retries=0) as other:
            for use in (other.files.retrieve, other.files.content, other.files.delete):
                with pytest.raises(openai.NotFoundError):
                    use(made.id)
            assert made.id not in [file.id for file in other.files.list()]
        assert keyed.files.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            keyed.files.retrieve(made.id)
    left = [path for path in keeping.folder.rglob("*") if path.suffix in (".part", ".data")]
    assert left == []


def test_files_have_limits(keyed):
    with pytest.raises(openai.APIStatusError) as caught:
        keyed.files.create(file=("big", b"x" * 300_000), purpose="user_data")
    assert caught.value.status_code == 413
    kept = [keyed.files.create(file=("half", b"x" * 190_000), purpose="user_data") for _ in range(2)]
    with pytest.raises(openai.APIStatusError) as caught:
        keyed.files.create(file=("one more", b"x" * 50_000), purpose="user_data")
    assert caught.value.status_code == 413
    for file in kept:
        keyed.files.delete(file.id)


@pytest.mark.parametrize("path", ["../x", "%2e%2e%2fx", "file-" + "0" * 32, "file-" + "0" * 31 + "/", "x" * 5000])
def test_names_are_never_paths(keeping, path):
    headers = {"Authorization": "Bearer one"}
    for ending in ("", "/content"):
        answer = httpx2.get(f"{keeping.url}/v1/files/{path}{ending}", headers=headers)
        assert answer.status_code in (404, 405), answer.text
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"data": {"purpose": "batch"}}, "file"),
        ({"files": {"file": b"x"}, "data": {"purpose": "fine-tune"}}, "purpose"),
        ({"files": {"file": b"x"}}, "purpose"),
        ({"json": {"purpose": "batch"}}, "file"),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data"}}, "file"),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "file"),
    ],
)
def test_forms_that_are_no_upload(keeping, form, param):
    headers = {"Authorization": "Bearer one"} | form.pop("headers", {})
    answer = httpx2.post(f"{keeping.url}/v1/files", headers=headers, **form)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] in (param, "purpose")


def test_a_batch_is_answered_in_the_background(keyed, keeping):
    rows = [request(number) for number in range(5)] + ["{", request(9, model="other")]
    content = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    file = keyed.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    made = keyed.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"why": "test"}
    )
    done = finished(keyed, made)
    assert done.status == "completed", done.errors
    assert done.metadata == {"why": "test"}
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (7, 5, 2)
    good, bad = lines_of(keyed, done.output_file_id), lines_of(keyed, done.error_file_id)
    assert sorted(line["custom_id"] for line in good) == [f"r{number}" for number in range(5)]
    assert sorted(line["custom_id"] or "" for line in bad) == ["", "r9"]
    assert made.id in [one.id for one in keyed.batches.list()]
    with openai.OpenAI(base_url=f"{keeping.url}/v1", api_key="two", max_retries=0) as other:
        with pytest.raises(openai.NotFoundError):
            other.batches.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            other.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        assert list(other.batches.list()) == []


def test_a_batch_is_cancelled_and_keeps_what_it_has(keyed):
    content = "".join(json.dumps(request(n, max_tokens=1500, ignore_eos=True)) + "\n" for n in range(60))
    file = keyed.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    made = keyed.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert keyed.batches.cancel(made.id).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        keyed.batches.cancel(made.id)


@pytest.mark.slow
def test_a_batch_goes_on_when_its_server_was_killed(python, tmp_path):
    rows = [request(number, max_tokens=5 + 12 * number, ignore_eos=True) for number in range(30)]
    first = RunningServer(python, "--files-dir", str(tmp_path))
    with openai.OpenAI(base_url=f"{first.url}/v1", api_key="x", max_retries=0) as client:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        file = client.files.create(file=("in.jsonl", content), purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        last = time.monotonic() + 120
        while client.batches.retrieve(made.id).request_counts.completed < 2:
            assert time.monotonic() < last
            time.sleep(0.02)
    assert first.end(signal.SIGKILL) != 0
    kept = read_whole(tmp_path / f"{made.id}.data")
    second = RunningServer(python, "--files-dir", str(tmp_path))
    with openai.OpenAI(base_url=f"{second.url}/v1", api_key="x", max_retries=0) as client:
        done = finished(client, made)
        lines = lines_of(client, done.output_file_id)
    assert second.end() == 0
    assert done.request_counts.completed == len(lines) == 30
    assert {line["id"] for line in kept} <= {line["id"] for line in lines}


def read_whole(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line]


@pytest.mark.slow
def test_a_private_folder_is_gone_with_the_server(tmp_path):
    running = RunningServer([sys.executable], environment={"TMPDIR": str(tmp_path)})
    httpx2.post(f"{running.url}/v1/files", files={"file": b"x"}, data={"purpose": "user_data"}).raise_for_status()
    [folder] = tmp_path.glob("chatglm-files-*")
    assert os.stat(folder).st_mode & 0o077 == 0
    assert running.end() == 0
    assert list(tmp_path.glob("chatglm-files-*")) == []
