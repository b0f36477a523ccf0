"""Replicas on Ray Serve: they answer as one server, and when one of them is killed nobody is left without a word."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace

import httpx2
import openai
import pytest
from running_server import RunningServer

from chatglm.errors import ConfigError
from chatglm.serve.config import ServerConfig

MODEL = "chatglm-tiny"


def asked(text, tokens=40, **more):
    said = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": said, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}


# what is refused before anything starts


@pytest.mark.parametrize(
    "options",
    [{"replicas": "0"}, {"replicas": "x"}, {"replicas": "3-2"}, {"replica_cpus": 0.0}, {"replica_gpus": -1.0}],
)
def test_sizes_that_make_no_sense_are_refused(options):
    from chatglm.serve.cluster.deploy import Size

    with pytest.raises(ConfigError, match="--replica"):
        Size.of(Namespace(**({"replicas": None, "replica_cpus": None, "replica_gpus": None} | options)))


def test_what_one_server_keeps_cannot_be_had_of_several():
    with pytest.raises(ConfigError, match="--allow-lora"):
        ServerConfig(alone=False, allow_lora=".")


# the rest needs Ray


def need_ray():
    pytest.importorskip("ray.serve", reason="ray comes with the extra cluster", exc_type=ImportError)


@pytest.fixture(scope="module")
def cluster():
    need_ray()
    options = ["--max-body-bytes", "50000", "--agent", "--tools", "calculator", "--log-level", "warning"]
    running = RunningServer([sys.executable], "--replicas", "2", *options)
    yield running
    assert running.end() == 0


def replicas_of(server, kind="replica"):
    """Process ids, those of this server's Ray only."""
    table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()[1:]]
    below = {str(server.process.pid)}
    while more := {row[0] for row in rows if row[1] in below} - below:
        below |= more
    return [int(row[0]) for row in rows if row[0] in below and f"ServeReplica:chatglm:{kind}" in row[2]]


