"""Stop strings, wherever the token borders fall."""

from hypothesis import given
from hypothesis import strategies as st

from chatglm.engine.stopping import StopStrings


class Pieces:
    """A decoder of ready-made texts."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def push(self, token_id: int) -> str:
        return self.pieces[token_id]

    def flush(self) -> str:
        return ""


texts = st.lists(st.text("ab停止", max_size=3), max_size=12)
words = st.lists(st.text("ab停止", min_size=1, max_size=4), max_size=3)


@given(texts, words)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stop: list[str]) -> None:
    """The one that is complete first, however the text was cut into tokens."""
    stops = StopStrings(Pieces(pieces), stop)
    shown = ""
    for index in range(len(pieces)):
        shown += stops.push(index)
        assert "".join(pieces).startswith(shown), "text that was never said, or out of order"
        if stops.found:
            break
    shown += stops.finish()
    text = "".join(pieces)
    grown = (text[:end] for end in range(len(text) + 1))
    first = next((seen for seen in grown if any(seen.endswith(word) for word in stop)), None)
    assert stops.found == (first is not None)
    assert shown == (text if first is None else first[: min(first.find(word) for word in stop if first.endswith(word))])


def test_nothing_is_held_back_without_need() -> None:
    stops = StopStrings(Pieces(["观", "察", "：", "好"]), ["观察："])
    assert [stops.push(index) for index in range(2)] == ["", ""]
    assert stops.push(2) == ""
    assert stops.found
    stops = StopStrings(Pieces(["观", "看"]), ["观察："])
    assert [stops.push(index) for index in range(2)] == ["", "观看"]
