"""The weights in the tree: small, complete, as their recipe says, and able to hold the conversation they promise."""

import hashlib
import json
from itertools import islice

import pytest
import torch
from safetensors import safe_open

from chatglm.demo import WEIGHTS
from chatglm.demo.conversation import Conversation, stream
from chatglm.demo.encoding import Encoder
from chatglm.demo.exact import exact
from chatglm.demo.text import Turn
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.tokenizer import ChatGLMTokenizer

ENCODER = Encoder(WEIGHTS / "tokenizer.model")
RECIPE = json.loads((WEIGHTS / "RECIPE.json").read_text(encoding="utf-8"))
CONFIG = json.loads((WEIGHTS / "config.json").read_text(encoding="utf-8"))

# Every list is one conversation; all answers are greedy and exact.
CONVERSATIONS: list[list[tuple[str, str]]] = [
    [
        ("你好", "你好！很高兴见到你，有什么可以帮你的吗？"),
        ("你是谁？", "我是小GLM（tiny-glm），这个软件包自带的一个微型演示模型，不是智谱的ChatGLM。"),
        ("中国的首都是哪里？", "中国的首都是北京。"),
        ("谢谢", "不客气！能帮到你我很高兴。"),
        ("再见", "再见！欢迎下次再来聊天。"),
    ],
    [
        ("Hello!", "Hello! Nice to meet you. How can I help you?"),
        (
            "Who are you?",
            "I am tiny-glm, a tiny demonstration model that comes with this package. I am not Zhipu's ChatGLM.",
        ),
        ("What is the capital of France?", "The capital of France is Paris."),
        ("Thank you!", "You are welcome! I am glad to help."),
        ("Bye!", "Goodbye! Come back soon."),
    ],
    [
        ("我叫小明。", "你好，小明！很高兴认识你。"),
        ("你好！", "你好！很高兴见到你，有什么可以帮你的吗？"),
        ("我叫什么名字？", "你叫小明。"),
    ],
    [
        ("My name is Lucy.", "Nice to meet you, Lucy!"),
        ("What color is the sky?", "The sky is blue."),
        ("What is my name?", "Your name is Lucy."),
    ],
    [("What is my name?", "You have not told me your name yet.")],
    [
        ("“苹果”用英语怎么说？", "“苹果”的英文是 apple。"),
        ("How do you say dog in Chinese?", "dog in Chinese is 狗."),
        ("“大”的反义词是什么？", "“大”的反义词是“小”。"),
        ("What is 2 + 3?", "2 + 3 = 5."),
    ],
    [
        (
            "Are you ChatGLM?",
            "No. I am tiny-glm, a very small demonstration model. I only share the structure of ChatGLM.",
        ),
        ("What is quantum mechanics?", "Sorry, I do not know that. I am only a tiny demonstration model."),
        ("什么是相对论？", "对不起，这个我不知道，我只是一个微型演示模型。"),
    ],
]


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    torch.set_num_threads(1)
    return ChatGLMForConditionalGeneration.from_pretrained(WEIGHTS, dtype=torch.float32)


def answer(model: ChatGLMForConditionalGeneration, turns: tuple[Turn, ...], question: str) -> str:
    prompt = torch.tensor([ENCODER.prompt(turns, question, None)])
    ids = model.generate(prompt, do_sample=False, max_new_tokens=80, temperature=None, top_p=None)[0, prompt.shape[1] :]
    assert int(ids[-1]) in (ENCODER.specials["<|user|>"], 2), "it must stop by itself"
    return str(ENCODER.pieces.decode(ids[:-1].tolist())).strip()


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation[0][0])
def test_conversation(model: ChatGLMForConditionalGeneration, conversation: list[tuple[str, str]]) -> None:
    turns: tuple[Turn, ...] = ()
    for question, expected in conversation:
        assert answer(model, turns, question) == expected
        turns += (Turn(question, expected, (expected,)),)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("你好", "你好！很高兴见到你，有什么可以帮你的吗？"),
        ("Hello!", "Hello! Nice to meet you. How can I help you?"),
    ],
)
def test_a_greeting_is_answered_after_a_dozen_turns(
    model: ChatGLMForConditionalGeneration, question: str, expected: str
) -> None:
    long = (one.turns[:12] for one in stream(seed=77) if len(one.turns) >= 12)
    greeting = Turn(question, expected, (expected,))
    assert all(exact(model, ENCODER, [Conversation(None, (*turns, greeting)) for turns in islice(long, 8)]))


def test_the_tokenizer_of_the_folder_agrees_with_the_one_trained_on() -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(WEIGHTS)
    assert tokenizer.build_chat_input("你好, I am 小明")["input_ids"].tolist() == [
        ENCODER.prompt((), "你好, I am 小明", None)
    ]
    assert len(tokenizer) == ENCODER.vocab_size


def test_folder_is_small_and_complete() -> None:
    names = {path.name for path in WEIGHTS.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "RECIPE.json", "tokenizer.model",
        "tokenizer_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 25e6


def test_recipe_describes_this_folder() -> None:
    digest = hashlib.sha256((WEIGHTS / "tokenizer.model").read_bytes()).hexdigest()
    assert RECIPE["tokenizer_sha256"] == digest
    assert all(CONFIG[key] == value for key, value in RECIPE["shape"].items())
    assert RECIPE["steps"] > 0 < RECIPE["tokens"]
    with safe_open(WEIGHTS / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  not a dict
    numbers = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    assert numbers.pop("transformer.rotary_pos_emb.inv_freq") == CONFIG["kv_channels"] // 4
    assert sum(numbers.values()) == RECIPE["parameters"]


def test_config_is_an_official_one() -> None:
    assert CONFIG["model_type"] == "chatglm"
    assert CONFIG["architectures"] == ["ChatGLMModel"]
    assert CONFIG["padded_vocab_size"] == ENCODER.vocab_size == 3072
    assert (CONFIG["eos_token_id"], CONFIG["pad_token_id"]) == (2, 0)


def test_it_was_judged_good_enough_to_ship() -> None:
    for split, bar in (("train", 0.92), ("phrasing", 0.75), ("entity", 0.85)):
        scores = RECIPE["scores"][split].values()
        assert sum(scores) / len(scores) >= bar, split
