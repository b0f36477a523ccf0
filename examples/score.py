"""Which answer does the model find likelier?"""

import chatglm

model, tokenizer = chatglm.load()
engine = chatglm.engine_for(model, tokenizer)
prompt = tokenizer.render([chatglm.Message("user", "What is the capital of France?")]).ids
for answer in ("The capital of France is Paris.", "The capital of France is Rome."):
    continuation = tokenizer.tokenizer.encode("\n") + tokenizer.tokenizer.encode(answer)
    score = engine.score(prompt, continuation)
    print(f"{score.logprob:8.2f}  {answer}")
