"""`chat` of a peft wrapper follows whatever kind of adapter is attached, as `generate()` does; never the base alone."""

import time
from typing import Any

import peft
import pytest
import torch
from golden_data import golden_file
from transformers.generation.streamers import BaseStreamer

import chatglm
from chatglm.errors import ChatGLMError, GenerationError, RequestError
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.tokenizer import ChatGLMTokenizer
from chatglm.official.reply import reply

TOKENIZER = ChatGLMTokenizer(str(golden_file("tiny_tokenizer/tokenizer.model")), version="chatglm3")
QUESTION = "你好，1 + 1 = ?"
GREEDY = {"do_sample": False, "max_new_tokens": 8}
LINEAR: dict[str, Any] = {"target_modules": ["query_key_value"], "task_type": "CAUSAL_LM"}
VIRTUAL: dict[str, Any] = {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}
KINDS: dict[str, Any] = {
    "lora": peft.LoraConfig(**LINEAR, init_lora_weights=False),
    "adalora": peft.AdaLoraConfig(**LINEAR, init_lora_weights=False, total_step=10),
    "ia3": peft.IA3Config(**LINEAR, feedforward_modules=[], init_ia3_weights=False),
    "prompt tuning": peft.PromptTuningConfig(**VIRTUAL),
    "p-tuning": peft.PromptEncoderConfig(**VIRTUAL, encoder_hidden_size=16),
    "prefix tuning": peft.PrefixTuningConfig(**VIRTUAL),
    "activated lora": peft.LoraConfig(
        **LINEAR, init_lora_weights=False, alora_invocation_tokens=[TOKENIZER.get_command("<|assistant|>")]
    ),
}
BESIDE_MODULES = {"prompt tuning", "p-tuning", "prefix tuning", "activated lora"}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft uses the old name
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),  # peft, of virtual tokens
]


def load() -> Any:
    return ChatGLMForConditionalGeneration.from_pretrained(golden_file("generation") / "model").eval()


def attached(kind: str, model: Any) -> Any:
    wrapper = peft.get_peft_model(model, KINDS[kind]).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in wrapper.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return wrapper


def generated(wrapper: Any) -> list[int]:
    prompt = TOKENIZER.build_chat_input(QUESTION)
    without_text = list(range(len(TOKENIZER), wrapper.config.vocab_size))
    options = {"eos_token_id": list(TOKENIZER.stop_ids), "pad_token_id": 0, "suppress_tokens": without_text}
    ids: list[int] = wrapper.generate(**prompt, **GREEDY, **options)[0, prompt["input_ids"].shape[1] :].tolist()
    return ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", ["", "after a chat of the base"])
def test_a_chat_follows_the_adapter(kind: str, before: str) -> None:
    model = load()
    base = load().chat(TOKENIZER, QUESTION, **GREEDY)
    if before:
        model.chat(TOKENIZER, QUESTION, **GREEDY)
    wrapper = attached(kind, model)
    expected = generated(wrapper)
    answer = reply(wrapper, TOKENIZER, [{"role": "user", "content": QUESTION}], **GREEDY)
    list(answer)
    assert answer.token_ids == expected
    said = wrapper.chat(TOKENIZER, QUESTION, **GREEDY)
    assert said != base
    *_, streamed = wrapper.stream_chat(TOKENIZER, QUESTION, **GREEDY)
    assert streamed == said
    assert wrapper.chat(TOKENIZER, QUESTION, seed=1, **(GREEDY | {"do_sample": True}))[0]
    with wrapper.disable_adapter():
        assert wrapper.chat(TOKENIZER, QUESTION, **GREEDY) == base


@pytest.mark.parametrize("scheme", ["int4", "int8"])
@pytest.mark.parametrize("kind", sorted(BESIDE_MODULES))
def test_a_quantized_model_takes_the_same_adapters(kind: str, scheme: str) -> None:
    wrapper = attached(kind, load().quantize(scheme))
    answer = reply(wrapper, TOKENIZER, [{"role": "user", "content": QUESTION}], **GREEDY)
    list(answer)
    assert answer.token_ids == generated(wrapper)


def test_stream_generate_follows_it_too() -> None:
    wrapper = attached("prompt tuning", load())
    ids = TOKENIZER.build_chat_input(QUESTION)["input_ids"]
    options = {"eos_token_id": list(TOKENIZER.stop_ids), "pad_token_id": 0}
    *_, streamed = wrapper.stream_generate(ids, **GREEDY, **options)
    assert torch.equal(streamed, wrapper.generate(input_ids=ids, **GREEDY, **options))


@pytest.mark.parametrize("kind", sorted(BESIDE_MODULES))
def test_an_engine_refuses_what_it_cannot_follow(kind: str) -> None:
    wrapper = attached(kind, load())
    named = str(wrapper.active_peft_config.peft_type.value)
    with pytest.raises(RequestError, match=named):
        chatglm.engine_for(wrapper, TOKENIZER)
    with pytest.raises(ChatGLMError, match=rf"{named}.* cannot be combined with presence_penalty"):
        wrapper.chat(TOKENIZER, QUESTION, presence_penalty=1.0)
    with wrapper.disable_adapter():
        assert chatglm.engine_for(wrapper, TOKENIZER).model is wrapper.get_base_model()


def test_a_prefix_has_a_head_for_each_group() -> None:
    wrapper = peft.get_peft_model(load(), KINDS["prefix tuning"])
    config = wrapper.config
    assert config.num_key_value_heads < config.num_attention_heads
    assert wrapper.active_peft_config.num_attention_heads == config.num_key_value_heads
    assert "num_key_value_heads" not in config.to_json_string()
    assert type(config).from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_one_answer_at_a_time_goes_through_it() -> None:
    wrapper = attached("prompt tuning", load())
    expected = wrapper.chat(TOKENIZER, QUESTION, **GREEDY)
    stream = wrapper.stream_chat(TOKENIZER, QUESTION, **GREEDY, streamer=_Waiting())
    next(stream)
    with pytest.raises(GenerationError, match="another answer"):
        wrapper.chat(TOKENIZER, QUESTION, **GREEDY)
    stream.close()
    assert wrapper.chat(TOKENIZER, QUESTION, **GREEDY) == expected


class _Waiting(BaseStreamer):
    """Keeps a generation from being over before anybody looks."""

    def put(self, value: torch.Tensor) -> None:
        time.sleep(0.2)

    def end(self) -> None:
        pass


def test_virtual_tokens_take_room() -> None:
    wrapper = attached("prompt tuning", load())
    prompt = len(TOKENIZER.build_chat_input(QUESTION)["input_ids"][0])
    with pytest.raises(ChatGLMError, match=f"has {prompt + 4} tokens"):
        wrapper.chat(TOKENIZER, QUESTION, max_length=prompt + 4)
