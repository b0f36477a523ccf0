"""Embeddings of a sentence-transformers model beside the model that chats."""

import base64
import json
import struct

import httpx2
import pytest
from running_server import RunningServer

from chatglm.errors import ConfigError
from chatglm.serve.sentences import SentenceModel

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] hello world the capital of france is paris 你 好".split()
TEXTS = ["hello world", "the capital of france is paris", "你好"]
MOST = 12  # tokens


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "modules.json"),
        ("[1", "modules.json"),
        (json.dumps([{"type": "mine.Module", "path": ""}]), "'mine.Module'"),
    ],
)
def test_a_folder_that_is_no_such_model_or_brings_code_is_refused(tmp_path, written, said):
    if written is not None:
        (tmp_path / "modules.json").write_text(written)
    with pytest.raises(ConfigError, match=said):
        SentenceModel(str(tmp_path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random BERT with mean pooling."""
    library = pytest.importorskip("sentence_transformers", reason="comes with the extra embeddings")
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizer, set_seed

    where = tmp_path_factory.mktemp("sentences")
    set_seed(0)
    (where / "vocab.txt").write_text("\n".join(WORDS))
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **shape)).save_pretrained(where / "bert")
    BertTokenizer(str(where / "vocab.txt")).save_pretrained(where / "bert")
    words = Transformer(str(where / "bert"), max_seq_length=MOST)
    pooling = Pooling(words.get_embedding_dimension())
    library.SentenceTransformer(modules=[words, pooling]).save(str(where / "tiny-sentences"))
    return where / "tiny-sentences"


@pytest.fixture(scope="module")
def http(python, folder):
    running = RunningServer(python, "--embedding-model", str(folder), "--log-level", "warning")
    with httpx2.Client(base_url=running.url, timeout=120) as one:
        yield one
    assert running.end() == 0


def asked(http, texts, **more):
    return http.post("/v1/embeddings", json={"model": "tiny-sentences", "input": texts, **more})


def unit(vector):
    length = sum(value * value for value in vector) ** 0.5
    return [value / length for value in vector]


@pytest.mark.slow
def test_vectors_and_counts_are_the_librarys(http, folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder))
    told = asked(http, TEXTS).json()
    for item, vector in zip(told["data"], model.encode(TEXTS).tolist(), strict=True):
        assert item["embedding"] == pytest.approx(unit(vector), abs=1e-5)
    tokens = sum(len(model.tokenizer(text)["input_ids"]) for text in TEXTS)
    assert told["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    raw = base64.b64decode(asked(http, TEXTS[0], encoding_format="base64").json()["data"][0]["embedding"])
    whole = list(struct.unpack("<16f", raw))
    assert whole == pytest.approx(told["data"][0]["embedding"], abs=1e-6)
    part = asked(http, TEXTS[0], dimensions=4).json()["data"][0]["embedding"]
    assert part == pytest.approx(unit(whole[:4]), abs=1e-5)
    many = asked(http, TEXTS * 30).json()["data"]
    assert many[-1]["embedding"] == pytest.approx(told["data"][-1]["embedding"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"input": "hello " * MOST}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": ["hello", ""]}, "input"),
        ({"input": "hello", "pooling": "last"}, "pooling"),
        ({"input": "hello", "dimensions": 17}, "dimensions"),
    ],
)
def test_what_the_model_cannot_do_is_refused(http, given, field):
    answer = http.post("/v1/embeddings", json={"model": "tiny-sentences", **given})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


@pytest.mark.slow
def test_each_model_answers_under_its_name(http):
    assert {card["id"] for card in http.get("/v1/models").json()["data"]} == {"chatglm-tiny", "tiny-sentences"}
    assert http.get("/v1/models/tiny-sentences").json()["id"] == "tiny-sentences"
    own = http.post("/v1/embeddings", json={"model": "chatglm-tiny", "input": "hello"}).json()
    assert len(own["data"][0]["embedding"]) != 16
    said = {"model": "tiny-sentences", "messages": [{"role": "user", "content": "hi"}]}
    assert http.post("/v1/chat/completions", json=said).json()["error"]["code"] == "model_not_found"
