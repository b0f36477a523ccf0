"""Examples on disk, and rows of several of them."""

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.train.encoding import Example
from chatglm.train.packing import Collator, PackedRows, Rows
from chatglm.train.store import Store

TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=9)
EXAMPLES = st.lists(TOKENS.map(lambda pairs: Example([i for i, _ in pairs], [m for _, m in pairs])), max_size=12)
SHAPE = {
    "num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 16, "num_attention_heads": 2,
    "padded_vocab_size": 64, "multi_query_attention": True, "multi_query_group_num": 1, "add_qkv_bias": True,
    "seq_length": 64,
}  # fmt: skip


@given(EXAMPLES)
def test_the_store_gives_back_what_it_was_given(found: list[Example]) -> None:
    store = Store(found, Path("."))
    assert [store[index] for index in range(len(store))] == found
    assert store.num_tokens == sum(len(example.ids) for example in found)


@given(EXAMPLES, st.integers(0, 3))
def test_packed_rows_hold_every_example_once_and_never_too_much(found: list[Example], seed: int) -> None:
    packed = PackedRows(Store(found, Path(".")), 9, seed)
    rows = [packed[index] for index in range(len(packed))]
    assert all(sum(len(example.ids) for example in row) <= 9 for row in rows)
    key = [(example.ids, example.learned) for row in rows for example in row]
    assert sorted(key) == sorted((example.ids, example.learned) for example in found)


def test_a_packed_example_has_the_logits_and_labels_it_has_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for prefix in (None, 3):
        model = ChatGLMForConditionalGeneration(ChatGLMConfig(**SHAPE, pre_seq_len=prefix)).eval()
        lengths = (5, 9, 3, 7, 1)
        found = [Example(torch.randint(0, 64, (n,)).tolist(), [i % 2 == 1 for i in range(n)]) for n in lengths]
        packed = PackedRows(Store(found, tmp_path), 12, 0)
        rows = [packed[index] for index in range(len(packed))]
        assert max(map(len, rows)) > 1
        batch = Collator(packed=True, prefix_length=prefix or 0)(rows)
        whole = model(**{**batch, "labels": None}).logits
        for row, held in enumerate(rows):
            start = 0
            for example in held:
                end = start + len(example.ids)
                alone = Collator(packed=False)([[example]])
                torch.testing.assert_close(whole[row, start:end], model(**{**alone, "labels": None}).logits[0])
                assert torch.equal(batch["labels"][row, start:end], alone["labels"][0])
                start = end
        plain = Rows(packed.store)
        padded = Collator(packed=False)([plain[index] for index in range(len(plain))])
        assert padded["attention_mask"].sum(1).tolist() == list(lengths)
