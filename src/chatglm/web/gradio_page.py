"""The Gradio page: what stands where, and what is called when something is pressed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatglm.web.answering import Local, Remote
from chatglm.web.gradio_blocks import blocks
from chatglm.web.gradio_events import Events
from chatglm.web.settings import RANGES
from chatglm.web.telling import SLIDERS
from chatglm.web.visitors import Visitors
from chatglm.words import LANGUAGES, SENTENCES, Language, Words

FORMULAS = [("$$", "$$", True), ("\\[", "\\]", True), ("$", "$", False), ("\\(", "\\)", False)]
# Nothing that a message holds may leave it or cover the page, whatever a sanitizer has let through.
CSS = """
.gradio-container {max-width: 1000px !important; width: 100%; margin: 0 auto !important}
footer {display: none !important}
#chat .message, #chat .bubble-wrap .message-content {contain: paint; overflow: auto}
#chat .message form, #chat .message input:not([type=checkbox]), #chat .message iframe {display: none !important}
#chat .message img {max-width: min(100%, 640px); height: auto !important; background: white; border-radius: 6px}
#chat {flex: 1 1 0 !important; height: auto !important; min-height: 200px}
#chat .bot.message {padding-bottom: 6px}
#chat button.example {border: 1px solid var(--border-color-primary)}
#ask {flex: 0 0 auto !important; border: 2px solid var(--color-accent); border-radius: 8px; padding: 12px; gap: 8px}
#question {max-height: 25dvh; overflow-y: auto}
#counter {min-height: 1.2em; opacity: .75; font-size: .85em}
#conversations .wrap {flex-direction: column; flex-wrap: nowrap; max-height: 30dvh; overflow-y: auto}
#conversations label {width: 100%; min-width: 0}
#conversations label span {overflow: hidden; text-overflow: ellipsis; white-space: nowrap}
#mode .wrap {flex-wrap: wrap}
@media (max-width: 640px) {
  #mode label {padding: 4px 8px !important; font-size: .85em}
  .gradio-container > main {padding: 8px !important}
}
"""


class Page:
    """The components of the page, and the events between them.

    Args:
        visitors: who is here.
        answers: where answers come from.
        embedded: whether the model is the one in the package, which has prompts of its own.
        language: of everybody; None: that of each browser.
        uploads: the folder of uploads.
    """

    def __init__(
        self,
        visitors: Visitors,
        answers: Local | Remote,
        *,
        uploads: Path,
        embedded: bool = False,
        language: Language | None = None,
    ) -> None:
        import gradio as gr

        self.answers = answers
        self.i18n = gr.I18n(**_translations(language))
        self.sliders: list[Any] = []
        options = {"title": answers.name, "fill_height": True, "analytics_enabled": False, "delete_cache": (600, 3600)}
        with blocks(uploads, **options) as page:
            with gr.Sidebar(open=False, elem_id="side") as self.side:
                self._side()
            self._middle()
            self.events = Events(self, visitors, embedded=embedded, language=language)
            self._wire(page)
        page.queue(default_concurrency_limit=None)
        self.blocks = page

    # what stands where

    def _side(self) -> None:
        import gradio as gr

        say = self.i18n
        self.new = gr.Button(say("web_new"), variant="primary", elem_id="new")
        self.conversations = gr.Radio([], label=say("web_conversations"), elem_id="conversations")
        with gr.Row():
            self.delete = gr.Button(say("web_delete"), size="sm", elem_id="delete")
            self.load = gr.UploadButton(say("web_load"), file_types=[".json"], size="sm", elem_id="load")
        self.take_along = gr.Markdown(elem_id="take-along")
        with gr.Accordion(say("web_settings"), open=False):
            self.system = gr.Textbox(
                label=say("web_system"),
                placeholder=say("web_system_hint"),
                lines=3,
                visible=self.answers.has_system,
                elem_id="system",
            )
            for name, range_ in RANGES.items():
                self.sliders.append(
                    gr.Slider(
                        range_.least,
                        range_.most,
                        range_.begins,
                        step=range_.step,
                        label=say(SLIDERS[name]),
                        visible=name in self.answers.sliders,
                        elem_id=name.replace("_", "-"),
                    )
                )
        with gr.Accordion(say("web_tools"), open=False, visible="tool" in self.answers.modes):
            self.tools = gr.Markdown(elem_id="tools")
            self.by_hand = gr.Textbox(
                label=say("web_by_hand"), info=say("web_by_hand_hint"), lines=8, elem_id="by-hand", max_lines=20
            )
            self.apply = gr.Button(say("web_apply"), size="sm", elem_id="apply")

    def _middle(self) -> None:
        import gradio as gr

        say = self.i18n
        self.mode = gr.Radio(
            list(self.answers.modes), value=self.answers.modes[0], show_label=False, container=False, elem_id="mode"
        )
        self.chat = gr.Chatbot(
            show_label=False,
            scale=1,
            elem_id="chat",
            editable="user",
            buttons=["copy"],
            sanitize_html=True,
            allow_tags=False,
            feedback_options=None,
            latex_delimiters=[{"left": left, "right": right, "display": big} for left, right, big in FORMULAS],
            placeholder=f"**{_escaped(self.answers.name)}**",
        )
        with gr.Column(visible=False, elem_id="ask") as self.ask:
            self.question = gr.Markdown(elem_id="question")
            with gr.Row():
                self.allow = gr.Button(say("web_allow"), variant="primary", elem_id="allow")
                self.refuse = gr.Button(say("web_refuse"), elem_id="refuse")
        self.box = gr.MultimodalTextbox(
            show_label=False,
            placeholder=say("web_write"),
            sources=[],
            file_count="multiple",
            max_lines=8,
            autofocus=True,
            elem_id="box",
            html_attributes=gr.InputHTMLAttributes(spellcheck=True),
        )
        self.counter = gr.Markdown(elem_id="counter")

    @property
    def outputs(self) -> list[Any]:
        """What an event may change."""
        return [
            self.chat, self.box, self.ask, self.question, self.counter, self.mode, self.conversations, self.take_along,
            self.system, self.tools, self.by_hand,
        ]  # fmt: skip

    @property
    def begun(self) -> list[Any]:
        """What the beginning of a turn changes; the chat itself is drawn beside it."""
        return [self.box, self.ask, self.question, self.counter]

    # what happens

    def _wire(self, page: Any) -> None:
        import gradio as gr

        events = self.events
        settings = self.sliders
        page.load(events.plain(events.opened), None, self.outputs, show_progress="hidden").then(
            events.drawing(), None, self.chat, show_progress="hidden"
        ).then(events.settling(), None, self.outputs, show_progress="hidden")
        page.load(events.arranging(), None, self.side, show_progress="hidden")
        page.unload(events.leaving())
        self._turn(self.box.submit, events.send, [self.box, self.system, *settings])
        self._turn(self.chat.retry, events.retry, settings)
        self._turn(self.chat.edit, events.edit, settings, gr.EditData)
        self._turn(self.allow.click, events.allow, None)
        self._turn(self.refuse.click, events.refuse, None)
        self._turn(self.chat.example_select, events.example, [self.system, *settings], gr.SelectData)
        # Nothing stands in the way of a stop: it does not go through the queue, nor does it need to be told anything.
        self.box.stop(events.stopping(), None, None, queue=False, api_visibility="private").then(
            events.settling(), None, self.outputs, show_progress="hidden", api_visibility="private"
        )
        self._quick(self.chat.undo, events.plain(events.undo), None)
        self._quick(self.chat.clear, events.plain(events.clear), None)
        self._quick(self.new.click, events.plain(events.new), None)
        self._quick(self.mode.input, events.plain(events.choose_mode), [self.mode])
        self._quick(self.conversations.input, events.plain(events.open), [self.conversations])
        self._quick(self.delete.click, events.plain(events.delete), None)
        self._quick(self.load.upload, events.plain(events.load), [self.load])
        self._quick(self.apply.click, events.plain(events.set_tools), [self.by_hand])

    def _turn(
        self, listen: Callable[..., Any], begin: Callable[..., Any], inputs: Any, data: type | None = None
    ) -> None:
        """An event that begins a turn, or lets one go on.

        What draws it begins at the same time, for asking once more costs as long as a first token takes. It has one
        output: each costs a drawing.
        """
        more: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        listen(self.events.plain(begin, data, begins=True), inputs, self.begun, **more)
        drawn = listen(self.events.drawing(begins=True), None, self.chat, **more)
        drawn.then(self.events.settling(), None, self.outputs, **more)

    def _quick(self, listen: Callable[..., Any], do: Callable[..., Any], inputs: Any) -> Any:
        """An event that is over at once."""
        return listen(do, inputs, self.outputs, show_progress="hidden", api_visibility="private")


def theme() -> Any:
    """With the fonts of the visitor's machine: none is fetched."""
    import gradio as gr

    return gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def _translations(language: Language | None) -> dict[str, dict[str, str]]:
    """The sentences of the page, for Gradio to choose from by the browser's language."""
    names = [name for name in SENTENCES if name.startswith("web_") and "{" not in SENTENCES[name][0]]
    tables = {here: {name: Words(here)(name) for name in names} for here in LANGUAGES}
    english, chinese = (tables[language or here] for here in LANGUAGES)
    return {"en": english, "zh": chinese, "zh-CN": chinese, "zh-TW": chinese}


def _escaped(name: str) -> str:
    from chatglm.web.no_html import literal

    return literal(name)
