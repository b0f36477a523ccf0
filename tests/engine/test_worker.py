"""Who steps: the engine's own thread or a caller, and what others get from it without waiting for a step to end."""

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch

from chatglm.engine.adapters import LowRank
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import Output, SamplingParams
from chatglm.engine.turns import Turns
from chatglm.errors import GenerationError, RequestError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

GREEDY = SamplingParams(temperature=0, max_tokens=8)
PROMPTS = [[1 + index, 2, 3] for index in range(4)]


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=1, hidden_size=16, ffn_hidden_size=16, kv_channels=4, num_attention_heads=4, padded_vocab_size=32,
        multi_query_attention=True, multi_query_group_num=2, seq_length=64, eos_token_id=None,
    )  # fmt: skip
    return ChatGLMForConditionalGeneration(config).eval()


@contextmanager
def held_up(engine: Engine) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Every step stops in the middle: (one is there, they may go on)."""
    inside, go_on = threading.Event(), threading.Event()
    run = engine.runner.run

    def slow(pieces: Any) -> Any:
        inside.set()
        assert go_on.wait(10)
        return run(pieces)

    engine.runner.run = slow  # type: ignore[method-assign]
    try:
        yield inside, go_on
    finally:
        go_on.set()
        engine.runner.run = run  # type: ignore[method-assign]


@pytest.mark.parametrize("own_thread", [False, True])
def test_many_threads_read_what_one_would(model: Any, own_thread: bool) -> None:
    expected = [answer.token_ids for answer in Engine(model).generate(PROMPTS, GREEDY)]
    engine = Engine(model)
    found: dict[int, Any] = {}

    def read(index: int) -> None:
        found[index] = engine.wait(engine.submit(PROMPTS[index], GREEDY)).token_ids

    if own_thread:
        engine.start()
    threads = [threading.Thread(target=read, args=(index,)) for index in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    assert [found[index] for index in range(len(PROMPTS))] == expected
    engine.check_integrity()


def test_tasks_of_one_loop_read_what_threads_would(model: Any) -> None:
    expected = [answer.token_ids for answer in Engine(model).generate(PROMPTS, GREEDY)]

    async def read(engine: Engine, prompt: list[int]) -> tuple[int, ...]:
        request = engine.submit(prompt, GREEDY)
        return tuple([token async for output in engine.astream(request) for token in output.token_ids])

    async def read_all(engine: Engine) -> list[tuple[int, ...]]:
        return await asyncio.gather(*(read(engine, prompt) for prompt in PROMPTS))

    with Engine(model) as engine:
        for _ in range(2):  # a loop of its own each time
            assert asyncio.run(read_all(engine)) == expected
    assert engine.stats().finished == 2 * len(PROMPTS)


def test_a_task_that_goes_away_ends_its_request(model: Any) -> None:
    async def read(engine: Engine, request: Any) -> None:
        async for _ in engine.astream(request):
            pass

    async def leave(engine: Engine, inside: threading.Event, go_on: threading.Event) -> Any:
        request = engine.submit([1], replace(GREEDY, max_tokens=60))
        reading = asyncio.create_task(read(engine, request))
        while not inside.is_set():
            await asyncio.sleep(0.001)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        go_on.set()
        while not request.finished:
            await asyncio.sleep(0.001)
        return request

    with Engine(model) as engine, held_up(engine) as (inside, go_on):
        request = asyncio.run(leave(engine, inside, go_on))
    assert (request.finish_reason, request.num_output) == ("abort", 1)


def test_a_task_needs_somebody_who_steps(model: Any) -> None:
    async def read() -> None:
        engine = Engine(model)
        async for _ in engine.astream(engine.submit([1], GREEDY)):
            pass

    with pytest.raises(RequestError, match=r"engine\.start\(\)"):
        asyncio.run(read())


def test_nobody_waits_for_a_step_to_hand_something_in(model: Any) -> None:
    with Engine(model) as engine, held_up(engine) as (inside, go_on):
        first = engine.submit([1], replace(GREEDY, max_tokens=50))
        assert inside.wait(10)
        late, leaving = engine.submit([2], GREEDY), engine.submit([3], GREEDY)
        engine.abort(leaving)
        engine.abort(first)
        assert engine.stats().running == 1
        assert not first.finished
        go_on.set()
        assert engine.wait(late).finish_reason == "length"
        assert [engine.wait(one).finish_reason for one in (first, leaving)] == ["abort", "abort"]
    assert first.num_output <= 1, "the step that ran was its last"
    assert leaving.num_output == 0


def test_what_is_asked_of_the_engine_comes_between_two_steps(model: Any) -> None:
    path = "transformer.encoder.layers.0.mlp.dense_h_to_4h"
    module = model.get_submodule(path)
    update = LowRank(torch.ones(1, module.in_features), torch.ones(module.out_features, 1), 5.0)
    with Engine(model) as engine, held_up(engine) as (inside, go_on):
        running = engine.submit([1], GREEDY)
        assert inside.wait(10)
        asking = threading.Thread(target=lambda: engine.add_adapter("x", {path: update}))
        asking.start()
        asking.join(0.05)
        assert asking.is_alive()
        go_on.set()
        asking.join(10)
        engine.wait(running)
        engine.wait(engine.submit([1], GREEDY, adapter="x"))
        engine.remove_adapter("x")


@pytest.mark.parametrize("own_thread", [False, True])
def test_a_failing_engine_ends_every_request_and_says_so(model: Any, own_thread: bool) -> None:
    engine = Engine(model, EngineConfig(max_running=1))
    running, waiting = engine.submit([1], GREEDY), engine.submit([2], GREEDY)
    while running.num_output < 2:
        engine.step()
    engine.scheduler.schedule = lambda: [][0]  # type: ignore[method-assign]
    if own_thread:
        engine.start()
    for request in (running, waiting):
        answer = engine.wait(request)
        assert answer.finish_reason == "error"
        assert "IndexError" in (answer.error or "")
    assert isinstance(engine.failed, IndexError)
    with pytest.raises(GenerationError, match="has failed.*make a new one.*IndexError"):
        engine.submit([3], GREEDY)
    engine.close()


def test_the_thread_does_not_end_unheard(model: Any) -> None:
    def leaves(output_ids: Any, logits: Any) -> None:
        raise SystemExit

    with Engine(model) as engine:
        other = engine.submit([2], replace(GREEDY, max_tokens=60))
        leaving = engine.submit([1], replace(GREEDY, hook=leaves))
        assert engine.wait(other).finish_reason == "error"
        assert isinstance(engine.failed, SystemExit)
        assert leaving.finished


def test_what_is_unfinished_is_aborted_when_the_thread_ends(model: Any) -> None:
    with Engine(model) as engine:
        request = engine.submit([1], replace(GREEDY, max_tokens=60))
        stream = engine.stream(request)
        next(stream)
        engine.close()
        engine.close()
        last = list(stream)[-1]
    assert last.finish_reason in ("abort", "length")
    assert engine.generate([[1]], GREEDY)[0].finish_reason == "length", "from here on callers step for themselves"
    assert not [thread for thread in threading.enumerate() if thread.name == "chatglm-engine"]
    with engine:
        assert engine.generate([[1]], GREEDY)[0].finish_reason == "length", "and it may be started again"


@pytest.mark.parametrize("error", [ConnectionError, asyncio.CancelledError, SystemExit])
@pytest.mark.parametrize("own_thread", [False, True])
def test_a_failing_sink_ends_its_request_alone(model: Any, own_thread: bool, error: type[BaseException]) -> None:
    def gone(output: Output) -> None:
        raise error("the reader has left")

    engine = Engine(model)
    heard: list[Output] = []
    bad, good = engine.submit([1], GREEDY, sink=gone), engine.submit([2], GREEDY, sink=heard.append)
    if own_thread:
        engine.start()
    other = engine.wait(engine.submit([3], GREEDY))
    while not good.finished:
        time.sleep(0.001) if own_thread else engine.step()
    engine.close()
    assert (bad.finish_reason, other.finish_reason) == ("error", "length")
    assert "the reader has left" in (bad.error or "")
    assert [output.finish_reason for output in heard][-1] == "length"
    assert [token for output in heard for token in output.token_ids] == good.output_ids
    engine.check_integrity()


@pytest.mark.parametrize("own_thread", [False, True])
def test_a_sink_may_submit_and_abort_and_nothing_else(model: Any, own_thread: bool) -> None:
    engine = Engine(model)
    more: list[Any] = []
    refused: list[str] = []

    def sink(output: Output) -> None:
        for call in (engine.step, engine.check_integrity):
            with pytest.raises(RequestError) as caught:
                call()
            refused.append(str(caught.value))
        if not more:
            more.append(engine.submit([5], GREEDY))
            engine.abort(first)

    first = engine.submit([1], GREEDY, sink=sink)
    if own_thread:
        engine.start()
    while not first.finished:
        time.sleep(0.001) if own_thread else engine.step()
    assert engine.wait(more[0]).finish_reason == "length"
    engine.close()
    assert (first.finish_reason, first.num_output) == ("abort", 1)
    assert all("use another thread" in message for message in refused)


def test_what_a_step_brought_before_it_was_interrupted_is_not_lost(model: Any) -> None:
    engine = Engine(model)
    requests = [engine.submit([token], replace(GREEDY, max_tokens=1)) for token in (1, 2, 3)]
    commit, seen = engine.ledger.commit, []

    def interrupted(piece: Any, sampled: Any) -> Any:
        seen.append(piece)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return commit(piece, sampled)

    engine.ledger.commit = interrupted  # type: ignore[method-assign]
    heard: list[Output] = []
    requests[0].sink = heard.append
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert requests[0].finished
    assert not heard
    engine.step()
    assert [output.finish_reason for output in heard] == ["length"], "whoever steps next hands it out"
    answers = [engine.wait(request) for request in requests]
    assert [answer.token_ids for answer in answers] == [
        answer.token_ids for answer in Engine(model).generate([[1], [2], [3]], replace(GREEDY, max_tokens=1))
    ]
    for request in requests:
        assert not request.outputs


def test_what_could_not_be_handed_out_is_when_there_is_no_work_left(model: Any) -> None:
    def interrupted(output: Output) -> None:
        raise KeyboardInterrupt

    engine, heard = Engine(model), list[Output]()
    for sink in (interrupted, heard.append):
        engine.submit([1], replace(GREEDY, max_tokens=1), sink=sink)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert not heard
    engine.step()
    assert [output.finish_reason for output in heard] == ["length"]


def test_one_who_is_interrupted_while_waiting_leaves_the_line() -> None:
    turns, holds, let_go = Turns(pytest.fail), threading.Event(), threading.Event()

    def hold() -> None:
        with turns.taken():
            holds.set()
            let_go.wait(10)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(10)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt), turns.taken():
            pytest.fail("the turn was somebody else's")
    finally:
        signal.signal(signal.SIGALRM, before)
    done: list[int] = []
    turns.post(lambda: done.append(1))
    assert not done, "the turn is somebody else's"
    let_go.set()
    thread.join()
    assert done == [1]
    with turns.taken():
        pass


def test_the_turn_goes_to_whoever_waits(model: Any) -> None:
    """While one thread takes turn after turn, another gets one at once."""
    turns, stop, mine = Turns(pytest.fail), threading.Event(), [0]

    def hog() -> None:
        while not stop.is_set():
            with turns.taken():
                mine[0] += 1
                time.sleep(0.001)

    thread = threading.Thread(target=hog)
    thread.start()
    waited = []
    for _ in range(20):
        before = mine[0]
        with turns.taken():
            waited.append(mine[0] - before)
    stop.set()
    thread.join()
    assert sorted(waited)[10] <= 2  # a thread may be slow to stand in line


def test_the_times_of_a_request_are_in_order(model: Any) -> None:
    engine = Engine(model)
    request = engine.submit([1], GREEDY)
    times = request.times
    assert times.submitted <= time.monotonic()
    assert (times.admitted, times.first_token, times.last_token) == (None, None, None)
    engine.step()
    first = times.first_token
    assert first is not None
    engine.wait(request)
    assert times.admitted is not None
    assert times.last_token is not None
    assert times.submitted <= times.admitted <= first == times.first_token < times.last_token


@pytest.mark.parametrize("own_thread", [False, True])
def test_whoever_reads_last_gets_what_was_not_read(model: Any, own_thread: bool) -> None:
    """From a sink to a stream, with or without the engine's thread; a reader that comes too late is told the end."""
    engine, heard = Engine(model), list[Output]()
    request = engine.submit([1], GREEDY, sink=heard.append)
    while request.num_output < 3:
        engine.step()
    if own_thread:
        engine.start()
    rest = list(engine.stream(request))
    assert [token for output in [*heard, *rest] for token in output.token_ids] == request.output_ids
    assert rest[-1].finish_reason == "length"
    if own_thread:
        assert [output.finish_reason for output in engine.stream(request)] == ["length"]
    engine.close()


