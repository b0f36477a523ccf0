"""One way from a model to its engine; and public calls that say what would be right where something is wrong."""

import inspect
from typing import Any

import pytest
import torch
from golden_data import golden_file

import chatglm
from chatglm.errors import ChatGLMError, PromptError, RequestError
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.tokenizer import ChatGLMTokenizer
from chatglm.official import chat as official

TOKENIZER = ChatGLMTokenizer(str(golden_file("tiny_tokenizer/tokenizer.model")), version="chatglm3")


@pytest.fixture(scope="module")
def model() -> Any:
    return ChatGLMForConditionalGeneration.from_pretrained(golden_file("generation") / "model").eval()


def test_without_options_it_is_the_one_that_chat_uses(model: Any) -> None:
    engine = chatglm.engine_for(model, TOKENIZER)
    steps = engine.stats().steps
    model.chat(TOKENIZER, "你好", do_sample=False, max_new_tokens=5)
    assert engine.stats().steps > steps
    assert chatglm.engine_for(model, TOKENIZER) is engine


def test_options_change_themselves_and_nothing_else(model: Any) -> None:
    usual = chatglm.engine_for(model, TOKENIZER)
    other = chatglm.engine_for(model, TOKENIZER, max_running=3, prefix_cache=False)
    assert other is not usual
    assert chatglm.engine_for(model, TOKENIZER) is usual
    changed = {"max_running": 3, "prefix_cache": False, "kv_memory": other.config.kv_memory}
    fields = usual.config.__dataclass_fields__
    assert {name: getattr(other.config, name) for name in fields} == {
        name: changed.get(name, getattr(usual.config, name)) for name in fields
    }


def test_it_stops_and_speaks(model: Any) -> None:
    """Stop tokens, decoder and texts of the tokenizer: answers end, and stop strings and bad words work."""
    prompt = TOKENIZER.build_chat_input("你好")["input_ids"][0].tolist()
    for options in ({}, {"block_size": 8}):
        engine = chatglm.engine_for(model, TOKENIZER, **options)
        assert set(engine.config.stop_token_ids) == set(TOKENIZER.stop_ids)
        params = chatglm.SamplingParams(temperature=0, max_tokens=8)
        answer = engine.wait(engine.submit(prompt, params))
        assert answer.text == TOKENIZER.decode(list(answer.token_ids)) != ""
        words = chatglm.SamplingParams(temperature=0, max_tokens=8, bad_words=[answer.text[2]], stop=["\ufffe"])
        assert answer.text[2] not in engine.wait(engine.submit(prompt, words)).text


def test_a_draft_model(model: Any) -> None:
    engine = chatglm.engine_for(model, TOKENIZER, draft_model=model)
    params = chatglm.SamplingParams(temperature=0, max_tokens=8, draft="model")
    drafted = engine.wait(engine.submit([5, 6, 7], params)).token_ids
    plain = chatglm.engine_for(model, TOKENIZER)
    assert drafted == plain.wait(plain.submit([5, 6, 7], chatglm.SamplingParams(temperature=0, max_tokens=8))).token_ids


