"""What is to be seen on the Gradio page: the value of each component, from the state of a visitor."""

from __future__ import annotations

from typing import Any

from chatglm.web import gallery
from chatglm.web.gradio_draw import asked, messages
from chatglm.web.no_html import literal
from chatglm.web.routes import conversation_address
from chatglm.web.telling import card_title, counter, mode_title
from chatglm.web.visitor import Visitor
from chatglm.words import Words

Updates = dict[Any, Any]


class Screen:
    """Draws the page of a visitor.

    Args:
        page: the components.
        embedded: whether the model is the one in the package, which has prompts of its own.
    """

    def __init__(self, page: Any, *, embedded: bool) -> None:
        self.page, self.embedded = page, embedded

    def whole(self, visitor: Visitor, words: Words) -> Updates:
        """Everything, as it is now."""
        import gradio as gr

        page, busy = self.page, visitor.is_busy
        step = visitor.asking
        consent = step is not None and step.asks == "consent"
        examples = [{"text": text} for text in self.prompts(visitor, words)] if not visitor.told else None
        cards = [(card_title(card), card.id) for card in visitor.conversations()]
        names = ", ".join(literal(tool.name) for tool in page.answers.tools)
        return {
            page.chat: gr.Chatbot(messages(visitor, words), examples=examples),
            page.box: self.box(visitor, words),
            page.ask: _shown(consent),
            page.question: asked(step, words) if consent and step is not None else "",
            page.counter: "" if busy else counter(visitor, words),
            page.mode: gr.Radio(self._modes(words), value=visitor.mode, interactive=not busy),
            page.conversations: gr.Radio(cards, value=visitor.conversation, interactive=not busy),
            page.take_along: f"[⬇ {words('web_take_along')}]({conversation_address()})" if visitor.conversation else "",
            page.tools: words("web_tools_here", names=names) if names else words("web_tools_none"),
        }

    def box(self, visitor: Visitor, words: Words, **more: Any) -> Any:
        import gradio as gr

        busy = visitor.is_busy
        step = visitor.asking
        waits = step is not None and step.asks == "answer"
        hint = words("web_result", name=step.name) if waits and step is not None else words("web_write")
        return gr.MultimodalTextbox(
            submit_btn=not busy or waits,
            stop_btn=busy,
            placeholder=hint,
            sources=["upload"] if visitor.mode == "code" else [],
            **more,
        )

    def cleared(self, visitor: Visitor, words: Words) -> Updates:
        return self.whole(visitor, words) | {self.page.box: self.box(visitor, words, value=None)}

    def prompts(self, visitor: Visitor, words: Words) -> tuple[str, ...]:
        return gallery.prompts(visitor.mode, words.language, embedded=self.embedded)

    def _modes(self, words: Words) -> list[tuple[str, str]]:
        return [(mode_title(mode, words), mode) for mode in self.page.answers.modes]


def _shown(visible: bool) -> Any:
    import gradio as gr

    return gr.Column(visible=visible)
