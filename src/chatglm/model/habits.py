"""The official calls as methods of the language model. What they do lives in `chatglm.official`, the room above."""

import importlib
import sys
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatglm.official import chat as official
    from chatglm.official import first


class _Official:
    """A method that is the function of the same name in a file of `chatglm.official`, opened when it is looked up.

    So signature and help are the function's. Looked up through a peft wrapper, which hands on what it lacks, it is
    bound to the wrapper: only that one knows the adapters which lie beside the modules of the model.
    """

    def __init__(self, file: str = "chat") -> None:
        self.file = file

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        function: FunctionType = getattr(importlib.import_module(f"chatglm.official.{self.file}"), self.name)
        return function if model is None else MethodType(function, _asked_for(model))


def _asked_for(model: Any) -> Any:
    """The outermost peft wrapper whose `__getattr__` led here, or the model itself."""
    frame, found = sys._getframe(2), model
    while frame is not None and frame.f_code.co_name == "__getattr__":
        wrapper = frame.f_locals.get("self")
        if hasattr(type(wrapper), "get_base_model"):
            found = wrapper
        frame = frame.f_back  # type: ignore[assignment]
    return found


class OfficialHabits:
    """Mixin of the language model."""

    if TYPE_CHECKING:
        chat = official.chat
        stream_chat = official.stream_chat
        stream_generate = official.stream_generate
        forget_earlier_turns = official.forget_earlier_turns
        process_response = official.process_response
        build_inputs = official.build_inputs
        build_stream_inputs = official.build_stream_inputs
        quantize = official.quantize
    else:
        chat = _Official()
        stream_chat = _Official()
        stream_generate = _Official()
        forget_earlier_turns = _Official()
        process_response = _Official()
        build_inputs = _Official()
        build_stream_inputs = _Official()
        quantize = _Official()


class FirstHabits(OfficialHabits):
    """Mixin of the language model of the first generation, whose calls have defaults of their own."""

    if TYPE_CHECKING:
        chat = first.chat  # type: ignore[assignment]
        stream_chat = first.stream_chat  # type: ignore[assignment]
        process_response = first.process_response  # type: ignore[assignment]
        build_stream_inputs = first.build_stream_inputs
    else:
        chat = _Official("first")
        stream_chat = _Official("first")
        process_response = _Official("first")
        build_stream_inputs = _Official("first")
