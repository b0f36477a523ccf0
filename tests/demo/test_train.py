"""The trainer: it learns, it goes on where it stopped, and what it leaves is a model folder."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from chatglm.demo import WEIGHTS
from chatglm.demo.judge import exact, judge
from chatglm.demo.recipe import Recipe
from chatglm.demo.train import Budget, Trainer, answer_loss, learning_rate, main
from chatglm.model.network import ChatGLMForConditionalGeneration

SMALL = Recipe(batch_tokens=256, pool=24, warmup_steps=5)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes((WEIGHTS / "tokenizer.model").read_bytes())
    return tmp_path


def losses(trainer: Trainer, count: int) -> list[float]:
    return [trainer.step(batch) for batch in islice(trainer.batches(), count)]


def test_twenty_steps_lower_the_loss(folder: Path) -> None:
    found = losses(Trainer(folder, SMALL, Budget(steps=20)), 20)
    assert sum(found[-4:]) / 4 < sum(found[:2]) / 2 - 1.0


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(folder: Path) -> None:
    whole = losses(Trainer(folder, SMALL, Budget(steps=8)), 8)
    stopped = Trainer(folder, SMALL, Budget(steps=8))
    first = losses(stopped, 5)
    stopped.save(samples=1)
    resumed = Trainer(folder, SMALL, Budget(steps=8))
    resumed.resume()
    assert first + losses(resumed, 3) == whole


def test_the_command_leaves_a_model_folder(folder: Path) -> None:
    main(["--out", str(folder), "--steps", "1", "--seed", "5", "--samples", "1"])
    record = json.loads((folder / "RECIPE.json").read_text(encoding="utf-8"))
    assert (record["steps"], record["recipe"]["seed"]) == (1, 5)
    model = ChatGLMForConditionalGeneration.from_pretrained(folder)
    assert model.dtype == torch.bfloat16


def test_loss_is_that_of_the_whole_network_with_labels(folder: Path) -> None:
    trainer = Trainer(folder, SMALL, Budget(steps=1))
    batch = next(trainer.batches())
    labels = torch.where(batch.learned, batch.targets, -100)
    logits = trainer.model(input_ids=batch.input_ids).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(answer_loss(trainer.model, batch), expected)


def test_an_untrained_network_is_judged_wrong(folder: Path) -> None:
    trainer = Trainer(folder, SMALL, Budget(steps=1))
    scores = judge(trainer.model, trainer.encoder, samples=1)
    assert set(scores) == {"train", "phrasing", "entity"}
    assert all(score == 0 for found in scores.values() for score in found.values())
    assert exact(trainer.model, trainer.encoder, []) == []


def test_learning_rate_rises_then_falls() -> None:
    recipe = Recipe()
    rates = [learning_rate(recipe, step, step / 1000) for step in range(1000)]
    top = rates.index(max(rates))
    assert recipe.warmup_steps - 2 <= top <= recipe.warmup_steps
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.03 * recipe.learning_rate


@pytest.mark.parametrize("given", [{}, {"minutes": 1.0, "steps": 1}])
def test_budget_is_one_of_two(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="either minutes or steps"):
        Budget(**given)
