"""An engine that writes what a script says, and a tokenizer whose tokens are bytes. Role markers are tokens."""

import re
import threading
from types import SimpleNamespace

from byte_text import SPECIALS, ByteDecoder, encode

from chatglm.chat.parser import StreamParser
from chatglm.chat.template import render
from chatglm.engine.request import Output, Request, Status

CALL = "<|observation|>"
END = "<eos>"


class ByteTokenizer:
    vocab_file = __file__

    def __init__(self, version="chatglm3"):
        self.version = version
        self.stop_ids = tuple(SPECIALS[name] for name in (END, "<|user|>", CALL)[: 3 if version == "chatglm3" else 1])

    def render(self, messages, **options):
        return render(messages, encode, SPECIALS, version=self.version, **options)

    def stream_parser(self, tools=None):
        assistant = SPECIALS["<|assistant|>"] if self.version == "chatglm3" else None
        return StreamParser(ByteDecoder(), assistant_id=assistant, stop_ids=self.stop_ids, tools=tools)


def written(text):
    """The ids a model writes for a text with special tokens in it; a list of ids is written as it is."""
    if isinstance(text, list):
        return text
    parts = re.split("(" + "|".join(map(re.escape, SPECIALS)) + ")", text)
    return [token_id for part in parts for token_id in ([SPECIALS[part]] if part in SPECIALS else part.encode())]


class ScriptedEngine:
    """Writes the texts of `script` in turn; an exception in it is a failing engine, a callable makes the text."""

    def __init__(self, *script, context=100_000):
        self.script, self.context = list(script), context
        self.prompts, self.params, self.aborted = [], [], 0
        self.lock = threading.Lock()

    def stats(self):
        return SimpleNamespace(cache_tokens=self.context)

    def submit(self, prompt_ids, params=None):
        with self.lock:
            self.prompts.append(list(prompt_ids))
            self.params.append(params)
            step = self.script.pop(0)
        request = Request(list(prompt_ids), params, frozenset(params.stop_token_ids))
        request.answer = step(prompt_ids) if callable(step) else step
        return request

    def stream(self, request):
        try:
            if isinstance(request.answer, Exception):
                request.finish_reason = "error"
                yield Output(request.request_id, (), finish_reason="error", error=repr(request.answer))
                return
            for token in written(request.answer):
                if token in request.stop_ids:
                    request.stop_id, request.finish_reason = token, "stop"
                    break
                if request.num_output >= (request.params.max_tokens or self.context):
                    request.finish_reason = "length"
                    break
                request.token_ids.append(token)
                yield Output(request.request_id, (token,))
            else:
                request.finish_reason = "length"
            yield Output(request.request_id, (), finish_reason=request.finish_reason)
        finally:
            self.aborted += request.finish_reason is None
            request.status = Status.FINISHED

    def abort(self, request):
        request.finish_reason = "abort"


def call(name, /, **arguments):
    """What the model writes to call a tool, up to the token it then waits at."""
    values = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{name}\n ```python\ntool_call({values})\n```{CALL}"


def code(text):
    return f"interpreter\n ```python\n{text}\n```{CALL}"


def say(text):
    return f"\n {text}{END}"
