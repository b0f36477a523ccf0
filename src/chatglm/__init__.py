"""Run, serve, tune, quantize and evaluate ChatGLM3-6B and ChatGLM2-6B on today's PyTorch and transformers."""

__version__ = "0.1.0"

from chatglm import _registration

_registration.install()
