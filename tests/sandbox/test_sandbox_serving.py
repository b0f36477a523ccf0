"""The pool, the JSON lines and the notebook."""

import base64
import importlib.util
import io
import json
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
from conftest import SMALL, opened, require, wait_until

from chatglm.errors import SandboxError
from chatglm.sandbox import Output, Result, Sandbox, SandboxPool, idle, jsonl, serve_jsonl
from chatglm.sandbox.notebook import History, notebook


@pytest.fixture
def served(monkeypatch, sandbox):
    """What is asked goes to the shared sandbox, where a guest of its own is not the point."""
    monkeypatch.setattr(jsonl, "open_sandbox", lambda *_, **__: nullcontext(sandbox))


def ask(*requests, config=SMALL):
    """The answers to requests (objects, or lines as they are)."""
    require()
    lines = [request if isinstance(request, bytes) else json.dumps(request).encode() for request in requests]
    output = io.BytesIO()
    serve_jsonl(io.BytesIO(b"\n".join(lines) + b"\n"), output, config)
    answers = output.getvalue().split(b"\n")
    assert answers.pop() == b""
    return [json.loads(answer, parse_constant=pytest.fail) for answer in answers]


def test_requests_are_answered_in_order():
    answers = ask(
        {"op": "run", "id": 1, "code": "x = 6\nprint('hi')\nx * 7"},
        {"op": "put", "id": "two", "name": "a.csv", "b64": base64.b64encode(b"1,2").decode()},
        {"op": "run", "id": 3, "code": "open('b', 'w').write(open('a.csv').read())"},
        {"op": "list", "id": 4},
        {"op": "get", "id": 5, "name": "b"},
        {"op": "run", "id": 6, "code": "1/0"},
        {"op": "run", "id": 7, "code": "while True: pass", "timeout": 0.2},
        {"op": "run", "id": 8, "code": "import os; os._exit(1)"},
        {"op": "restart", "id": 9},
        {"op": "run", "code": "1"},
        {"op": "close", "id": 11},
        {"op": "run", "id": 12, "code": "never"},
    )
    assert [answer["id"] for answer in answers] == [1, "two", 3, 4, 5, 6, 7, 8, 9, None, 11]
    statuses = "ok ok ok ok ok error timeout killed ok ok ok"
    assert [answer["status"] for answer in answers] == statuses.split()
    first = answers[0]
    assert (first["stdout"], first["stderr"], first["result"], first["error"], first["images"], first["reason"]) == (
        "hi\n",
        "",
        "42",
        None,
        [],
        None,
    )
    assert answers[2]["files"] == [{"name": "b", "size": 3}]
    assert [file["name"] for file in answers[3]["files"]] == ["a.csv", "b"]
    assert base64.b64decode(answers[4]["b64"]) == b"1,2"
    assert "ZeroDivisionError" in answers[5]["error"]
    assert answers[7]["reason"].startswith("crash:")


BAD_LINES = [
    b"not json",
    b"[1]",
    b"5",
    b"null",
    b'"run"',
    b"{",
    b"{}",
    b'{"op": "run"}',
    b'{"op": "fly"}',
    b'{"op": ["run"]}',
    b'{"op": "run", "code": 5}',
    b'{"op": "run", "code": "1", "extra": 1}',
    b'{"op": "run", "code": "1", "timeout": -1}',
    b'{"op": "run", "code": "1", "timeout": "soon"}',
    b'{"op": "run", "code": "1", "timeout": NaN}',
    b'{"op": "run", "code": "1", "timeout": 1e999}',
    b'{"id": {"a": 1}, "op": "list"}',
    b'{"id": 1e999, "op": "list"}',
    b'{"id": true, "op": "list"}',
    b'\xef\xbb\xbf{"op": "list"}',
    b'{"op": "list"} {"op": "list"}',
    b'{"op": "run", "code": "1", "timeout": true}',
    b'{"op": "close", "name": "x"}',
    b'\xff\xfe{"op": "list"}',
    b"[" * 100_000,
    b"9" * 100_000,
    b'{"op": "put", "name": "../x", "b64": ""}',
    b'{"op": "put", "name": "x", "b64": "***"}',
    b'{"op": "put", "name": "x", "b64": 5}',
    b'{"op": "put", "name": 5, "b64": ""}',
    b'{"op": "get", "name": "/etc/passwd"}',
    b'{"op": "get", "name": "nothing"}',
    b'{"op": "get"}',
    b'{"op": "get", "name": "\\ud800"}',
    b'{"op": "put", "name": "x", "b64": "' + b"A" * 20_000_000 + b'"}',
]


