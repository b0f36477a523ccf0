"""What happens on the Gradio page. Nothing that comes from a browser is believed: the state is the visitor's, here."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from chatglm.errors import ChatGLMError, UsageError
from chatglm.web.gradio_draw import messages, numbered
from chatglm.web.gradio_screen import Screen, Updates
from chatglm.web.no_html import unmarked
from chatglm.web.running import POLL_SECONDS, RunningTurn
from chatglm.web.settings import RANGES, Settings
from chatglm.web.throttle import Throttle
from chatglm.web.visitor import MOST_FILE_BYTES, MOST_FILES, Visitor
from chatglm.web.visitors import Visitors
from chatglm.words import Language, Words, of_browser

BEGIN_SECONDS = 2.0  # after which a turn that has not begun will not


class Events:
    """The handlers of a page. Each takes the visitor, the words of the visitor's language, and values.

    Args:
        page: the components.
        visitors: who is here.
        embedded, language: as `Page` has them.
    """

    def __init__(self, page: Any, visitors: Visitors, *, embedded: bool, language: Language | None) -> None:
        self.page, self.visitors, self.language = page, visitors, language
        self._screen = Screen(page, embedded=embedded)

    # how Gradio calls them: it finds out by annotations what a handler wants besides values

    def plain(
        self, handle: Callable[..., Updates], data: type | None = None, *, begins: bool = False
    ) -> Callable[..., Updates]:
        """A handler that returns what changes. What is wrong with a call is shown, and the page drawn as it is.

        Args:
            handle: does it.
            data: what kind of data the event has, which the handler gets before the values.
            begins: whether a turn begins, or goes on: then only little is drawn.
        """
        import gradio as gr

        def call(request: Any, *values: Any) -> Updates:
            visitor, words = self._who(request)
            try:
                updates = handle(visitor, words, *values)
            except ChatGLMError as error:
                gr.Warning(html.escape(words.error(str(error))))
                updates = self._screen.whole(visitor, words)
            _tell(visitor, words)
            return {part: updates[part] for part in self.page.begun} if begins else updates

        def call_with(request: Any, event: Any, *values: Any) -> Updates:
            return call(request, event, *values)

        chosen: Callable[..., Updates] = call if data is None else call_with
        chosen.__annotations__ = {"request": gr.Request} | ({} if data is None else {"event": data})
        return chosen

    def drawing(self, *, begins: bool = False) -> Callable[..., AsyncIterator[Any]]:
        """Draws the conversation while a turn goes on, until it is over or waits for the visitor.

        Args:
            begins: whether the turn is about to begin or to go on.
        """
        import gradio as gr

        async def draw(request: Any) -> AsyncIterator[Any]:
            visitor, words = self._who(request)
            turn = await _coming(visitor) if begins else visitor.turn
            if turn is None or turn.is_drawn:
                yield gr.skip()
                return
            async for _ in turn.news(Throttle(self.visitors.busy)):
                yield messages(visitor, words)
            turn.is_drawn = turn.is_over

        draw.__annotations__ = {"request": gr.Request}
        return draw

    def settling(self) -> Callable[..., Any]:
        """Draws everything when a turn is over, or waits; the end of a turn once on each page.

        A second drawing of it could come late and cover the beginning of the next turn.
        """
        import gradio as gr

        async def settle(request: Any) -> Updates:
            visitor, words = self._who(request)
            while visitor.is_busy and not visitor.asking:
                await asyncio.sleep(POLL_SECONDS)
            if (turn := visitor.turn) is not None and turn.is_over:
                if request.session_hash in turn.settled:
                    return {self.page.counter: gr.skip()}
                turn.settled.add(request.session_hash)
            updates = self._screen.whole(visitor, words)
            _seen(visitor)
            _tell(visitor, words)
            if visitor.given_back:
                text, visitor.given_back = visitor.given_back, ""
                gr.Warning(words("web_given_back"))
                updates[self.page.box] = self._screen.box(visitor, words, value={"text": text, "files": []})
            if visitor.turn is not None and visitor.turn.error is not None:
                gr.Warning(html.escape(words.error(str(visitor.turn.error))))
                visitor.turn.error = None
            return updates

        settle.__annotations__ = {"request": gr.Request}
        return settle

    def arranging(self) -> Callable[..., Any]:
        """Where there is room, what is at the side is shown at once."""
        import gradio as gr

        def arrange(request: Any) -> Any:
            return gr.Sidebar(open="Mobi" not in request.headers.get("user-agent", ""))

        arrange.__annotations__ = {"request": gr.Request}
        return arrange

    def stopping(self) -> Callable[..., None]:
        """Ends the turn; what there is to see of it, the others draw."""
        import gradio as gr

        def stop(request: Any) -> None:
            self._who(request)[0].stop()

        stop.__annotations__ = {"request": gr.Request}
        return stop

    def leaving(self) -> Callable[..., None]:
        """A page has gone."""
        import gradio as gr

        def leave(request: Any) -> None:
            page = request.session_hash
            if page and self.visitors.owner(page) == request.state.visitor:  # nobody can say it for another
                self.visitors.left(page)

        leave.__annotations__ = {"request": gr.Request}
        return leave

    def _who(self, request: Any) -> tuple[Visitor, Words]:
        import gradio as gr

        words = Words(self.language) if self.language else of_browser(request.headers.get("accept-language", ""))
        try:
            return self.visitors.get(request.state.visitor, request.session_hash), words
        except ChatGLMError as error:
            raise gr.Error(html.escape(words.error(str(error)))) from None

    # turns

    def send(self, visitor: Visitor, words: Words, message: Any, system: str, *sliders: float) -> Updates:
        message = message or {}
        text, files = unmarked(str(message.get("text") or "")), message.get("files") or []
        step = visitor.asking
        if step is not None and step.asks == "answer":
            visitor.answer(text)
        else:
            read = _read(files)
            visitor.set_system(_system(system))
            visitor.send(text, read, _settings(sliders))
            for path in files:
                Path(path).unlink(missing_ok=True)
        return self._screen.cleared(visitor, words)

    def example(self, visitor: Visitor, words: Words, event: Any, system: str, *sliders: float) -> Updates:
        """One of the prompts to begin with. The browser says which, not what it is."""
        shown, index = self._screen.prompts(visitor, words), event.index
        if not isinstance(index, int) or not 0 <= index < len(shown):
            raise UsageError(f"there is no prompt {index!r:.20}; there are {len(shown)}")
        visitor.set_system(_system(system))
        visitor.send(shown[index], (), _settings(sliders))
        return self._screen.cleared(visitor, words)

    def retry(self, visitor: Visitor, words: Words, *sliders: float) -> Updates:
        visitor.retry(_settings(sliders))
        return self._screen.whole(visitor, words)

    def edit(self, visitor: Visitor, words: Words, event: Any, *sliders: float) -> Updates:
        shown, index = numbered(visitor, words), event.index
        if not isinstance(index, int) or not 0 <= index < len(shown) or not isinstance(event.value, str):
            raise UsageError(f"there is no message {index!r:.20} to edit; there are {len(shown)}")
        visitor.edit(shown[index][1], unmarked(event.value), _settings(sliders))
        self._code_stays(visitor, words)
        return self._screen.whole(visitor, words)

    def allow(self, visitor: Visitor, words: Words) -> Updates:
        visitor.consent(True)
        return self._screen.whole(visitor, words)

    def refuse(self, visitor: Visitor, words: Words) -> Updates:
        visitor.consent(False)
        return self._screen.whole(visitor, words)

    def undo(self, visitor: Visitor, words: Words) -> Updates:
        text = visitor.undo()
        self._code_stays(visitor, words)
        updates = self._screen.whole(visitor, words)
        updates[self.page.box] = self._screen.box(visitor, words, value={"text": text, "files": []})
        return updates

    # conversations

    def opened(self, visitor: Visitor, words: Words) -> Updates:
        _seen(visitor)
        return self._opened(visitor, words)

    def clear(self, visitor: Visitor, words: Words) -> Updates:
        visitor.clear()
        self._code_stays(visitor, words)
        return self._screen.whole(visitor, words)

    def new(self, visitor: Visitor, words: Words) -> Updates:
        visitor.new()
        return self._screen.cleared(visitor, words)

    def choose_mode(self, visitor: Visitor, words: Words, mode: Any) -> Updates:
        visitor.new(mode)
        return self._screen.whole(visitor, words)

    def open(self, visitor: Visitor, words: Words, name: Any) -> Updates:
        visitor.open(str(name))
        return self._opened(visitor, words)

    def delete(self, visitor: Visitor, words: Words) -> Updates:
        if visitor.conversation is not None:
            visitor.delete(visitor.conversation)
        return self._screen.whole(visitor, words)

    def load(self, visitor: Visitor, words: Words, file: Any) -> Updates:
        try:
            visitor.load(Path(str(file)))
        finally:
            Path(str(file)).unlink(missing_ok=True)
        return self._opened(visitor, words)

    def set_tools(self, visitor: Visitor, words: Words, text: Any) -> Updates:
        import gradio as gr

        visitor.set_tools(str(text or ""))
        gr.Info(words("web_tools_set", count=len(visitor.by_hand.tools)))
        return self._screen.whole(visitor, words)

    def _opened(self, visitor: Visitor, words: Words) -> Updates:
        """Everything, and what stands in the editors."""
        editors = {self.page.system: visitor.system or "", self.page.by_hand: visitor.by_hand.text}
        return self._screen.whole(visitor, words) | editors

    def _code_stays(self, visitor: Visitor, words: Words) -> None:
        import gradio as gr

        if visitor.mode == "code":
            gr.Info(words("web_code_kept"))


def _tell(visitor: Visitor, words: Words) -> None:
    """What has become of the conversations on disk."""
    import gradio as gr

    if aside := visitor.kept.mended():
        gr.Warning(html.escape(words("web_mended", name=aside)))


def _seen(visitor: Visitor) -> None:
    """Everything was drawn that there is."""
    if visitor.turn is not None:
        visitor.turn.is_drawn, visitor.turn.shown = visitor.turn.is_over, visitor.turn.asking


async def _coming(visitor: Visitor) -> RunningTurn | None:
    """The turn that begins or goes on at this moment; None: it was refused."""
    for _ in range(round(BEGIN_SECONDS / POLL_SECONDS)):
        turn = visitor.turn
        if turn is not None and not turn.is_drawn and (turn.asking is None or turn.asking is not turn.shown):
            return turn
        await asyncio.sleep(POLL_SECONDS)
    return None


def _system(text: Any) -> str | None:
    return str(text).strip() or None if text is not None else None


def _settings(sliders: tuple[float, ...]) -> Settings:
    if len(sliders) != len(RANGES):
        raise UsageError(f"there are {len(sliders)} settings; there must be {len(RANGES)}")
    values: dict[str, Any] = dict(zip(RANGES, sliders, strict=True))
    return Settings(**values)


def _read(files: Any) -> list[tuple[str, bytes]]:
    """The files of a message. Gradio has made sure that each was uploaded, and lies in its own folder."""
    if not isinstance(files, list) or len(files) > MOST_FILES:
        raise UsageError(f"a message has at most {MOST_FILES} files")
    paths = [Path(str(file)) for file in files]
    large = next((path for path in paths if path.stat().st_size > MOST_FILE_BYTES), None)
    if large is not None:
        raise UsageError(f"the file {large.name!r} is too large; it may have {MOST_FILE_BYTES:,} bytes")
    return [(path.name, path.read_bytes()) for path in paths]
