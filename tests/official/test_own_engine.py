"""One model, many callers: threads, training, adapters, copies; the engine goes with its model and never lies."""

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
import torch
from golden_data import golden_file
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from chatglm.errors import PromptError
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.tokenizer import ChatGLMTokenizer
from chatglm.own_engine import engine_for

TOKENIZER = ChatGLMTokenizer(str(golden_file("tiny_tokenizer/tokenizer.model")), version="chatglm3")
QUESTIONS = ["你好", "What is ChatGLM3?", "1 + 1 = ?", "介绍一下清华大学"]
GREEDY = {"do_sample": False, "max_new_tokens": 12}


@pytest.fixture
def model() -> Any:
    return load()


def load() -> Any:
    return ChatGLMForConditionalGeneration.from_pretrained(golden_file("generation") / "model").eval()


def answer(model: Any, question: str = "你好", **options: Any) -> str:
    return model.chat(TOKENIZER, question, **(GREEDY | options))[0]


def fresh(model: Any, question: str = "你好") -> str:
    return answer(copy.deepcopy(model), question)


def test_the_engine_is_freed_with_its_model() -> None:
    model = load()
    answer(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_copies_and_pickles_start_without_an_engine(model: Any) -> None:
    expected = answer(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 - just made here
        assert engine_for(other, TOKENIZER).stats().steps == 0
        assert answer(other) == expected


def test_threads_get_the_answers_they_would_get_alone(model: Any) -> None:
    """Chats, plain forward passes and generate() at once, on a model that has no engine yet."""
    expected = [fresh(model, question) for question in QUESTIONS]
    ids = torch.randint(3, 1400, (1, 20), generator=torch.Generator().manual_seed(0))
    logits, before = model(ids).logits.detach(), model.config._attn_implementation
    wrong: list[Any] = []

    def chat(index: int) -> None:
        for _ in range(4):
            options = {"renormalize_logits": True} if index == 3 else {}  # through generate()
            text = answer(model, QUESTIONS[index], **options)
            if text != expected[index]:
                wrong.append((index, text))

    def forward() -> None:
        for _ in range(40):
            if not torch.equal(model(ids).logits, logits):
                wrong.append("forward")

    threads = [threading.Thread(target=chat, args=(index,)) for index in range(4)]
    threads.append(threading.Thread(target=forward))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert wrong == []
    assert model.config._attn_implementation == before


def test_an_open_stream_blocks_nobody(model: Any) -> None:
    expected = answer(model, "1 + 1 = ?")
    for options in ({}, {"renormalize_logits": True}):
        stream = model.stream_chat(TOKENIZER, "你好", **GREEDY, **options)
        next(stream)
        assert answer(model, "1 + 1 = ?") == expected
        found: list[str] = []
        thread = threading.Thread(target=lambda found=found: found.append(answer(model, "1 + 1 = ?")))
        thread.start()
        thread.join(30)
        assert found == [expected]
        list(stream)


def test_a_model_in_training_stays_there(model: Any) -> None:
    expected = answer(model)
    model.train()
    model.transformer.encoder.layers[0].eval()  # somebody's frozen layer
    assert answer(model) == expected
    assert model.training
    assert not model.transformer.encoder.layers[0].training
    assert model.transformer.encoder.layers[1].training


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft uses the old name
def test_adapters_switched_by_peft_are_noticed(model: Any) -> None:
    base = answer(model)
    config = LoraConfig(target_modules=["query_key_value"], r=4, init_lora_weights=False)
    wrapped = get_peft_model(model, config)
    wrapped.add_adapter("two", config)
    answers = {}
    for name in ("default", "two", "default"):
        wrapped.set_adapter(name)
        text = wrapped.chat(TOKENIZER, "你好", **GREEDY)[0]
        assert answers.setdefault(name, text) == text == fresh(wrapped)
    with wrapped.disable_adapter():
        assert wrapped.chat(TOKENIZER, "你好", **GREEDY)[0] == base
    assert answers["default"] != answers["two"]
    assert engine_for(wrapped, TOKENIZER) is engine_for(wrapped.get_base_model(), TOKENIZER)


def test_uncounted_writes_are_noticed_or_can_be_told(model: Any) -> None:
    answer(model)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    assert answer(model) == fresh(model)
    before = engine_for(model, TOKENIZER)
    model.forget_earlier_turns()
    assert engine_for(model, TOKENIZER) is not before


def test_generation_settings_of_the_model_are_honoured(model: Any) -> None:
    expected = answer(model, repetition_penalty=1.9)
    assert expected != answer(model)
    assert answer(model, generation_config=GenerationConfig(repetition_penalty=1.9)) == expected
    model.generation_config.repetition_penalty = 1.9
    assert answer(model) == expected
    config = GenerationConfig(max_new_tokens=3, do_sample=False)
    short, _ = model.chat(TOKENIZER, "你好", do_sample=None, generation_config=config)
    assert len(TOKENIZER.tokenizer.encode(short)) <= 4


def test_the_global_seed_repeats_an_answer(model: Any) -> None:
    answers = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        answers.append(model.chat(TOKENIZER, "你好", max_new_tokens=20)[0])
    assert answers[0] == answers[1] != answers[2]


def test_other_stop_tokens(model: Any) -> None:
    ids = [token for token in TOKENIZER.tokenizer.encode(answer(model)) if token > 300]
    for options in ({}, {"renormalize_logits": True}):
        cut = answer(model, eos_token_id=ids[2], **options)
        assert cut
        assert answer(model).startswith(cut)
        assert cut != answer(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"history": [("你好", "你好")]}, "dicts with role and content"),
        ({"history": [{"role": "nobody", "content": "x"}]}, "nobody"),
    ],
)
def test_bad_calls_say_what_is_wrong(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        answer(model, **options)


def test_a_chatglm2_history_of_dicts_is_refused(model: Any) -> None:
    tokenizer = ChatGLMTokenizer(TOKENIZER.vocab_file, version="chatglm2")
    with pytest.raises(PromptError, match="pairs"):
        model.chat(tokenizer, "你好", history=[{"role": "user", "content": "x"}])


def test_beams_cannot_be_streamed(model: Any) -> None:
    with pytest.raises(PromptError, match="num_beams=2"):
        next(model.stream_generate(torch.tensor([[5, 6]]), num_beams=2))
    steps = list(
        model.stream_generate(torch.tensor([[5, 6]]), num_return_sequences=2, do_sample=True, max_new_tokens=3)
    )
    assert steps[-1].shape == (2, 5)
