"""An answer is the same however its tokens come: read from an engine, handed in in pieces, or from somewhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import END, ByteTokenizer, ScriptedEngine, call, code, say, written

from chatglm.agent.answer import Answer
from chatglm.chat.message import Done, TextDelta
from chatglm.engine.request import Output, SamplingParams, TokenLogprobs
from chatglm.errors import GenerationError

CALLS = call("add", a=1).removesuffix("<|observation|>") + "<|assistant|>" + code("print(1)")
TEXTS = st.sampled_from([say("你好👋"), CALLS, say("one\ntwo"), "no end", END, "", say("a stop b")])


def answer(text="", *, engine=None, **options):
    params = options.pop("params", SamplingParams(stop=["stop"]))
    engine = engine or ScriptedEngine(text)
    return Answer(engine, [1, 2], ByteTokenizer().stream_parser(["add"]), params, **options)


def came_to(one, events):
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return text, events[-1], one.finish_reason, one.token_ids, one.messages(), one.calls(), one.finished


@given(text=TEXTS, sizes=st.lists(st.integers(1, 5), min_size=1))
def test_reading_feeding_and_another_source_come_to_the_same(text, sizes):
    read = answer(text)
    wanted = came_to(read, list(read))
    elsewhere = answer(tokens=iter(written(text)))
    assert came_to(elsewhere, list(elsewhere)) == wanted

    fed, events, request = answer(text), [], None
    request = fed.submit()
    outputs = list(fed.engine.stream(request))
    tokens, pieces = [token for output in outputs for token in output.token_ids], []
    while tokens:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(tokens[:size])
        del tokens[:size]
    for piece in pieces:
        events += fed.feed(Output(1, tuple(piece)))
    events += fed.feed(Output(1, (), finish_reason=outputs[-1].finish_reason))
    assert came_to(fed, events) == wanted


def test_what_the_engine_is_asked():
    one = answer(say("x"), params=SamplingParams(stop=["y"], stop_token_ids=[7], max_tokens=9))
    list(one)
    [params] = one.engine.params
    assert params.stop == (), "stop strings are looked for where it is known what is text"
    assert set(params.stop_token_ids) == {7, *ByteTokenizer().stop_ids}
    assert params.max_tokens == 9
    assert one.first_token_seconds is not None
    assert (one.prompt_tokens, one.new_tokens) == (2, len(written(say("x"))))


def test_an_adapter_is_passed_on():
    class Adapters(ScriptedEngine):
        def submit(self, prompt_ids, params=None, *, adapter=None):
            self.adapter = adapter
            return super().submit(prompt_ids, params)

    one = answer(engine=Adapters(say("x")), adapter="poems")
    list(one)
    assert one.engine.adapter == "poems"


def test_stop_tokens_of_the_request_end_the_text_too():
    one = answer(say("a.b"), params=SamplingParams(stop_token_ids=[ord(".")]))
    assert came_to(one, list(one))[:2] == ("a", Done("stop", ord(".")))
    one = answer(say("ab") + "c", params=SamplingParams(ignore_eos=True, stop_token_ids=[ord("c")]))
    assert came_to(one, list(one))[1] == Done("stop", ord("c"))


def test_stop_tokens_of_the_engine_are_no_text():
    class Stops(ScriptedEngine):
        def submit(self, prompt_ids, params=None):
            request = super().submit(prompt_ids, params)
            request.stop_ids |= {ord("!")}
            return request

    one = answer(engine=Stops("\n ab!c"))
    assert came_to(one, list(one))[:3] == ("ab", Done("stop", ord("!")), "stop")


def test_the_last_bytes_may_make_a_stop_string_whole():
    one = answer([*b"\n a\xe4"], params=SamplingParams(stop=["\ufffd"]))
    assert came_to(one, list(one))[:3] == ("a", Done("stop", None), "stop")
    assert one.messages()[0].ids is None


def test_log_probabilities_stop_where_the_text_does():
    one = answer(params=SamplingParams(stop=["b"], logprobs=0))
    told = tuple(TokenLogprobs(token, -1.0, ()) for token in b"abc")
    events = one.feed(Output(1, tuple(b"abc"), logprobs=told))
    assert events[-1] == Done("stop", None)
    assert one.logprobs == list(told[:2])
    assert one.token_ids == list(b"ab")
    assert one.feed(Output(1, tuple(b"abc"), finish_reason="abort")) == []


def test_an_engine_that_fails():
    one = answer(RuntimeError("out of memory"))
    with pytest.raises(GenerationError, match="out of memory"):
        list(one)
    assert (one.finish_reason, one.messages()) == ("error", [])


def test_leaving_and_stopping():
    one = answer("\n abc")
    for event in one:
        if isinstance(event, TextDelta):
            break
    del event
    assert one.engine.aborted == 1
    assert (one.messages()[0].content, one.finish_reason) == ("a", "abort")
    stopped = []
    one = answer("\n abc", stopped=lambda: len(stopped.append(1) or stopped) > 3)
    assert list(one)[-1] == Done("abort", None)
    assert one.engine.aborted == 1


def test_another_source_is_closed():
    closed = []

    def tokens():
        try:
            yield from b"abcdef"
        finally:
            closed.append(True)

    one = answer(tokens=tokens(), params=SamplingParams(stop=["bc"]))
    list(one)
    assert (one.segments[0].content, closed) == ("a", [True])
