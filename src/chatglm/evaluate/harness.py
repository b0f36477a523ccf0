"""This package's models in lm-evaluation-harness, as the model `chatglm`.

    python -m chatglm.evaluate.harness run --model chatglm --model_args pretrained=FOLDER --include_path DIR --tasks ...

is `lm_eval` that knows the model: the harness looks for models only in itself. In Python, `register()` does the same.
"""

import importlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from chatglm.errors import MissingExtraError, UsageError
from chatglm.evaluate.asking import Query

_CHAT = "\x00chat"  # stands before a conversation that is handed through the harness as a text
NAME = "chatglm"


def register() -> type[Any]:
    """Make the model known to the harness; gives its class.

    Raises:
        MissingExtraError: lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import LM  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from lm_eval.api.registry import model_registry  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtraError("lm-eval", "lm-eval", "lm-evaluation-harness") from None
    made: type[Any] = type("ChatGLM", (_Answers, LM), {})
    # Its own models first: it takes a registry with anything in it for complete.
    importlib.import_module("lm_eval.models")

    if NAME not in model_registry:
        model_registry.register(NAME, target=made)
    return made


class _Answers:
    """What the harness asks of a model, answered by the engine.

    Args:
        pretrained: folder or hub name; "embedded": the embedded model.
        batch_size, max_batch_size: taken for compatibility; the engine batches by itself.
        device, dtype, quantize, adapter: as for `chatglm.load`.
        at_once: queries computed at once.
        loaded: a model and its tokenizer, instead of loading one.
    """

    tokenizer_name = "chatglm"

    def __init__(
        self,
        pretrained: str = "embedded",
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: str | None = None,
        dtype: str | None = None,
        quantize: str | None = None,
        adapter: str | None = None,
        at_once: int = 32,
        loaded: tuple[Any, Any] | None = None,
    ) -> None:
        from chatglm.evaluate.local import LocalModel
        from chatglm.loading import best_device, load

        super().__init__()
        name = None if pretrained == "embedded" else pretrained
        if device == "cuda:0" and best_device() != "cuda":
            device = None  # what the harness says where nobody has named a device
        if loaded is None:
            loaded = load(name, device=device, dtype=dtype, quantize=quantize, adapter=adapter)
        model, tokenizer = loaded
        self.tokenizer: Any = tokenizer
        self.asked = LocalModel(model, tokenizer, pretrained, int(at_once))

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation, marked; it is rendered to ids later, so that no text in it can become a role."""
        if not add_generation_prompt:
            raise UsageError("an answer that is begun for the model is not known to the chat format of ChatGLM")
        return _CHAT + json.dumps(list(chat_history), ensure_ascii=False)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """A name for the format, for the harness's records."""
        return "chatglm" if chat_template else ""

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """How likely each continuation is behind its context, and whether it would be written."""
        pairs = [self._pair(*request.args) for request in requests]
        return [(score.logprob, score.greedy) for score in self.asked.engine.score_many(pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The likelihood of each text, every token scored once, in windows of the context's size."""
        from chatglm.evaluate.perplexity import perplexity

        model, found = self.asked.engine.model, []
        for request in requests:
            context = int(model.config.max_position_embeddings)
            told = perplexity(model, self.tokenizer, request.args[0], context)
            found.append(-told.loss * told.tokens)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A text for each context, greedy, up to one of the stop strings."""
        waiting = deque(self._query(str(number), *request.args) for number, request in enumerate(requests))
        texts = {reply.key: reply.text for reply in self.asked.replies(waiting)}
        return [texts[str(number)] for number in range(len(requests))]

    def _query(self, key: str, context: str, options: Mapping[str, Any]) -> Query:
        if options.get("do_sample") or options.get("temperature"):
            raise UsageError(f"the task wants sampling ({dict(options)}); the model chatglm answers greedily only")
        stop = options.get("until") or ()
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        most = int(options.get("max_gen_toks", options.get("max_new_tokens", 256)))
        chat = context.startswith(_CHAT)
        if not chat:
            return Query(key, context, max_tokens=most, stop=stop)
        messages = json.loads(context[len(_CHAT) :])
        if len(messages) != 1 or messages[0]["role"] != "user":
            raise UsageError("conversations of several messages are not asked through the harness; leave out multiturn")
        return Query(key, messages[0]["content"], chat=True, max_tokens=most, stop=stop)

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both. Blanks at the end of a context belong to the continuation, as everywhere in the harness."""
        encode, prefix = self.tokenizer.encode_text, self.tokenizer.get_prefix_tokens()
        if context.startswith(_CHAT):
            messages = json.loads(context[len(_CHAT) :])
            lead = encode("\n", plain=True) if self.tokenizer.version == "chatglm3" else []
            return [*self.tokenizer.render(messages).ids, *lead], encode(continuation.lstrip(" "), plain=True)
        kept = context.rstrip(" ")
        begin = encode(kept, plain=True)
        whole = encode(context + continuation, plain=True)
        return [*prefix, *begin], whole[len(begin) :]


def main() -> None:
    """`lm_eval`, with the model `chatglm`."""
    register()
    from lm_eval.__main__ import cli_evaluate  # type: ignore[import-not-found, import-untyped, unused-ignore]

    cli_evaluate()


if __name__ == "__main__":
    main()
