"""The prompt a tool call needs, and how an answer with a call is read. Nothing the model writes is evaluated."""

import chatglm

_, tokenizer = chatglm.load()
tools = [
    {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
question = [{"role": "user", "content": "北京天气怎么样？"}]
prompt = tokenizer.apply_chat_template(question, tools=tools, add_generation_prompt=True, return_dict=False)
print(tokenizer.decode(prompt))

# What ChatGLM3-6B answers, token by token; the embedded model has not learned tools.
written = chatglm.Message("assistant", "```python\ntool_call(city='北京')\n```", metadata="get_weather")
answer = tokenizer.render([written], add_generation_prompt=False).ids[3:]  # without [gMASK] sop <|assistant|>
parser = tokenizer.stream_parser(tools={"get_weather"})
for token in answer:
    for event in parser.feed(token):
        print(event)
print(parser.finish())
print(parser.segments[0].call)
