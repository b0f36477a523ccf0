"""Which answer does the model find likelier?"""

import chatglm

model, tokenizer = chatglm.load()
engine = chatglm.engine_for(model, tokenizer)
prompt = tokenizer.render([chatglm.Message("user", "What is the capital of France?")]).ids
answers = ["The capital of France is Paris.", "The capital of France is Rome."]
continuations = [tokenizer.tokenizer.encode("\n") + tokenizer.tokenizer.encode(answer) for answer in answers]
for answer, score in zip(answers, engine.score_many([(prompt, ids) for ids in continuations]), strict=True):
    print(f"{score.logprob:8.2f}  {answer}")