def test_only_the_engines_thread_does_what_is_asked_of_it(model: Any) -> None:
    """An event loop must not find itself taking blocks back, or placing somebody's adapter."""
    with Engine(model) as engine:
        assert engine.loop.turns.ask(threading.current_thread).name == "chatglm-engine"
        request = engine.submit([1], GREEDY)
        assert engine.wait(request).finish_reason == "length"
        assert engine.loop.turns.ask(threading.current_thread).name == "chatglm-engine", "also when it is asleep"
    assert engine.loop.turns.ask(threading.current_thread) is threading.current_thread()


def test_a_loop_is_woken_once_for_a_step(model: Any) -> None:
    """However many of its tasks have got something."""
    woken: list[int] = []

    async def read(engine: Engine, prompt: list[int]) -> int:
        return len([output async for output in engine.astream(engine.submit(prompt, GREEDY))])

    async def read_all(engine: Engine, go_on: threading.Event) -> list[int]:
        tasks = [asyncio.create_task(read(engine, prompt)) for prompt in PROMPTS]
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *rest: woken.append(engine.loop.steps) or call(*rest)  # type: ignore[method-assign,assignment,func-returns-value]
        go_on.set()
        return await asyncio.gather(*tasks)

    with Engine(model) as engine, held_up(engine) as (_, go_on):
        assert asyncio.run(read_all(engine, go_on)) == [8] * len(PROMPTS)
    assert len(woken) <= engine.stats().steps


def test_more_tasks_than_are_woken_at_once_all_read_on(model: Any) -> None:
    async def read(engine: Engine, index: int) -> int:
        request = engine.submit([1 + index % 30], replace(GREEDY, max_tokens=2))
        return sum([len(output.token_ids) async for output in engine.astream(request)])

    async def read_all(engine: Engine, inside: threading.Event, go_on: threading.Event) -> list[int]:
        tasks = [asyncio.create_task(read(engine, index)) for index in range(80)]
        while not inside.is_set():
            await asyncio.sleep(0.001)
        go_on.set()
        return await asyncio.wait_for(asyncio.gather(*tasks), 60)

    with Engine(model, EngineConfig(max_running=80)) as engine, held_up(engine) as (inside, go_on):
        assert asyncio.run(read_all(engine, inside, go_on)) == [2] * 80