@pytest.mark.slow
def test_replicas_answer_as_one_server_does(cluster, server):
    for text in ("你好", "What is the capital of France?"):
        alone, several = (
            openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=0) for one in (server, cluster)
        )
        body = asked(text)
        ignore = {"extra_body": {"ignore_eos": body.pop("ignore_eos")}}
        whole = alone.chat.completions.create(**body, **ignore).choices[0].message.content
        assert several.chat.completions.create(**body, **ignore).choices[0].message.content == whole
        pieces = several.chat.completions.create(**body, **ignore, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole


@pytest.mark.slow
def test_refusals_are_those_of_one_server(cluster):
    with httpx2.Client(base_url=cluster.url) as http:
        assert http.post("/v1/completions", json={"model": MODEL}).json()["error"]["param"] == "prompt"
        assert http.post("/v1/messages", json={"model": MODEL}).json()["type"] == "error"
        assert http.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
        assert http.post("/v1/completions", content=b"x" * 60000).status_code == 413
        assert http.get("/v1/files/file-" + "0" * 32).json()["error"]["code"] == "file_not_found"
        assert http.post("/v1/load_lora_adapter", json={}).status_code == 404
        assert http.get("/health").json() == {"status": "ok"}


@pytest.mark.slow
def test_conversations_stay_with_their_replica(cluster):
    route = "/v1/agent/conversations"
    with httpx2.Client(base_url=cluster.url, timeout=60) as http:
        opened = [http.post(route, json={"temperature": 0, "max_new_tokens": 8}).json()["id"] for _ in range(6)]
        for conversation in opened:
            for text in ("hi", "again"):
                said = http.post(f"{route}/{conversation}/messages", json={"text": text})
                assert said.status_code == 200
                assert said.text.rstrip().endswith("data: [DONE]")
            assert len(http.get(f"{route}/{conversation}").json()["messages"]) == 5  # the system's too
        assert sorted(card["id"] for card in http.get(route).json()["data"]) == sorted(opened)
        assert len({conversation.split("-")[0] for conversation in opened}) == 2  # both have some
        for conversation in opened:
            assert http.delete(f"{route}/{conversation}").json()["deleted"]
        assert http.get(f"{route}/{opened[0]}").json()["error"]["code"] == "conversation_not_found"
        assert http.get(route).json()["data"] == []


@pytest.mark.slow
def test_a_replica_that_is_killed_under_load_loses_no_request_silently(cluster):
    count, found, begun = 16, {}, threading.Semaphore(0)

    def ask(index):
        body = asked(f"question {index}", 300, stream=index % 2 == 0)
        with httpx2.stream("POST", f"{cluster.url}/v1/chat/completions", json=body, timeout=120) as answer:
            lines = []
            for line in answer.iter_lines():
                if len(lines) == 6:
                    begun.release()
                lines += [line] if line else []
            found[index] = answer.status_code, lines

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for _ in range(count // 2):  # all streams have begun
        assert begun.acquire(timeout=60)
    os.kill(replicas_of(cluster)[0], signal.SIGKILL)
    for thread in threads:
        thread.join(120)
    assert sorted(found) == list(range(count))
    whole = broken = 0
    for index, (status, lines) in found.items():
        if index % 2:  # asked of another replica
            assert status == 200
            assert json.loads("".join(lines))["usage"]["completion_tokens"] == 300
        elif lines[-1] == "data: [DONE]":
            whole += 1
        else:
            assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "replica_failed"
            broken += 1
    assert whole
    assert broken
    last = time.monotonic() + 120
    while len(replicas_of(cluster)) < 2:  # another one takes its place
        assert time.monotonic() < last
        time.sleep(0.2)
    assert httpx2.post(f"{cluster.url}/v1/chat/completions", json=asked("hi"), timeout=60).status_code == 200


def batch_of(http, count, tokens):
    """A batch of so many rows that has begun."""
    rows = [
        {"custom_id": str(index), "method": "POST", "url": "/v1/chat/completions",
         "body": asked(f"question {index}", tokens)}
        for index in range(count)
    ]  # fmt: skip
    file = {"file": ("rows.jsonl", "\n".join(map(json.dumps, rows)))}
    sent = http.post("/v1/files", files=file, data={"purpose": "batch"}).json()
    body = {"input_file_id": sent["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return http.post("/v1/batches", json=body).json()


def finished(http, batch):
    """The batch when it is over, and its answers by their ids."""
    last = time.monotonic() + 300
    while batch["status"] not in ("completed", "failed"):
        assert time.monotonic() < last
        time.sleep(0.2)  # asking costs the replicas
        answer = http.get(f"/v1/batches/{batch['id']}")
        batch = answer.json() if answer.status_code == 200 else batch  # while another keeper comes
    lines = http.get(f"/v1/files/{batch['output_file_id']}/content").text.splitlines()
    return batch, {row["custom_id"]: row["response"]["body"] for row in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["nobody", "replica", "keeper"])
def test_a_batch_is_answered_whoever_dies(cluster, killed):
    with httpx2.Client(base_url=cluster.url, timeout=60) as http:
        batch = batch_of(http, 24, 100)
        while killed != "nobody" and not batch["request_counts"]["completed"]:
            time.sleep(0.1)
            batch = http.get(f"/v1/batches/{batch['id']}").json()
        if killed != "nobody":
            os.kill(replicas_of(cluster, killed)[0], signal.SIGKILL)
        batch, answers = finished(http, batch)
        assert batch["request_counts"] == {"total": 24, "completed": 24, "failed": 0}
        assert sorted(answers, key=int) == [str(index) for index in range(24)]
        assert all(answer["usage"]["completion_tokens"] == 100 for answer in answers.values())


@pytest.mark.slow
def test_a_rolling_update_on_a_cluster_refuses_nobody(python, unused_port):
    need_ray()
    head = subprocess.Popen(
        [sys.executable, "-c", "import ray; print(ray.init(address='local', num_cpus=2, include_dashboard=False)"
         ".address_info['gcs_address'], flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = head.stdout.readline().strip()
        options = ["--cluster", address, "--replicas", "2", "--replica-cpus", "0.5", "--port", str(unused_port)]
        command = [*python, "-m", "chatglm", "serve", *options]
        subprocess.run([*command, "--name", MODEL, "--alias", "old"], check=True, timeout=200)
        url, statuses, done = f"http://127.0.0.1:{unused_port}", [], threading.Event()

        def ask():
            while not done.is_set():
                statuses.append(httpx2.post(f"{url}/v1/chat/completions", json=asked("hi", 5), timeout=60).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        subprocess.run([*command, "--name", MODEL, "--alias", "new"], check=True, timeout=200)
        done.set()
        asking.join(60)
        assert set(statuses) == {200}
        assert {card["id"] for card in httpx2.get(f"{url}/v1/models").json()["data"]} == {MODEL, "new"}
    finally:
        head.communicate("\n", timeout=60)


@pytest.mark.slow
def test_there_are_more_replicas_while_there_is_work():
    need_ray()
    server = RunningServer([sys.executable], "--replicas", "1-2", "--max-batch", "2", "--log-level", "warning")
    done, statuses = threading.Event(), []

    def ask():
        while not done.is_set():
            answer = httpx2.post(f"{server.url}/v1/chat/completions", json=asked("hi", 500), timeout=120)
            statuses.append(answer.status_code)

    try:
        assert len(replicas_of(server)) == 1
        asking = [threading.Thread(target=ask) for _ in range(8)]
        for thread in asking:
            thread.start()
        last = time.monotonic() + 300
        while len(replicas_of(server)) < 2:
            assert time.monotonic() < last
            time.sleep(0.5)
        done.set()
        for thread in asking:
            thread.join(120)
        assert set(statuses) == {200}
    finally:
        done.set()
        assert server.end() == 0


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
