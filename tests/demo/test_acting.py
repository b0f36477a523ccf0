"""Conversations with tools and code: rendered as the product does, true in what they claim, and with nothing kept."""

import random
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from chatglm.agent.prompts import CODE_PROMPT, code_result
from chatglm.chat.call import extract_code, parse_tool_call
from chatglm.chat.message import INTERPRETER, Role
from chatglm.chat.template import TOOLS_PROMPT, validate
from chatglm.demo import WEIGHTS
from chatglm.demo.conversation import Conversation, conversation, with_code, with_tools
from chatglm.demo.encoding import Encoder
from chatglm.demo.families import families, product_schemas
from chatglm.demo.mistakes import mistake
from chatglm.demo.pools import kept_for_judge
from chatglm.demo.programs import KINDS, make_program
from chatglm.demo.text import Split, held_out, kept_question, phrasings, question_digest
from chatglm.demo.topics.code import Cells, corrected, table
from chatglm.sandbox import Sandbox, open_sandbox
from chatglm.tools import Tool, ToolBox, builtin_tools

Make = Callable[[Split, random.Random], Conversation]


def sample(make: Make, split: Split, count: int, seed: int = 0) -> Iterator[Conversation]:
    rng = random.Random(seed)
    return islice(iter(lambda: make(split, rng), None), count)


@pytest.mark.parametrize("make", [with_tools, with_code])
@pytest.mark.parametrize("split", ["train", "phrasing", "entity"])
def test_every_conversation_is_valid(make: Make, split: Split) -> None:
    for one in sample(make, split, 200):
        validate(one.messages())
        assert not any(mark in turn.user + turn.answer for turn in one.turns for mark in ("{", "}", "|"))
        assert all(turn.answer in turn.accepted and turn.user.strip() for turn in one.turns)


def test_there_are_many_families_and_two_are_kept() -> None:
    kept = [family for family in families().values() if family.kept]
    assert len(families()) >= 32
    assert len(kept) == 2
    names = {name for family in kept for name in family.names}
    for one in sample(with_tools, "train", 600):
        assert not names & {form["name"] for form in one.tools}
    for one in sample(with_tools, "family", 60):
        assert names & {step.name for turn in one.turns for step in turn.steps} or not any(t.steps for t in one.turns)


def test_calls_fit_the_schemas_they_were_offered() -> None:
    for one in sample(with_tools, "train", 400):
        box = ToolBox(Tool.from_schema(form) for form in one.tools)
        for step in (step for turn in one.turns for step in turn.steps):
            call = parse_tool_call(step.text, step.name)
            assert (call.name, call.arguments) == (step.name, step.arguments)
            _, problems = box[step.name].check(call.arguments or {})
            assert (problems == []) == step.learned, (step, problems)


def test_answers_tell_the_values_of_results() -> None:
    for one in sample(with_tools, "train", 400):
        for turn in one.turns:
            assert all(value in turn.answer for value in turn.values)
            results = " ".join(step.observation for step in turn.steps)
            assert all(part in results for value in turn.values for part in value.split(", ")[0].split("、")[:1])


def test_the_tools_of_the_product_have_its_own_schemas() -> None:
    own = {tool.name: tool.schema() for tool in builtin_tools(["calculator", "current_time", "weather"])}
    assert all(product_schemas()[name] == schema for name, schema in own.items())
    offered = [form for one in sample(with_tools, "train", 500) for form in one.tools if "parameters" in form]
    seen = {form["name"]: form for form in offered if form["name"] in product_schemas()}
    assert set(seen) == set(product_schemas())
    assert all(form == product_schemas()[name] for name, form in seen.items())


def test_system_prompts_are_those_of_the_product() -> None:
    for one in sample(with_tools, "train", 100):
        system = one.messages()[0]
        assert system.role is Role.SYSTEM
        assert system.content.endswith(TOOLS_PROMPT)
    assert all(one.messages()[0].content == CODE_PROMPT for one in sample(with_code, "train", 20))


def test_nothing_kept_for_the_judge_is_trained() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        for turn in conversation("train", rng).turns:
            assert not kept_question(turn.user)
            assert not any(kept_for_judge(value) for value in turn.drawn), turn


def test_kept_entities_are_asked_on_their_split() -> None:
    drawn = [value for one in sample(with_tools, "entity", 300) for turn in one.turns for value in turn.drawn]
    assert len(drawn) > 100
    assert sum(map(kept_for_judge, drawn)) > 0.9 * len(drawn)


def test_phrasings_of_families_are_parted() -> None:
    for family in families().values():
        for asks in family.asks.values():
            assert len(asks) > 3
            train = set(phrasings(asks, "train"))
            assert train.isdisjoint(ask for index, ask in enumerate(asks) if held_out(index) and len(asks) > 4)


def test_plain_questions_are_recognised_however_they_are_typed() -> None:
    assert kept_question("who made you")
    assert kept_question("是谁开发的你")
    assert not kept_question("Hello!")
    assert question_digest("Who made you?") == question_digest("who made YOU ")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with open_sandbox() as opened:
        yield opened


@pytest.mark.parametrize("kind", KINDS)
def test_programs_print_what_is_said(kind: str, sandbox: Sandbox) -> None:
    rng = random.Random(kind)
    programs = [KINDS[kind](rng.random() < 0.5, "train", rng) for _ in range(6)]
    whole = sandbox.run("\n".join(program.code for program in programs))
    assert whole.text() == "\n".join(program.output for program in programs)


def test_mistakes_fail_as_is_said(sandbox: Sandbox) -> None:
    rng = random.Random(8)
    for _ in range(12):
        sandbox.run("%reset -f")
        before = sandbox.run("len(In) - 1").result  # the cell's own number
        broken, error = mistake(make_program(True, "train", rng).code, int(before or 0) + 1, rng)
        assert sandbox.run(broken).text() == error


def test_tables_are_read_as_is_said(sandbox: Sandbox) -> None:
    rng = random.Random(5)
    for _ in range(12):
        turn = table(Cells(), rng.random() < 0.5, "train", rng)
        for name, content in turn.files:
            sandbox.put(name, content)
        for step in turn.steps:
            shown = code_result(sandbox.run(extract_code(step.text)).text())
            assert shown == step.observation if step.learned else "KeyError" in shown


def test_a_mistake_is_shown_and_not_learned() -> None:
    encoder = Encoder(WEIGHTS / "tokenizer.model")
    turn = corrected(Cells(), True, "train", random.Random(2))
    example = encoder.example(Conversation(None, (turn,), code=True))
    learned = [token for token, counts in zip(example.ids, example.learned, strict=True) if counts]
    wrong, right = (encoder.encode(step.text) for step in turn.steps)
    text = encoder.pieces.decode([token for token in learned if token < encoder.pieces.get_piece_size()])
    assert turn.steps[1].text in text
    assert turn.steps[0].text not in text
    assert learned.count(encoder.specials["<|observation|>"]) == 2
    assert wrong != right
    assert turn.steps[0].name == INTERPRETER
