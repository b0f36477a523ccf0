"""The trainer: it learns, it goes on where it stopped, and what it leaves is a model folder."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from chatglm.demo import WEIGHTS, recipe, train
from chatglm.demo.conversation import with_tools
from chatglm.demo.encoding import Encoder
from chatglm.demo.exact import acted, exact, judge
from chatglm.demo.packing import Batch, collate, pack, shard
from chatglm.demo.recipe import Recipe
from chatglm.demo.spm import VOCAB_SIZE
from chatglm.demo.train import Trainer, answer_losses, main
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration

SMALL = Recipe(batch_tokens=2048, shard_batches=2, warmup_steps=3, tokens=2048 * 6)
TINY = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 2, "kv_channels": 16}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and a network so small that a step takes no time."""
    monkeypatch.setattr("chatglm.demo.folder.SHAPE", recipe.SHAPE | TINY)
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


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_some_steps_lower_the_loss(folder: Path) -> None:
    found = losses(Trainer(folder, replace(SMALL, learning_rate=2e-2)), 6)
    assert found[-1] < found[0] - 1.0


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_stopped_run_goes_on_to_the_bit_as_if_it_had_not_stopped(folder: Path, stop: int) -> None:
    whole = Trainer(folder, SMALL)
    expected = losses(whole, 6)
    first = Trainer(folder, SMALL)
    found = losses(first, stop)
    first.save()
    second = Trainer(folder, SMALL)
    second.resume()
    assert found + losses(second, 6 - stop) == expected
    assert second.state.tokens == whole.state.tokens
    assert all(value.equal(weights(second)[name]) for name, value in weights(whole).items())


def test_hours_end_a_call_with_a_checkpoint_and_reports(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(folder, SMALL)
    trainer.run(max_hours=0.0, report_every=1)
    assert trainer.state.step == 1
    assert "step 1/6" in (out := capsys.readouterr().out)
    assert "tokens/s" in out
    assert "tools" in out
    again = Trainer(folder, SMALL)
    again.resume()
    assert again.state == trainer.state


def test_workers_give_the_same_batches(folder: Path) -> None:
    alone, helped = (Trainer(folder, replace(SMALL, tokens=2048 * 5), workers=number) for number in (0, 2))
    pairs = zip(every(alone), every(helped), strict=True)
    assert all(one.input_ids.equal(two.input_ids) and one.segments.equal(two.segments) for one, two in pairs)


def every(trainer: Trainer) -> Iterator[Batch]:
    for batch in trainer.batches():
        trainer.state.step += 1
        yield batch


def test_a_checkpoint_of_another_recipe_is_refused(folder: Path) -> None:
    Trainer(folder, SMALL).save()
    with pytest.raises(ValueError, match="of the recipe"):
        Trainer(folder, replace(SMALL, seed=2)).resume()
    longer = Trainer(folder, replace(SMALL, tokens=10**6))
    longer.resume()  # the length may change


def test_the_command_leaves_a_model_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "judge", lambda *_: {"train": {"greetings": 0.0}})
    main(["--run", str(folder), "--tokens", "2048", "--batch-tokens", "2048", "--seed", "5", "--samples", "1"])
    record = json.loads((folder / "model" / "RECIPE.json").read_text(encoding="utf-8"))
    assert (record["steps"], record["recipe"]["seed"]) == (1, 5)
    assert {"commit", "tokens", "hours", "machine", "text_sha256"} <= set(record)
    model = ChatGLMForConditionalGeneration.from_pretrained(folder / "model")
    assert model.dtype == torch.bfloat16


def test_conversations_in_a_row_do_not_see_each_other(folder: Path) -> None:
    trainer = Trainer(folder, SMALL)
    examples = [trainer.encoder.example(one) for one in islice(acted(with_tools, "train", 4), 3)]
    row = pack([examples], sum(len(one.ids) - 1 for one in examples) + 7)
    together = answer_losses(trainer.model, row)
    apart = torch.cat([answer_losses(trainer.model, collate([one])) for one in examples])
    torch.testing.assert_close(together, apart)
    assert row.num_tokens == row.input_ids.numel() - 7


def test_loss_is_that_of_the_whole_network_with_labels(folder: Path) -> None:
    trainer = Trainer(folder, SMALL)
    example = trainer.encoder.example(next(acted(with_tools, "train", 1)))
    batch = collate([example])
    logits = trainer.model(input_ids=batch.input_ids).logits
    labels = torch.where(batch.learned, batch.targets, -100)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(answer_losses(trainer.model, batch).mean(), expected)


def test_shards_are_full_and_the_same_again() -> None:
    encoder = Encoder(WEIGHTS / "tokenizer.model")
    small = Recipe(batch_tokens=4096, shard_batches=32)
    first, second = shard(encoder, small, 5), shard(encoder, small, 5)
    assert all(one.input_ids.equal(two.input_ids) for one, two in zip(first, second, strict=True))
    assert all(batch.input_ids.numel() <= 4096 for batch in first)
    assert max(int(batch.segments.max()) for batch in first) > 3
    assert sum(batch.num_tokens for batch in first) > 0.85 * sum(batch.input_ids.numel() for batch in first)
    assert not shard(encoder, small, 6)[0].input_ids.equal(first[0].input_ids)


def test_an_untrained_network_is_judged_wrong(folder: Path) -> None:
    trainer = Trainer(folder, SMALL)
    scores = judge(trainer.model, trainer.encoder, samples=1)
    assert set(scores) == {"train", "phrasing", "entity", "family"}
    assert all(score == 0 for found in scores.values() for score in found.values())
    assert exact(trainer.model, trainer.encoder, []) == []


def test_learning_rate_rises_stays_and_falls() -> None:
    settings = Recipe(tokens=4096 * 1000, warmup_steps=50)
    shares = [settings.share(step) for step in range(1000)]
    assert shares[:50] == sorted(shares[:50])
    assert set(shares[50:700]) == {1.0}
    assert shares[700:] == sorted(shares[700:], reverse=True)
    assert shares[-1] < 0.06
    with pytest.raises(ValueError, match="multiple of 2048"):
        Recipe(batch_tokens=1000)


def test_the_shape_suits_blocks_of_32_and_the_repository() -> None:
    sizes = recipe.SHAPE["hidden_size"], recipe.SHAPE["ffn_hidden_size"], recipe.SHAPE["kv_channels"]
    assert not any(size % 32 for size in sizes)
    config = ChatGLMConfig(**recipe.SHAPE, padded_vocab_size=VOCAB_SIZE + 9)
    with torch.device("meta"):
        number = sum(parameter.numel() for parameter in ChatGLMForConditionalGeneration(config).parameters())
    assert 5e6 < number < 13e6
    assert 2 * number < 25e6
