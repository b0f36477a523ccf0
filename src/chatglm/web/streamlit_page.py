"""The Streamlit page: what stands where. It is drawn from the state of its visitor, whenever anything happens."""

from __future__ import annotations

import time
from typing import Any

from chatglm.errors import ChatGLMError
from chatglm.web import gallery, streamlit_events, telling
from chatglm.web.no_html import literal
from chatglm.web.routes import conversation_address
from chatglm.web.settings import RANGES, Range
from chatglm.web.streamlit_app import Served, served
from chatglm.web.streamlit_draw import Row, draw, pieces, typed
from chatglm.web.throttle import Throttle
from chatglm.web.told import Told
from chatglm.web.view import Step
from chatglm.web.visitor import MOST_FILE_BYTES, Visitor
from chatglm.words import Words, of_browser

MOST_HEIGHT = 200  # pixels of what a tool would get, where leave is asked


def show() -> None:
    """Draws the page of whoever asks."""
    import streamlit as st

    here, headers = served(), st.context.headers
    words = Words(here.language) if here.language else of_browser(headers.get("Accept-Language", ""))
    st.set_page_config(here.answers.name, layout="centered", initial_sidebar_state="auto", menu_items={})
    try:
        visitor = here.gate.visitor(headers)
        streamlit_events.own_state(visitor)
    except ChatGLMError as error:
        st.error(literal(words.error(str(error))))
        return
    Page(here, visitor, words).draw()


