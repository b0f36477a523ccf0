"""The official calls as methods of the language model. What they do lives in `chatglm.official`, the room above."""

from typing import Any


class OfficialHabits:
    """Mixin of the language model; each method is the function of the same name in `chatglm.official.chat`."""

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        from chatglm.official import chat

        return chat.chat(self, *args, **kwargs)

    def stream_chat(self, *args: Any, **kwargs: Any) -> Any:
        from chatglm.official import chat

        return chat.stream_chat(self, *args, **kwargs)

    def stream_generate(self, *args: Any, **kwargs: Any) -> Any:
        from chatglm.official import chat

        return chat.stream_generate(self, *args, **kwargs)

    def forget_earlier_turns(self, *args: Any, **kwargs: Any) -> Any:
        from chatglm.official import chat

        return chat.forget_earlier_turns(self, *args, **kwargs)

    def process_response(self, *args: Any, **kwargs: Any) -> Any:
        from chatglm.official import chat

        return chat.process_response(self, *args, **kwargs)

    def build_inputs(self, *args: Any, **kwargs: Any) -> Any:
        from chatglm.official import chat

        return chat.build_inputs(self, *args, **kwargs)

    def build_stream_inputs(self, *args: Any, **kwargs: Any) -> Any:
        from chatglm.official import chat

        return chat.build_stream_inputs(self, *args, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> Any:
        from chatglm.official import chat

        return chat.quantize(self, *args, **kwargs)
