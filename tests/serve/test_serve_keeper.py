"""Front and keeper of a cluster without Ray: what is kept, whose it is, and who answers the rows of a batch."""

import asyncio
import json
from types import SimpleNamespace

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from chatglm.serve.access import Keys
from chatglm.serve.cluster.asked import AskedApp
from chatglm.serve.cluster.front import Front
from chatglm.serve.cluster.keeper import Keeper
from chatglm.serve.config import ServerConfig
from chatglm.serve.routing import home_of


class Answer:
    """A stream of Ray's."""

    def __init__(self, pieces):
        self.pieces = pieces

    def __aiter__(self):
        return self.pieces

    def cancel(self):
        pass


class Handle:
    """A handle of Ray's: one part after the other is asked."""

    def __init__(self, *parts):
        self.parts, self.asked, self.answer = parts, 0, self

    def options(self, **_):
        return self

    def remote(self, asked):
        self.asked += 1
        return Answer(self.parts[self.asked % len(self.parts)].answer(asked))

    def broadcast(self, method, asked):
        async def results():
            return [await getattr(part, method)(asked) for part in self.parts]

        return SimpleNamespace(results_async=results)


def replica(number):
    """Tells its number, and whose key it was told of."""

    async def app(scope, receive, send):
        body = json.loads((await receive())["body"] or b"{}")
        said = {"number": number, "key": scope.get("state", {}).get("key"), "said": body, "data": [{"id": number}]}
        await JSONResponse(said)(scope, receive, send)

    return AskedApp(SimpleNamespace(at_start=[]), app)


class Cluster:
    """What clients reach, with so many replicas; used on one event loop."""

    def __init__(self, folder, *keys, **config):
        settings = ServerConfig(alone=False, files_dir=folder and str(folder), **config)
        replicas = Handle(replica(0), replica(1))
        self.keeper = Keeper(replicas, settings, Keys(keys)) if folder else None
        self.front = Front(replicas, Handle(self.keeper) if folder else None, settings, Keys(keys))

    async def __call__(self, scope, receive, send):
        if self.keeper is not None:
            await self.keeper.check_health()
        response = await self.front(Request(scope, receive))
        await response(scope, receive, send)

    def client(self, key="first"):
        transport = httpx2.ASGITransport(self)
        headers = {"Authorization": f"Bearer {key}"}
        return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)


ROWS = [{"custom_id": f"{n}", "method": "POST", "url": "/v1/completions", "body": {"prompt": n}} for n in range(6)]
BATCH = {"endpoint": "/v1/completions", "completion_window": "24h"}


async def uploaded(http):
    file = {"file": ("rows.jsonl", "\n".join(map(json.dumps, ROWS)))}
    return (await http.post("/v1/files", files=file, data={"purpose": "batch"})).json()


def test_rows_of_a_batch_are_answered_by_all_replicas_for_the_key_that_made_it(tmp_path):
    async def go():
        cluster = Cluster(tmp_path, "first", "second")
        async with cluster.client() as http, cluster.client("second") as other:
            file = await uploaded(http)
            batch = (await http.post("/v1/batches", json=BATCH | {"input_file_id": file["id"]})).json()
            while batch["status"] != "completed":
                await asyncio.sleep(0)
                batch = (await http.get(f"/v1/batches/{batch['id']}")).json()
            lines = (await http.get(f"/v1/files/{batch['output_file_id']}/content")).text.splitlines()
            bodies = {row["custom_id"]: row["response"]["body"] for row in map(json.loads, lines)}
            assert {name: body["said"]["prompt"] for name, body in bodies.items()} == {f"{n}": n for n in range(6)}
            assert {body["number"] for body in bodies.values()} == {0, 1}
            assert {body["key"] for body in bodies.values()} == {f"{Keys(['first']).check('Bearer first')}/batch"}
            for path in (f"/v1/files/{file['id']}", f"/v1/batches/{batch['id']}"):
                assert (await other.get(path)).status_code == 404
            assert (await http.post("/v1/completions", json={"prompt": 0})).json()[
                "key"
            ] is None  # never a client's word

    asyncio.run(go())


def test_a_keeper_that_takes_anothers_place_goes_on(tmp_path):
    async def go():
        first = Cluster(tmp_path)
        async with first.client() as http:
            file = await uploaded(http)
            batch = (await http.post("/v1/batches", json=BATCH | {"input_file_id": file["id"]})).json()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # it is gone before a row was answered
            task.cancel()
        async with Cluster(tmp_path).client() as http:
            while (told := (await http.get(f"/v1/batches/{batch['id']}")).json())["status"] != "completed":
                await asyncio.sleep(0)
            assert told["request_counts"] == {"total": 6, "completed": 6, "failed": 0}

    asyncio.run(go())


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/files/x/content"])
def test_without_a_place_for_them_files_are_refused_by_name_and_strangers_first(path):
    async def go():
        cluster = Cluster(None, "first")
        async with cluster.client("wrong") as stranger, cluster.client() as http:
            assert (await stranger.get(path)).status_code == 401
            assert (await http.get(path)).json()["error"]["code"] == "no_files"

    asyncio.run(go())


def test_conversations_of_all_replicas_are_one_list():
    async def go():
        async with Cluster(None, agent=True).client() as http:
            assert (await http.get("/v1/agent/conversations")).json()["data"] == [{"id": 0}, {"id": 1}]

    asyncio.run(go())


def test_the_id_of_a_conversation_names_its_replica():
    assert home_of("/v1/agent/conversations/conv_ab12-0f/messages") == "ab12"
    assert home_of("/v1/agent/conversations/conv_0f/messages") is None
    assert home_of("/v1/files/conv_ab12-0f") is None