WRONG: list[tuple[str, Any]] = [
    ("tokenizer stands where the model", lambda model: chatglm.engine_for(TOKENIZER, model)),
    ("model is None", lambda model: chatglm.engine_for(None, TOKENIZER)),
    ("model is 'THUDM/chatglm3-6b'", lambda model: chatglm.engine_for("THUDM/chatglm3-6b", TOKENIZER)),
    ("model is a Linear", lambda model: chatglm.engine_for(torch.nn.Linear(1, 1), TOKENIZER)),
    ("tokenizer is None", lambda model: chatglm.engine_for(model, None)),
    ("tokenizer is a ChatGLMForCond", lambda model: chatglm.engine_for(model, model)),
    (r"no options \['max_runing'\]", lambda model: chatglm.engine_for(model, TOKENIZER, max_runing=3)),
    ("draft_model is a str", lambda model: chatglm.engine_for(model, TOKENIZER, draft_model="x")),
    ("prompt_lookup_num_tokens is 'a'", lambda model: model.chat(TOKENIZER, "hi", prompt_lookup_num_tokens="a")),
    ("prompt_lookup_num_tokens is -1", lambda model: model.chat(TOKENIZER, "hi", prompt_lookup_num_tokens=-1)),
    ("max_running is 0", lambda model: chatglm.engine_for(model, TOKENIZER, max_running=0)),
    ("tokenizer is 'hi'; .*chat\\(tokenizer, query\\)", lambda model: model.chat("hi", TOKENIZER)),
    ("tokenizer is 'hi'", lambda model: next(model.stream_chat("hi", TOKENIZER))),
    ("query is None", lambda model: model.chat(TOKENIZER, None)),
    (r"query is \['hi'\]", lambda model: model.chat(TOKENIZER, ["hi"])),
    ("query is 3", lambda model: next(model.stream_chat(TOKENIZER, 3))),
    ("history is 'hi'", lambda model: model.chat(TOKENIZER, "hi", "hi")),
    ("history is {", lambda model: model.chat(TOKENIZER, "hi", {"role": "user", "content": "x"})),
    ("history is 3", lambda model: model.chat(TOKENIZER, "hi", history=3)),
    ("item is 'x'", lambda model: model.chat(TOKENIZER, "hi", ["x"])),
    ("no_such", lambda model: model.chat(TOKENIZER, "hi", role="no_such")),
    ("input_ids is 'hi'", lambda model: next(model.stream_generate("hi"))),
    ("tokenizer is 'hi'", lambda model: model.build_inputs("hi", TOKENIZER)),
    ("temperature is 'hot'", lambda model: model.chat(TOKENIZER, "hi", temperature="hot")),
]


@pytest.mark.parametrize(("message", "call"), WRONG, ids=[message for message, _ in WRONG])
def test_what_is_wrong_is_said(model: Any, message: str, call: Any) -> None:
    with pytest.raises(ChatGLMError, match=message):
        call(model)


def test_a_tokenizer_of_another_model_is_refused(model: Any) -> None:
    class Large(ChatGLMTokenizer):
        def __len__(self) -> int:
            return 65024

    with pytest.raises(RequestError, match="65024 ids .* another model's"):
        model.chat(Large(TOKENIZER.vocab_file, version="chatglm3"), "你好")


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("name_or_folder is 3", {"name_or_folder": 3}),
        ("dtype is 3", {"dtype": 3}),
        ("dtype is 'int8'", {"dtype": "int8"}),
        ("adapter is 3", {"adapter": 3}),
        ("tokenizer is 3", {"tokenizer": 3}),
        ("device is 'tpu9'", {"device": "tpu9"}),
    ],
)
def test_load_says_what_is_wrong(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ChatGLMError, match=message):
        chatglm.load(**options)


def test_load_takes_dtypes_by_any_name() -> None:
    for name in ("float16", "torch.float16", torch.float16):
        assert chatglm.load(dtype=name)[0].dtype == torch.float16


@pytest.mark.parametrize("name", ["chat", "stream_chat", "stream_generate", "quantize", "process_response"])
def test_methods_show_the_signature_and_help_of_what_they_do(model: Any, name: str) -> None:
    function, method = getattr(official, name), getattr(model, name)
    assert inspect.getdoc(method) == inspect.getdoc(function)
    assert [*inspect.signature(function).parameters][1:] == [*inspect.signature(method).parameters]
    assert getattr(type(model), name) is function


def test_a_history_may_be_any_iterable(model: Any) -> None:
    options = {"do_sample": False, "max_new_tokens": 4}
    _, history = model.chat(TOKENIZER, "你好", **options)
    expected = model.chat(TOKENIZER, "你好", history=history, **options)
    assert model.chat(TOKENIZER, "你好", history=iter(history), **options) == expected
    with pytest.raises(PromptError):
        model.chat(TOKENIZER, "你好", history=(3,))