def test_bad_requests_are_refused_and_the_next_is_answered(served):
    good = {"op": "run", "id": 2, "code": "6 * 7"}
    answers = ask(*(request for line in BAD_LINES for request in (line, good)))
    refused, answered = answers[::2], answers[1::2]
    assert len(answers) == 2 * len(BAD_LINES)
    for line, answer in zip(BAD_LINES, refused, strict=True):
        assert (answer["status"], bool(answer["reason"])) == ("refused", True), (line[:80], answer)
    assert all((answer["id"], answer["result"]) == (2, "42") for answer in answered)


def test_what_goes_wrong_in_the_host_is_an_answer_too(monkeypatch, served):
    def no_descriptors(sandbox):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Sandbox, "list", no_descriptors)
    refused, answered = ask({"op": "list", "id": 1}, {"op": "run", "id": 2, "code": "1"})
    assert (refused["status"], answered["status"]) == ("refused", "ok")
    assert "Too many open files" in refused["reason"]


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_closed_streams_are_named(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    with pytest.raises(SandboxError, match="closed"):
        jsonl.main()


def test_answers_that_do_not_get_through_are_an_error(monkeypatch, served):
    monkeypatch.setattr(sys, "stdin", io.BytesIO(b'{"op": "list"}'))
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SandboxError, match="No space left"):
            jsonl.main(SMALL)


def test_code_cannot_write_into_the_answers(served):
    code = 'import os, sys\nprint(\'{"id": 1}\')\nos.write(1, b\'\\n{"id": 1, "status": "ok"}\\n\')\n'
    code += "print('\\ud800\\x00\\u2028')"
    answer, second = ask({"op": "run", "id": 1, "code": code}, {"op": "run", "id": 2, "code": "1"})
    assert (answer["status"], second["result"]) == ("ok", "1")


def test_text_streams_blank_lines_and_a_line_cut_off_by_the_end(served):
    output = io.TextIOWrapper(io.BytesIO())
    lines = b'\n   \n{"op": "run", "id": 1, "code": "1"}\r\n\n{"op": "run", "id": 2, "co'
    serve_jsonl(io.TextIOWrapper(io.BytesIO(lines)), output, SMALL)
    answered, refused = map(json.loads, output.buffer.getvalue().splitlines())
    assert answered["result"] == "1"
    assert refused["status"] == "refused"


def test_the_pool_gives_every_conversation_its_own_warm_guest():
    require()
    with SandboxPool(2, SMALL, preload=("json", "decimal")) as pool:
        with pool.take() as one, pool.take() as two:
            assert one is not two
            assert one.run("import sys\n'decimal' in sys.modules").result == "True"
            one.run("x = 1")
            assert "NameError" in two.run("x").error
        with pool.take() as three:
            assert "NameError" in three.run("x").error
    with pytest.raises(SandboxError, match="closed"):
        pool.take()


def test_a_guest_warms_up_before_its_first_cell(fresh):
    fresh.warm_up(("decimal", "no_such_module", "fractions")).join()
    result = fresh.run("import sys\n[name in sys.modules for name in ('decimal', 'fractions')], dir()[:1], Out")
    assert result.result == "([True, True], ['In'], {})"
    fresh.warm_up(("wave",)).join()  # too late: nothing happens behind the back of code
    assert fresh.run("'wave' in sys.modules").result == "False"


