"""`chatglm evaluate` and `chatglm bench` as users call them, and a server that is asked instead of a model."""

import http.server
import json
import shutil
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import DATA, Scripted, evaluate

from chatglm import cli
from chatglm.agent.remote_api import RemoteApi
from chatglm.errors import ConfigError, RemoteError, UsageError
from chatglm.evaluate.asking import Query
from chatglm.evaluate.calls import written_calls
from chatglm.evaluate.command import Progress
from chatglm.evaluate.download import download
from chatglm.evaluate.folder import read_items
from chatglm.evaluate.server import ServerModel, _read, _seconds
from chatglm.evaluate.tasks import TASKS
from chatglm.words import Words

TEXT = "The capital of France is Paris. 你好，世界！\n" * 4


def test_a_run_and_its_repetition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT, encoding="utf-8")
    command = ["evaluate", "--tasks", "mmlu", "--limit", "2", "--data-dir", str(DATA), "--out", str(out)]
    assert cli.main([*command, "--text", str(text), "--lang", "zh"]) == 0
    told = capsys.readouterr().out
    assert "mmlu:letters" in told
    assert "6 题中的 2 题" in told
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["perplexity"][0]["tokens"] > 20
    assert report["speed"]["items"] == 2
    assert report["model"]["weights"]
    assert "困惑度" in (out / "report.md").read_text(encoding="utf-8")
    assert cli.main([*command, "--text", str(text), "--lang", "en"]) == 0
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["speed"]["items"] == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--compare", str(out), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["p"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "--tasks is missing"),
        (["--tasks", "gsm8k"], 2, "--out is missing"),
        (["--tasks", "gsm8k", "--out", "o", "--limit", "0"], 2, "--limit is 0; it must be at least 1"),
        (["--tasks", "gsm8k", "--out", "o", "--shots", "-1"], 2, "--shots is -1"),
        (["--tasks", "needle", "--out", "o", "--needle-depths", "1,101"], 2, "--needle-depths is '1,101'"),
        (["--tasks", "gsm8k", "--out", "o", "--download"], 2, "--download needs --data-dir"),
        (["--text", "x", "--out", "o", "--api-base", "http://127.0.0.1:9/v1"], 2, "--text needs the model itself"),
        (["--tasks", "needle", "--out", "o", "--api-base", "http://127.0.0.1:9/v1"], 1, "does not answer"),
        (["--compare", "no", "none"], 2, "is no folder of a run"),
    ],
)
def test_wrong_use(
    arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["evaluate", *arguments]) == status
    assert words in capsys.readouterr().err


def test_the_list_names_every_protocol_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--list"]) == 0
    told = capsys.readouterr().out
    for task in TASKS.values():
        assert task.licence in told
        assert all(f"{task.name}:{name}" in told for name in task.protocols)


