"""What a server allows and refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from chatglm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of one server.

    Args:
        name: the model's name in answers; other names are refused.
        aliases: further names it answers to.
        temperature, top_p: where a request says nothing; the defaults are those of the official `chat`.
        max_tokens: of an answer where a request says nothing; None: as many as the context holds.
        max_tokens_limit: of an answer at most; None: the context.
        max_choices: n and best_of, and prompts of one request, at most.
        max_bias, max_stops: entries of `logit_bias`, and of `stop` and `bad_words`.
        max_schema_bytes, max_schema_depth: of JSON schemas and grammars.
        max_body_bytes: of a request.
        max_running, max_waiting: requests of one key that are answered at once, and that may stand in line.
        timeout: seconds one request may take.
        keep_alive: seconds of silence after which a stream says that it is alive.
        write_timeout: seconds a client may leave a chunk unread before it is given up.
        grace: seconds that running requests have to end when the server is told to stop.
        origins: of web pages that may ask (CORS); none by default.
        hosts: names this server is known under; requests for others are refused. Empty: any that its address has.
        allow_lora: whether clients may load adapters, from which folders.
        legacy: whether the routes of the official ChatGLM2 server are there.
        files_dir: where uploaded files and batches are kept; None: a private folder that is gone with the server.
        max_file_bytes, max_stored_bytes: of one uploaded file, and of all that one key has.
        max_batches, batch_size: batches of one key at once, and requests of one batch that are answered at once.
        agent: whether the route that runs tools and code on the server is there.
        tools: of its conversations, as `chatglm chat --tools` names them.
        code: whether its conversations have an interpreter; `tier` is how it is isolated.
        max_conversations: of one key.
        conversation_idle: seconds after which a conversation that nobody uses is ended.
        log_prompts: whether what people write is logged.
        alone: whether every request of a client comes here; else files and batches are kept elsewhere.
    """

    name: str = "chatglm"
    aliases: tuple[str, ...] = ()
    temperature: float = 0.8
    top_p: float = 0.8
    max_tokens: int | None = None
    max_tokens_limit: int | None = None
    max_choices: int = 16
    max_bias: int = 1024
    max_stops: int = 16
    max_schema_bytes: int = 64 * 1024
    max_schema_depth: int = 32
    max_body_bytes: int = 16 * 1024 * 1024
    max_running: int = 256
    max_waiting: int = 256
    timeout: float = 600.0
    keep_alive: float = 15.0
    write_timeout: float = 60.0
    grace: float = 30.0
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    allow_lora: str | None = None
    legacy: bool = False
    files_dir: str | None = None
    max_file_bytes: int = 100 * 1024 * 1024
    max_stored_bytes: int = 1024 * 1024 * 1024
    max_batches: int = 8
    batch_size: int = 32
    agent: bool = False
    tools: tuple[str, ...] = ()
    code: bool = False
    tier: str = "auto"
    max_conversations: int = 8
    conversation_idle: float = 900.0
    log_prompts: bool = False
    alone: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and field.name not in ("temperature", "max_waiting") and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{field.name} is {value!r}; it must be above 0")
        acting = [f"--{name}" for name in ("tools", "code") if getattr(self, name)]
        if acting and not self.agent:
            raise ConfigError(f"{' and '.join(acting)} act in conversations on the server; add --agent")
        if self.allow_lora is not None and not self.alone:
            raise ConfigError(
                "--allow-lora loads into one server, and replicas are several, which come and go; "
                "have all of them load an adapter with --adapter"
            )
        if self.allow_lora is not None and not Path(self.allow_lora).is_dir():
            raise ConfigError(f"--allow-lora is {self.allow_lora!r}; it must be a folder that exists")
        if not 0 <= self.temperature <= 100 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature is {self.temperature} and top_p {self.top_p}; they must be 0 to 100 and above 0 to 1"
            )
