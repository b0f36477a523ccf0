"""Many prompts at once, each with settings of its own."""

import chatglm

model, tokenizer = chatglm.load()
engine = chatglm.engine_for(model, tokenizer)
questions = ["你好", "Who are you?", "法国的首都是哪里？", "3 + 5 = ?"]
requests = [
    engine.submit(
        tokenizer.render([chatglm.Message("user", question)]).ids,
        chatglm.SamplingParams(temperature=0 if index % 2 else 0.7, seed=index, max_tokens=60),
    )
    for index, question in enumerate(questions)
]
for question, request in zip(questions, requests, strict=True):
    print(question, "->", engine.wait(request).text.strip())
print(engine.stats())
