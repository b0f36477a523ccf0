"""Sessions over the real engine and the embedded model."""

import json
import threading

import pytest
from golden_data import golden_file
from transformers import AutoModel

import chatglm
from chatglm.agent.events import TurnDone
from chatglm.agent.session import Session
from chatglm.agent.task import run_task
from chatglm.chat.template import validate
from chatglm.errors import SessionError
from chatglm.model.tokenizer import ChatGLMTokenizer
from chatglm.tools.toolbox import tool


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@pytest.fixture(scope="module")
def loaded():
    model, tokenizer = chatglm.load()
    return chatglm.Engine(model, chatglm.EngineConfig(num_tokens=tokenizer.vocab_size)), tokenizer


def test_the_next_prompt_is_token_exact_and_found_in_the_cache(loaded):
    engine, tokenizer = loaded
    talk = Session(engine, tokenizer, tools=[add], params=chatglm.SamplingParams(seed=3))
    asked = 0
    for question in ("My name is Tom.", "你好", "What is my name?"):
        before = engine.stats()
        done = list(talk.send(question))[-1]
        after = engine.stats()
        hit = after.prefix_tokens_hit - before.prefix_tokens_hit
        block = engine.config.block_size
        assert hit >= asked // block * block, "everything up to the last answer is computed once"
        asked = done.prompt_tokens + done.new_tokens - 1
    assert asked > 200
    validate(talk.history)
    rendered = tokenizer.render(talk.history, add_generation_prompt=False).ids
    assert len(rendered) == asked


def test_the_same_seed_gives_the_same_session(loaded):
    engine, tokenizer = loaded

    def run():
        talk = Session(engine, tokenizer, max_new_tokens=20, params=chatglm.SamplingParams(temperature=5, seed=5))
        list(talk.send("Hello!"))
        first = talk.history[-1].ids
        list(talk.regenerate())
        return first, talk.history[-1].ids

    first, second = run()
    assert run() == (first, second)
    assert first != second


def test_two_threads_on_one_engine(loaded):
    engine, tokenizer = loaded

    def run(found):
        talk = Session(engine, tokenizer, params=chatglm.SamplingParams(temperature=0))
        for question in ("你好", "法国的首都是哪里？"):
            list(talk.send(question))
        found += [message.content for message in talk.history]

    alone, found = [], [[], []]
    run(alone)
    threads = [threading.Thread(target=run, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone, alone]
    engine.check_integrity()


def test_leaving_a_turn_frees_the_engine(loaded):
    engine, tokenizer = loaded
    talk = Session(engine, tokenizer)
    for _ in talk.send("Tell me a story."):
        break
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert isinstance(list(talk.send("Go on."))[-1], TurnDone)


def test_a_context_that_is_cut(loaded):
    engine, tokenizer = loaded
    with pytest.raises(SessionError, match="context_length"):
        Session(engine, tokenizer, context_length=engine.context + 1)
    talk = Session(engine, tokenizer, context_length=120, max_new_tokens=16)
    for _ in range(5):
        list(talk.send("Hello, who are you?"))
    assert talk.window.left_out > 0
    assert len(talk.history) == 10


def test_a_task_ends_whatever_so_small_a_model_does(loaded):
    result = run_task(*loaded, "3 + 5 = ?", max_steps=1, max_new_tokens=60)
    assert result.reason in ("done", "failed", "steps", "tokens")


CHATGLM2 = [
    case
    for case in json.loads((golden_file("generation") / "chat2.json").read_text())
    if case["mode"] == "chat" and case["gen_kwargs"].get("do_sample") is False and not case["history"]
][:2]


@pytest.mark.parametrize("case", CHATGLM2, ids=lambda case: case["name"])
def test_chatglm2_answers_as_officially_and_goes_on(case, tmp_path):
    model = AutoModel.from_pretrained(golden_file("generation") / "model").eval()
    tokenizer = ChatGLMTokenizer(str(golden_file("tiny_tokenizer") / "tokenizer.model"), version="chatglm2")
    engine = chatglm.Engine(model, chatglm.EngineConfig(num_tokens=len(tokenizer), kv_memory=1 << 24))
    length = case["gen_kwargs"]["max_length"]
    talk = Session(
        engine, tokenizer, params=chatglm.SamplingParams(temperature=0), context_length=length, when_full="refuse"
    )
    list(talk.send(case["query"]))
    assert talk.history[-1].content == case["expected"]["response"].strip()
    counted = talk.count_tokens()
    talk.save(tmp_path / "talk.json")
    again = Session.load(tmp_path / "talk.json", engine, tokenizer, max_new_tokens=4)
    done = list(again.send(case["query"]))[-1]
    assert counted < done.prompt_tokens
    assert list(again.regenerate())[-1].prompt_tokens == done.prompt_tokens
    assert again.undo() == case["query"]
    assert again.count_tokens() == counted
