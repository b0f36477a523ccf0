import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_at_hand import FILES, tokenizer

from chatglm.model.stream_decoder import StreamDecoder

BYTES = [[token + 3 for token in text.encode()] for text in ("你", "é", "👋🏻", "\ufffd", "a b")]
BROKEN = [
    [token + 3 for token in data] for data in (b"\xe4\xbd", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")
]


def ids_of(name):
    """Id streams with many characters spelled in bytes, whole and broken, and ids beyond the vocabulary."""
    size = tokenizer(name).vocab_size
    runs = st.one_of(
        st.sampled_from(BYTES + BROKEN),
        st.integers(0, size + 30).map(lambda token: [token]),
        st.integers(3, 258).map(lambda token: [token]),
        st.sampled_from([[0], [1], [2], [-1], [size - 1], [2**40]]),
        st.text(max_size=4).filter(lambda text: text.isprintable()).map(tokenizer(name).tokenizer.encode),
    )
    return st.lists(runs, max_size=12).map(lambda parts: [token for part in parts for token in part])


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=300)
@given(st.data())
def test_the_stream_joins_to_the_decoded_text(name, data):
    found = tokenizer(name)
    ids = data.draw(ids_of(name))
    decoder = StreamDecoder(found)
    for _ in range(2):  # after flush it is as good as new
        deltas = [decoder.push(token) for token in ids]
        assert "".join(deltas) + decoder.flush() == found.decode(ids)
    bytes_held = 0
    for token, delta in zip(ids, deltas, strict=True):
        is_byte = isinstance(found.surface(token), int)
        bytes_held = bytes_held + 1 if is_byte and not delta else 0
        assert bytes_held < 4  # nothing waits longer than a character needs


@pytest.mark.parametrize("name", FILES)
@given(st.lists(st.sampled_from(["blank", "word", "byte", 0, -1, 2**40]), max_size=6))
def test_only_the_dummy_prefix_is_dropped(name, kinds):
    found = tokenizer(name)
    ids_by_kind = {"blank": found.tokenizer.encode("\n")[0], "word": found.tokenizer.encode("a a")[-1], "byte": 13}
    ids = [ids_by_kind.get(kind, kind) for kind in kinds]
    decoder = StreamDecoder(found)
    assert "".join(map(decoder.push, ids)) + decoder.flush() == found.decode(ids)


@given(st.data())
def test_chatglm2_streams_its_vocabulary_too(data):
    found = tokenizer(version="chatglm2")
    ids = [token for token in data.draw(ids_of("tiny")) if token < found.vocab_size]
    decoder = StreamDecoder(found)
    assert "".join(map(decoder.push, ids)) + decoder.flush() == found.decode(ids)
    assert decoder.push(found.vocab_size) == decoder.push(2**40) == ""  # where decode raises


@pytest.mark.parametrize("text", ["你好👋🏻！", "é\ufffdx", "👨‍👩‍👧", "a\ufffd"])
def test_no_character_is_ever_split(text):
    found = tokenizer()
    ids = [byte + 3 for byte in text.encode()]
    decoder = StreamDecoder(found)
    deltas = [decoder.push(token) for token in ids]
    assert [delta for delta in deltas if delta] == list(text)
    assert decoder.flush() == ""


def test_the_end_of_a_cut_character_is_not_hidden():
    decoder = StreamDecoder(tokenizer())
    assert [decoder.push(byte + 3) for byte in "你".encode()[:2]] == ["", ""]
    assert decoder.flush() == "\ufffd\ufffd"


def test_added_tokens_are_spelled_out():
    from chatglm.model.tokenizer import ChatGLMTokenizer

    found = ChatGLMTokenizer(FILES["tiny"], version="chatglm3")
    found.add_tokens(["<new>"])
    ids = found("a<new>b")["input_ids"]
    decoder = StreamDecoder(found)
    assert "".join(map(decoder.push, ids)) + decoder.flush() == found.decode(ids)
    assert "<new>" in found.decode(ids)