def test_bench_tells_every_figure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatglm.evaluate.bench._READ", 2**20)
    monkeypatch.setattr("chatglm.evaluate.bench.ROUNDS", 2)
    assert cli.main(["bench", "--prompt", "16", "--new", "1", "--batch", "1,2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt"]["rate"] > 0
    assert [one["count"] for one in found["decode"]] == [1, 2]
    assert cli.main(["bench", "--prompt", "4000"]) == 2
    assert "fit into the context, 2048" in capsys.readouterr().err
    assert cli.main(["bench", "--batch", "x"]) == 2


def test_the_bar_guesses_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr("chatglm.evaluate.command.time.monotonic", lambda: next(clock))
    progress = Progress(lambda name, done, total: seen.append(f"{name} {done}/{total}"), Words("en"))
    for done in (5, 6, 7):
        progress("gsm8k.cot", done, 13)
    assert seen == ["gsm8k.cot  5/13", "gsm8k.cot 1:10 left 6/13", "gsm8k.cot 1:00 left 7/13"]


def test_download_tells_the_licence_and_writes_what_the_readers_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(name: str, config: str, split: str) -> list[dict[str, Any]]:
        if name == "cais/mmlu":
            raise ConnectionError("no network\nat all")
        return [{"question": f"1 + {n}?", "answer": f"#### {n + 1}"} for n in range(3)]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    told: list[str] = []
    download([TASKS["gsm8k"]], tmp_path, told.append)
    assert "licence: MIT" in told[0]
    assert evaluate(tmp_path / "out", "gsm8k", data=tmp_path)["tasks"][0]["items"] == 3
    download([TASKS["gsm8k"]], tmp_path, told.append)
    assert len(told) == 2  # test and train; they are there now
    with pytest.raises(ConfigError, match="cais/mmlu cannot be fetched: no network$"):
        download([TASKS["mmlu"]], tmp_path, told.append)
    with pytest.raises(ConfigError, match="CMMLU cannot be fetched through datasets"):
        download([TASKS["cmmlu"]], tmp_path, told.append)


# a server


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as `Scripted` does, in the format of OpenAI; busy now and then."""

    model, busy, tokens = Scripted(), 2, True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, told = self.told(body)
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(data)

    def told(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.path in ("/tokenize", "/detokenize"):  # a token for each character
            if not Handler.tokens:
                return 404, {"error": {"message": "no such path"}}
            if self.path == "/tokenize":
                return 200, {"tokens": list(map(ord, body["prompt"])), "max_model_len": 30_000}
            return 200, {"prompt": "".join(map(chr, body["tokens"]))}
        if Handler.busy:
            Handler.busy -= 1
            return 503, {"error": {"message": "busy"}}
        if body["model"] != "m":
            return 404, {"error": {"message": "no such model"}}
        if "TOO LONG" in str(body):
            return 400, {"error": {"message": "the prompt is too long"}}
        if body.get("echo"):
            rows = [list(text) for text in body["prompt"]]
            choices = [
                {"index": i, "logprobs": {"tokens": [*row, "x"], "token_logprobs": [None] + [-1.0 - i] * len(row)}}
                for i, row in enumerate(rows)
            ]
            return 200, {"choices": choices[::-1], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
        choice = {"index": 0, "text": " 19", "message": {"content": "19"}, "finish_reason": "stop"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("0", 0),
        ("5", 5),
        ("86400", 60),
        (None, 7),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 7),
        ("-1", 7),
        ("nan", 7),
        ("²", 7),
    ],
)
def test_how_long_a_busy_server_is_left_alone(told: str | None, seconds: float) -> None:
    assert _seconds(told, 7) == seconds


def test_a_server_is_asked(tmp_path: Path, address: str) -> None:
    model = ServerModel(RemoteApi(address), "m", 4)
    report = evaluate(tmp_path, "gsm8k,mmlu,longbench", model, limit=6)
    assert [task["items"] for task in report["tasks"]] == [5, 6, 6]
    assert {row["extracted"] for row in read_items(tmp_path)["mmlu.letters"].values()} == {"A"}
    assert {row["extracted"] for row in read_items(tmp_path)["gsm8k.cot"].values()} == {"19"}
    assert model.speed() == {"prompt_tokens": 5 * 5 + 6 * 9 + 6 * 5, "new_tokens": 5 + 6 * 4 + 6}


def test_what_a_server_refuses_is_wrong_and_counted(tmp_path: Path, address: str) -> None:
    (tmp_path / "gsm8k").mkdir()
    rows = [{"question": "TOO LONG", "answer": "19"}, {"question": "short", "answer": "19"}]
    (tmp_path / "gsm8k" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    [task] = evaluate(tmp_path / "out", "gsm8k", ServerModel(RemoteApi(address), "m"), tmp_path)["tasks"]
    assert task["score"] == 50
    assert task["counts"] == {"refused": 1, "nothing written": 1, "no answer found": 1}
    with pytest.raises(RemoteError, match="404: no such model"):
        evaluate(tmp_path / "other", "gsm8k", ServerModel(RemoteApi(address), "n"))


def test_a_server_that_tells_tokens_is_asked_without_the_middle(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "longbench").mkdir()
    for name in ("dataset2prompt.json", "dataset2maxlen.json"):
        shutil.copyfile(DATA / "longbench" / name, tmp_path / "longbench" / name)
    text = "".join(f"{number} is even. " for number in range(0, 6000, 2))
    row = {"input": "?", "context": text, "answers": ["19"], "all_classes": None, "dataset": "samsum"}
    (tmp_path / "longbench" / "samsum.jsonl").write_text(json.dumps(row) + "\n")
    [task] = evaluate(tmp_path / "out", "longbench", ServerModel(RemoteApi(address), "m"), tmp_path)["tasks"]
    [line] = read_items(tmp_path / "out")["longbench.official"].values()
    assert len(line["prompt"]) + line["dropped"] > 31_500
    assert 29_000 < len(line["prompt"]) < 30_000
    assert "0 is even. 2 is even." in line["prompt"]
    assert "5998 is even." in line["prompt"]
    assert task["counts"]["prompts shortened"] == 1
    monkeypatch.setattr(Handler, "tokens", False)
    with pytest.raises(UsageError, match="1 prompts may have more; that needs a server that answers /tokenize"):
        evaluate(tmp_path / "other", "longbench", ServerModel(RemoteApi(address), "m"), tmp_path)
    short = ServerModel(RemoteApi(address), "m")
    assert evaluate(tmp_path / "short", "longbench", short, limit=1)["tasks"][0]["items"] == 1


def test_calls_of_a_server_are_read_like_those_of_a_model() -> None:
    query = Query("k", "?", chat=True, tools=[{"name": "a", "parameters": {}}])

    def text(message: dict[str, Any]) -> str:
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return _read(query, {"choices": [choice]}).text

    calls = [{"id": "1", "function": {"name": "a", "arguments": arguments}} for arguments in ('{"x": [1, "b"]}', "{}")]
    said = text({"role": "assistant", "content": "Well.", "tool_calls": calls, "refusal": None})
    assert written_calls(said, ["a"]) == [
        {"name": "a", "arguments": {"x": [1, "b"]}},
        {"name": "a", "arguments": {}},
    ]
    broken = [{"function": {"name": "a", "arguments": "{x"}}]
    assert text({"content": None, "tool_calls": broken}) == ""
    assert text({"content": "no"}) == "no"


@pytest.mark.slow
def test_our_own_server_gives_the_scores_of_the_model_it_serves(tmp_path: Path, python: list[str]) -> None:
    from serve.running_server import RunningServer

    import chatglm
    from chatglm.evaluate.local import LocalModel

    tasks = "gsm8k,mmlu,mmlu:letters-bare,ceval,cmmlu:written,needle"
    running = RunningServer(python, "--log-level", "warning", "--name", "m", "--dtype", "float32")
    try:
        needle = {"lengths": [256], "depths": [50]}
        there = ServerModel(RemoteApi(f"{running.url}/v1"), "m")
        evaluate(tmp_path / "there", tasks.rpartition(",")[0], there)
        here = LocalModel(*chatglm.load(dtype="float32", device="cpu"), "m")
        evaluate(tmp_path / "here", tasks, here, needle=needle)
        for text in (TEXT * 400, "上海 " * 3000, "short"):  # the middle is left out alike
            query = Query("k", text, max_tokens=64)
            fitting, dropped = there._fitting(query)
            assert (fitting.text, dropped) == here._shortened(query)
            assert (dropped > 0) == (text != "short")
    finally:
        running.end()
    ours = read_items(tmp_path / "here")
    for name, rows in read_items(tmp_path / "there").items():
        for key, row in rows.items():
            assert row["extracted"] == ours[name][key]["extracted"], (name, key)
            assert row.get("logprobs", {}).keys() == ours[name][key].get("logprobs", {}).keys()