class Page:
    """One drawing of the page.

    Args:
        here: what it is made for.
        visitor: whose it is.
        words: of the visitor's language.
    """

    def __init__(self, here: Served, visitor: Visitor, words: Words) -> None:
        import streamlit

        self.here, self.visitor, self.words, self.st = here, visitor, words, streamlit
        self.events = streamlit_events.Events(here.gate, words)

    def draw(self) -> None:
        """Draws it; where a turn goes on, until that is over or waits for the visitor."""
        st, visitor = self.st, self.visitor
        turn, step = visitor.turn, visitor.asking
        busy = visitor.is_busy
        with st.sidebar:
            self._side(busy)
        self._modes(busy)
        with st.container():
            row = self._conversation(busy)
        below = st.empty()
        if not busy and row is not None:
            with below.container():
                self._last()
        self.events.tell(visitor, st.empty())
        with st.bottom:  # where it stays while an answer grows
            asks, stops = st.empty(), st.empty()
            if step is not None and step.asks == "consent":
                with asks.container():
                    self._question(step)
            if busy:
                stops.button(f"■ {self.words('web_stop')}", key="stop", on_click=self.events.stop)
            self._box(busy, step)
        if busy and turn is not None and step is None and row is not None:
            number = len(visitor.told) - 1
            for pause in turn.pauses(Throttle(self.here.gate.visitors.busy)):
                if pause:
                    time.sleep(pause)
                    st.session_state.get("mode")  # here a script ends that another one has followed
                else:
                    self._fill(row, number, turn.told)
            st.rerun()

    # at the side

    def _side(self, busy: bool) -> None:
        st, words, visitor, events = self.st, self.words, self.visitor, self.events
        st.button(words("web_new"), type="primary", key="new", disabled=busy, on_click=events.new, width="stretch")
        cards = {card.id: literal(telling.card_title(card)) for card in visitor.conversations()}
        if cards:
            st.session_state["conversation"] = visitor.conversation if visitor.conversation in cards else None
            with st.container(height=260 if len(cards) > 6 else "content", border=False):
                st.radio(
                    words("web_conversations"), list(cards), index=None, format_func=cards.__getitem__,
                    key="conversation", disabled=busy, on_change=events.open,
                )  # fmt: skip
        if visitor.conversation is not None:
            delete, take = st.columns(2, vertical_alignment="center")
            delete.button(words("web_delete"), key="delete", disabled=busy, on_click=events.delete, width="stretch")
            take.markdown(f"[⬇ {words('web_take_along')}]({conversation_address()})")
        with st.expander(words("web_load")):
            st.file_uploader(
                words("web_load"), type="json", key="load", on_change=events.load, label_visibility="collapsed"
            )
        with st.expander(words("web_settings")):
            self._settings()
        if "tool" in self.here.answers.modes:
            with st.expander(words("web_tools")):
                self._tools(busy)

    def _settings(self) -> None:
        st, words = self.st, self.words
        if self.here.answers.has_system:
            st.text_area(words("web_system"), key="system", placeholder=words("web_system_hint"))
        for name in self.here.answers.sliders:
            least, most, step, begins = _numbers(RANGES[name])
            st.slider(words(telling.SLIDERS[name]), least, most, begins, step, key=name)

    def _tools(self, busy: bool) -> None:
        st, words = self.st, self.words
        names = ", ".join(literal(tool.name) for tool in self.here.answers.tools)
        st.markdown(words("web_tools_here", names=names) if names else words("web_tools_none"))
        with st.form("tools", border=False):
            st.text_area(words("web_by_hand"), key="by_hand", placeholder=words("web_by_hand_hint"), height=160)
            st.form_submit_button(words("web_apply"), key="apply", disabled=busy, on_click=self.events.set_tools)

    # in the middle

    def _modes(self, busy: bool) -> None:
        st, words = self.st, self.words
        st.session_state["mode"] = self.visitor.mode
        titles = {mode: telling.mode_title(mode, words) for mode in self.here.answers.modes}
        st.radio(
            words("web_chat"), list(titles), format_func=titles.__getitem__, key="mode", horizontal=True, disabled=busy,
            label_visibility="collapsed", on_change=self.events.choose_mode,
        )  # fmt: skip

    def _conversation(self, busy: bool) -> Row | None:
        """The messages; returns the row of the last answer."""
        st, row = self.st, None
        told, prompts = list(self.visitor.told), self._prompts()
        if not told:
            st.markdown(f"**{literal(self.here.answers.name)}**")
            for number, prompt in enumerate(prompts):
                st.button(literal(prompt), key=f"prompt-{number}", on_click=self.events.say, args=(prompt,))
        for number, turn in enumerate(told):
            with st.chat_message("user"):
                self._said(number, turn, busy)
            with st.chat_message("assistant"):
                row = Row(st.container(), self._before.get(number, 0) if busy else 0)
                self._fill(row, number, turn)
        shown = 2 * len(told) or 1 + len(prompts)
        for _ in range(shown, self._before.get(-1, 0) if busy else 0):
            st.empty()
        self._before[-1] = shown
        return row

    @property
    def _before(self) -> dict[int, int]:
        """How many pieces of each answer the page has shown, and as -1 how many messages."""
        before: dict[int, int] = self.st.session_state.setdefault("before", {})
        return before

    def _fill(self, row: Row, number: int, told: Told) -> None:
        ending = telling.ending(told.done, self.words)
        shown = [*pieces(self.visitor.parts(number), number, self.words), *([ending] if ending else [])]
        row.draw(shown)
        self._before[number] = len(shown)

    def _said(self, number: int, turn: Told, busy: bool) -> None:
        st, events, words = self.st, self.events, self.words
        form = st.empty()
        if st.session_state.get("editing") == number and not busy:
            st.session_state.setdefault("edited", turn.text)
            with form.container(), st.form("edit", border=False):
                st.text_area(words("web_edit"), key="edited", label_visibility="collapsed")
                with st.container(horizontal=True):
                    send, leave = words("web_send"), words("web_leave")
                    st.form_submit_button(send, key="send-edited", type="primary", on_click=events.edit, args=(number,))
                    st.form_submit_button(leave, key="leave-edited", on_click=events.begin_edit, args=(None,))
            return
        with st.container(horizontal=True, wrap=False):
            with st.container():
                for piece in (*typed(turn.text), *(f"📎 {literal(name)}" for name in turn.files)):
                    draw(piece, st)
            st.button("✏️", key=f"edit-{number}", help=words("web_edit"), type="tertiary", disabled=busy,
                      on_click=events.begin_edit, args=(number,))  # fmt: skip

    def _question(self, step: Step) -> None:
        st, events = self.st, self.events
        text, language = telling.written(step)
        with st.container(border=True):
            st.markdown(telling.question(step, self.words))
            st.code(text, language=language or None, height=MOST_HEIGHT if text.count("\n") > 8 else "content")
            with st.container(horizontal=True):
                st.button(self.words("web_allow"), key="allow", type="primary", on_click=events.consent, args=(True,))
                st.button(self.words("web_refuse"), key="refuse", on_click=events.consent, args=(False,))

    def _last(self) -> None:
        """Below the last answer."""
        st, events = self.st, self.events
        with st.container(horizontal=True):
            st.button(f"↻ {self.words('web_retry')}", key="retry", on_click=events.retry)
            st.button(f"↩ {self.words('web_undo')}", key="undo", on_click=events.undo)
            st.button(f"✕ {self.words('web_clear')}", key="clear", on_click=events.clear)
        st.caption(telling.counter(self.visitor, self.words))

    def _box(self, busy: bool, step: Step | None) -> None:
        words, code = self.words, self.visitor.mode == "code"
        waits = step if step is not None and step.asks == "answer" else None
        self.st.chat_input(
            words("web_write") if waits is None else words("web_result", name=waits.name),
            key="box",
            accept_file="multiple" if code else False,
            max_upload_size=MOST_FILE_BYTES // 1024**2,
            disabled=busy and waits is None,
            on_submit=self.events.submit,
        )

    def _prompts(self) -> tuple[str, ...]:
        return gallery.prompts(self.visitor.mode, self.words.language, embedded=self.here.embedded)


def _numbers(of: Range) -> tuple[Any, Any, Any, Any]:
    """Streamlit wants all as whole numbers, or none."""
    numbers = (of.least, of.most, of.step, of.begins)
    return tuple(map(int, numbers)) if of.step >= 1 else tuple(map(float, numbers))  # type: ignore[return-value]
