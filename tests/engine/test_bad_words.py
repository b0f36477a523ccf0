"""Exactly the tokens that would complete a bad word are banned, whatever the segmentation."""

from hypothesis import given
from hypothesis import strategies as st

from chatglm.engine.bad_words import BadWords, TokenTexts

TEXTS = [b"", b"a", b"b", b"ab", b"ba", b"aab", b"bb", "你".encode(), "好".encode(), "你好".encode(),
         *(bytes([byte]) for byte in "你好".encode())]  # fmt: skip
TABLE = TokenTexts(TEXTS)


@given(
    st.lists(st.sampled_from(["ab", "aba", "bb", "你好", "好"]), min_size=1, max_size=3),
    st.lists(st.integers(0, len(TEXTS) - 1), max_size=8),
)
def test_banned_are_exactly_the_tokens_that_complete_a_word(words: list[str], ids: list[int]) -> None:
    bad = BadWords(TABLE, words)
    written: list[int] = []
    for token in ids:  # an answer as it would be written under the ban
        if token not in bad.always | bad.begun(written):
            written.append(token)
    text = b"".join(TEXTS[token] for token in written)
    assert not any(word.encode() in text for word in words)
    wrong = {token for token, more in enumerate(TEXTS) if more and any(word.encode() in text + more for word in words)}
    assert bad.always | bad.begun(written) == wrong


def test_a_tail_is_the_end_of_the_text() -> None:
    assert TABLE.tail([1, 3, 5], 4) == b"baab"
    assert TABLE.tail([1], 4) == b"a"
    assert TABLE.tail([1, 999, 0], 1) == b"a"
