"""What happens on the Streamlit page. Nothing that comes from a browser is believed: the state is the visitor's, here.

Streamlit calls these before it draws the page anew, so none draws anything: what is to be told is told by `tell`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatglm.errors import ChatGLMError, SessionError
from chatglm.web.no_html import literal
from chatglm.web.settings import RANGES, Settings
from chatglm.web.streamlit_gate import KEY, StreamlitGate
from chatglm.web.visitor import Visitor
from chatglm.words import Words

# Names in the state of a page, which Streamlit keeps: what widgets hold goes by their keys, and besides
_OWNER, _NOTES, _HINTS = "owner", "notes", "hints"


def own_state(visitor: Visitor) -> None:
    """Fills the state of a page that is new.

    Raises:
        SessionError: it is the page of somebody else, whose name a program has got to know.
    """
    import streamlit as st

    if st.session_state.setdefault(_OWNER, st.context.headers[KEY]) != st.context.headers[KEY]:
        raise SessionError("this page belongs to another visitor; load it again")
    st.session_state.setdefault("system", visitor.system or "")
    st.session_state.setdefault("by_hand", visitor.by_hand.text)


class Events:
    """What the parts of the page call.

    Args:
        gate: knows whose page it is.
        words: of the visitor's language.
    """

    def __init__(self, gate: StreamlitGate, words: Words) -> None:
        import streamlit

        self._gate, self._words, self._state = gate, words, streamlit.session_state

    def tell(self, visitor: Visitor, place: Any) -> None:
        """Shows in a place what has come up, once."""
        import streamlit as st

        if visitor.given_back:
            self._state["box"], visitor.given_back = visitor.given_back, ""
            self._note(self._words("web_given_back"))
        if visitor.turn is not None and visitor.turn.error is not None:
            self._note(self._words.error(str(visitor.turn.error)))
            visitor.turn.error = None
        if aside := visitor.kept.mended():
            self._note(self._words("web_mended", name=aside))
        if notes := self._state.pop(_NOTES, ()):
            place.warning("\n\n".join(map(literal, notes)))
        for hint in self._state.pop(_HINTS, ()):
            st.toast(literal(hint))

    # turns

    def submit(self) -> None:
        """What stands in the input line was sent."""
        sent = self._state["box"]
        files = [] if isinstance(sent, str) else [(file.name, file.getvalue()) for file in sent.files]
        self.say(sent if isinstance(sent, str) else sent.text, files)

    def say(self, text: str, files: Any = ()) -> None:
        def say(visitor: Visitor) -> None:
            step = visitor.asking
            if step is not None and step.asks == "answer":
                visitor.answer(text)
                return
            visitor.set_system(self._system())
            visitor.send(text, files, self._settings())

        self._do(say)

    def stop(self) -> None:
        self._do(Visitor.stop)

    def consent(self, allowed: bool) -> None:
        self._do(lambda visitor: visitor.consent(allowed))

    def retry(self) -> None:
        self._do(lambda visitor: visitor.retry(self._settings()))

    def begin_edit(self, number: int | None) -> None:
        self._state["editing"] = number
        self._state.pop("edited", None)

    def edit(self, number: int) -> None:
        text = str(self._state.get("edited", ""))
        if self._do(lambda visitor: visitor.edit(number, text, self._settings()), code_stays=True):
            self.begin_edit(None)

    def undo(self) -> None:
        def undo(visitor: Visitor) -> None:
            self._state["box"] = visitor.undo()

        self._do(undo, code_stays=True)

    # conversations

    def clear(self) -> None:
        self._do(Visitor.clear, code_stays=True)

    def new(self) -> None:
        self._do(Visitor.new)

    def choose_mode(self) -> None:
        self._do(lambda visitor: visitor.new(self._state["mode"]))

    def open(self) -> None:
        self._do(lambda visitor: visitor.open(str(self._state["conversation"])), other=True)

    def delete(self) -> None:
        self._do(lambda visitor: visitor.delete(visitor.conversation or ""))

    def load(self) -> None:
        """Streamlit has the file in memory, and conversations are read from files."""
        sent = self._state["load"]
        if sent is None:  # it was taken away again
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "conversation.json"
            file.write_bytes(sent.getvalue())
            self._do(lambda visitor: visitor.load(file), other=True)

    def set_tools(self) -> None:
        def set_tools(visitor: Visitor) -> None:
            visitor.set_tools(str(self._state["by_hand"]))
            self._hint(self._words("web_tools_set", count=len(visitor.by_hand.tools)))

        self._do(set_tools)

    # inside

    def _do(self, call: Callable[[Visitor], Any], *, other: bool = False, code_stays: bool = False) -> bool:
        """Does it; what is wrong with it is told. Returns whether it was done.

        Args:
            call: does it.
            other: whether another conversation is open afterwards, of which the editors show what it has.
            code_stays: whether something is taken back, but not from the interpreter.
        """
        import streamlit as st

        try:
            visitor = self._gate.visitor(st.context.headers)
            own_state(visitor)
            call(visitor)
        except ChatGLMError as error:
            self._note(self._words.error(str(error)))
            return False
        if other:
            self._state["system"] = visitor.system or ""
        if code_stays and visitor.mode == "code":
            self._hint(self._words("web_code_kept"))
        return True

    def _note(self, text: str) -> None:
        self._state.setdefault(_NOTES, []).append(text)

    def _hint(self, text: str) -> None:
        self._state.setdefault(_HINTS, []).append(text)

    def _system(self) -> str | None:
        return str(self._state.get("system") or "").strip() or None

    def _settings(self) -> Settings:
        values: dict[str, Any] = {name: self._state[name] for name in RANGES if name in self._state}
        return Settings(**values)
