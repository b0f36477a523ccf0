"""The embedded model behind the seam of the chat."""

import io
import threading

import pytest

from chatglm.chat.message import Done, Message, Role
from chatglm.cli import build_parser
from chatglm.errors import ChatGLMError, CheckpointError
from chatglm.terminal.model_responder import ModelResponder, load_responder
from chatglm.terminal.sampling import Sampling
from chatglm.terminal.screen import Screen
from chatglm.terminal.turn import take_turn

GREEDY = Sampling(greedy=True)
HOT = Sampling(temperature=1000.0, top_p=1.0)  # every token as likely as any other
HELLO = [Message(Role.USER, "你好")]


@pytest.fixture(scope="module")
def responder() -> ModelResponder:
    return load_responder(build_parser().parse_args(["chat"]))


def turn(responder, messages, sampling, **options):
    return take_turn(responder, messages, sampling, Screen(io.StringIO(), color=False), **options)


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(responder):
    said = [turn(responder, HELLO, Sampling(temperature=3.0, top_p=1.0), seed=seed).messages for seed in (5, 5, 6)]
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(temperature=0, top_k=3), Sampling(repetition_penalty=1.1, greedy=True)]
)
def test_greedy_is_the_same_whatever_the_seed(responder, sampling):
    assert turn(responder, HELLO, sampling, seed=1).messages == turn(responder, HELLO, sampling, seed=2).messages


def test_the_next_prompt_repeats_the_answer_to_the_token(responder):
    first = turn(responder, HELLO, Sampling(temperature=3.0, top_p=1.0, max_new_tokens=12), seed=1)
    render = responder.tokenizer.render
    question = Message(Role.USER, "?")
    ids = render([*HELLO, *first.messages, question]).ids
    (said,) = first.messages
    assert ids[: first.timing.prompt_tokens] == render(HELLO).ids
    assert tuple(ids[first.timing.prompt_tokens :][: len(said.ids)]) == said.ids
    assert responder.count_tokens(HELLO) == first.timing.prompt_tokens
    assert first.timing.new_tokens >= len(said.ids)


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"max_new_tokens": 5}, 5),
        ({"max_length": 15}, 6),
        ({"max_length": 15, "max_new_tokens": 50}, 6),
        ({"max_length": 100, "max_new_tokens": 4}, 4),
        ({"max_new_tokens": 1}, 1),
    ],
)
def test_limits(responder, limits, most):
    assert responder.count_tokens(HELLO) == 9
    outcome = turn(responder, HELLO, Sampling(temperature=1000.0, top_p=1.0, **limits), seed=3)
    assert outcome.reason == "length"
    assert outcome.timing.new_tokens == most


def test_stopping(responder):
    stop, events = threading.Event(), []
    reply = responder.reply(HELLO, HOT, seed=3, stop=stop)
    for event in reply:
        events.append(event)
        if len(events) == 5:
            stop.set()
    assert isinstance(events[-1], Done)
    assert events[-1].reason == "abort"
    assert 5 <= reply.new_tokens < 100
    assert reply.messages()[0].content


def test_a_conversation_without_room_is_an_error(responder):
    long = [Message(Role.USER, "很长 " * responder.context_length)]
    assert responder.count_tokens(long) > responder.context_length
    outcome = turn(responder, long, GREEDY)
    assert isinstance(outcome.error, ChatGLMError)
    assert outcome.is_empty


def test_the_vocabulary_has_a_fingerprint_of_its_own(responder, tmp_path):
    class Tokenizer:
        version = responder.tokenizer.version
        vocab_file = tmp_path / "tokenizer.model"

    Tokenizer.vocab_file.write_bytes(b"another vocabulary")
    other = ModelResponder(responder.model, Tokenizer, "other")
    same = ModelResponder(responder.model, responder.tokenizer, "same")
    assert other.vocabulary != same.vocabulary == responder.vocabulary


def test_options_of_the_command_line_reach_the_loader(tmp_path):
    with pytest.raises(CheckpointError, match="config.json"):
        load_responder(build_parser().parse_args(["chat", "--model", str(tmp_path)]))
    options = build_parser().parse_args(["chat", "--dtype", "bfloat16", "--quantize", "8", "--device", "cpu"])
    loaded = load_responder(options)
    assert "int8" in str({tensor.dtype for tensor in loaded.model.state_dict().values()})
