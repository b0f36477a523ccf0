"""Adapters that clients load, the route of the official ChatGLM2 server, and the app's description of itself."""

import json
import re

import httpx2
import openai
import pytest
import torch
from running_server import RunningServer
from safetensors.torch import save_file

from chatglm.loading import demo_folder, load
from chatglm.model.adapters import attach_lora
from chatglm.own_engine import engine_for

MODEL = "chatglm-tiny"
MODULES = ("self_attention.query_key_value", "mlp.dense_h_to_4h")


def make_adapter(folder, seed, **options):
    """A LoRA folder for the embedded model, as peft writes one."""
    config = json.loads((demo_folder() / "config.json").read_text())
    head, groups = config["kv_channels"], config["multi_query_group_num"]
    hidden, inner = config["hidden_size"], config["ffn_hidden_size"]
    sizes = {MODULES[0]: hidden + 2 * groups * head, MODULES[1]: 2 * inner}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_layers"]):
        for module, size in sizes.items():
            name = f"base_model.model.transformer.encoder.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, hidden, generator=generator) * 0.3
            tensors[f"{name}.lora_B.weight"] = torch.randn(size, 4, generator=generator) * 0.3
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query_key_value", "dense_h_to_4h"]}
    (folder / "adapter_config.json").write_text(json.dumps(told | {"task_type": "CAUSAL_LM"} | options))
    return folder


@pytest.fixture(scope="module")
def allowed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    make_adapter(folder / "in" / "poet", 1)
    make_adapter(folder / "in" / "rank_stabilized", 2, use_rslora=True)
    make_adapter(
        folder / "in" / "patterns",
        6,
        alpha_pattern={"dense_h_to_4h": 32, "layers.0.self_attention.query_key_value": 16},
    )
    make_adapter(folder / "in" / "dora", 3, use_dora=True)
    make_adapter(folder / "outside", 4)
    (folder / "in" / "link").symlink_to(folder / "outside")
    half = make_adapter(folder / "in" / "half_outside", 5)
    (half / "adapter_model.safetensors").unlink()
    (half / "adapter_model.safetensors").symlink_to(folder / "outside" / "adapter_model.safetensors")
    (folder / "in" / "empty").mkdir()
    return folder / "in"


@pytest.fixture(scope="module")
def open_server(python, allowed):
    running = RunningServer(python, "--allow-lora", str(allowed), "--legacy")
    yield running
    running.end()


@pytest.fixture(scope="module")
def http(open_server):
    with httpx2.Client(base_url=open_server.url, timeout=120) as one:
        yield one


@pytest.mark.parametrize("name", ["poet", "rank_stabilized", "patterns"])
def test_an_adapter_answers_as_it_does_attached_by_peft(http, open_server, allowed, name):
    model, tokenizer = load()
    attached = attach_lora(model, allowed / name)
    engine = engine_for(attached, tokenizer)
    ids = http.post("/tokenize", json={"messages": [{"role": "user", "content": "你好"}]}).json()["tokens"]
    from chatglm.engine.request import SamplingParams

    expected = engine.generate([ids], SamplingParams(temperature=0, max_tokens=12))[0]
    loaded = http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": name})
    assert loaded.status_code == 200, loaded.text
    with openai.OpenAI(base_url=f"{open_server.url}/v1", api_key="x", max_retries=0) as client:
        assert name in [model.id for model in client.models.list()]

        def said(model):
            asked = {"prompt": ids, "max_tokens": 12, "temperature": 0, "logprobs": 0}
            return client.completions.create(model=model, **asked).choices[0].text

        assert said(name) == "".join(expected.decoded)
        assert said(MODEL) != said(name)
    again = http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": name})
    assert (again.status_code, again.json()["error"]["param"]) == (400, "lora_name")
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": name}).status_code == 200
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": name}).status_code == 404
    asked = {"model": name, "prompt": ids, "max_tokens": 1}
    assert http.post("/v1/completions", json=asked).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "../outside", "/etc", "link", "half_outside", "empty", "none", "dora", "poet/../../outside", "\0"],
)
def test_only_adapters_below_the_folder_are_loaded(http, allowed, path):
    for place in (path, str(allowed / path) if path.isprintable() else path):
        answer = http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": place})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == "lora_path"
    assert "outside/" not in answer.text


@pytest.mark.parametrize("name", [MODEL, "", "../x", "a b", "x" * 65])
def test_names_of_adapters(http, name):
    answer = http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": "poet"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "lora_name"


def test_nothing_of_this_is_there_unless_asked_for(server):
    for path in ("/", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/agent/conversations"):
        assert httpx2.post(f"{server.url}{path}", json={"prompt": "hi"}).status_code == 404


# the official route


def test_the_official_route(http):
    answer = http.post("/", json={"prompt": "你好", "history": []}).json()
    assert answer["status"] == 200
    assert answer["history"] == [["你好", answer["response"]]]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", answer["time"])
    more = {"prompt": "Hello", "max_length": 400, "top_p": 0.7, "temperature": 0.01, "history": answer["history"]}
    more = http.post("/", json=more).json()
    assert [pair[0] for pair in more["history"]] == ["你好", "Hello"]
    assert more["history"][1][1] == more["response"] != ""
    said = [{"role": "user", "content": "你好"}, {"role": "assistant", "metadata": "", "content": "你好！"}]
    newer = http.post("/", json={"prompt": "Hello", "history": said}).json()
    assert newer["history"][:2] == said
    assert newer["history"][3]["content"] == newer["response"]


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": "a", "max_length": 3}, "max_length"),
     ({"prompt": "a", "history": [["one"]]}, "history"), ({"prompt": "a", "top_p": 3}, "top_p")],
)  # fmt: skip
def test_wrong_requests_to_it(http, body, param):
    answer = http.post("/", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)


# the description


def test_the_description_holds_whatever_it_refers_to(http):
    page = http.get("/openapi.json").json()
    text = json.dumps(page)
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names <= set(page["components"]["schemas"])
    assert "ChatMessage" in names
    assert '"$defs"' not in text
    assert {"/v1/chat/completions", "/v1/files", "/v1/batches", "/v1/load_lora_adapter", "/"} <= set(page["paths"])


@pytest.mark.parametrize("options", [["--tools", "calculator"], ["--code"], ["--allow-lora", "/none"]])
def test_options_that_do_not_fit_together(options, capsys):
    from chatglm import cli

    assert cli.main(["serve", *options]) == 1
    assert "error" in capsys.readouterr().err
