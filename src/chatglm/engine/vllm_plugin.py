"""vLLM calls `register` when it starts: folders of ChatGLM then need no remote code, in `vllm serve` too.

vLLM has the network itself, for official folders and for those that `chatglm convert --to glm` writes; what official
folders bring as code is their configuration and tokenizer, and importing this package makes those known.
"""


def register() -> None:
    """Nothing is left to do: the package was imported to call this."""