def test_files_come_along_and_a_file_without_a_copy_keeps_its_guest(fresh):
    fresh.put("a.txt", b"a")
    fresh.warm_up(("decimal",)).join()
    assert fresh.run("import sys\nopen('a.txt').read(), 'decimal' in sys.modules").result == "('a', True)"
    with opened(config=replace(SMALL, kept_size=1)) as sandbox:
        sandbox.put("large.txt", b"large")
        sandbox.warm_up(("decimal",)).join()
        assert sandbox.get("large.txt") == b"large"


@pytest.mark.parametrize("ending", ["run", "close"])
def test_nobody_waits_for_the_warming_up(fresh, ending):
    warming = fresh.warm_up(("antigravity_is_missing", *["this"] * 10**5))
    assert wait_until(lambda: fresh._warming is not None)
    if ending == "run":
        assert fresh.run("6 * 7").result == "42"
    else:
        fresh.close()
    warming.join(5)
    assert not warming.is_alive()


def test_a_closed_pool_leaves_no_guest():
    require()
    pool = SandboxPool(1, SMALL, preload=())
    assert wait_until(lambda: not pool._ready.empty())
    waiting = pool._ready.get()
    pool._ready.put(waiting)
    pool.close()
    assert waiting._guest is None
    assert not pool._filler.is_alive()


def test_guests_do_not_grow_too_old_in_the_pool():
    require()
    with SandboxPool(1, replace(SMALL, idle_seconds=0.01), preload=()) as pool:
        assert wait_until(lambda: not pool._ready.empty())
        time.sleep(0.05)
        idle.look()
        with pool.take() as sandbox:
            assert sandbox._guest is not None
            time.sleep(0.05)
            idle.look()
            assert sandbox._guest is None


def test_the_pool_tells_whoever_takes_that_nothing_starts():
    with SandboxPool(1, SMALL, preload=("no_such_module",)) as pool, pytest.raises(SandboxError):
        pool.take()
    with pytest.raises(SandboxError, match="pool size"):
        SandboxPool(0)


@pytest.mark.slow
def test_several_take_at_once():
    require()
    with SandboxPool(1, SMALL, preload=()) as pool:
        results = []

        def work():
            with pool.take() as sandbox:
                results.append(sandbox.run("6 * 7").result)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == ["42"] * 2


def test_the_notebook_is_valid_and_holds_everything(fresh):
    for code in (
        "print('hi')\n6 * 7",
        "1/0",
        "from IPython.display import display\ndisplay('shown')",
        "import os; os._exit(1)",
        "'\ud800'",
    ):
        fresh.run(code)
    document = json.loads(json.dumps(fresh.export_notebook(), allow_nan=False))
    kinds = [[output["output_type"] for output in cell["outputs"]] for cell in document["cells"]]
    assert kinds[:4] == [["stream", "execute_result"], ["error"], ["display_data"], ["stream"]]
    assert document["cells"][1]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert document["nbformat"] == 4
    assert all(
        set(cell) == {"cell_type", "id", "metadata", "execution_count", "source", "outputs"}
        for cell in document["cells"]
    )
    if importlib.util.find_spec("nbformat") is not None:
        import nbformat

        nbformat.validate(document)


def test_pictures_reach_the_notebook():
    from test_sandbox_channel import PNG

    from chatglm.sandbox.text import png_or_jpeg

    result = Result("ok", (Output("result", "figure", png_or_jpeg(PNG)),))
    data = notebook([("plot()", result)])["cells"][0]["outputs"][0]["data"]
    assert base64.b64decode(data["image/png"]) == PNG


def test_a_long_history_loses_its_oldest_outputs():
    history = History(100)
    for number in range(5):
        history.add(f"cell {number}", Result("ok", (Output("stdout", str(number) * 40),)))
    cells = notebook(history)["cells"]
    assert [cell["source"] for cell in cells] == [f"cell {number}" for number in range(5)]
    assert ["dropped" in str(cell["outputs"]) for cell in cells] == [True, True, True, False, False]
    assert "4" * 40 in str(cells[4])
