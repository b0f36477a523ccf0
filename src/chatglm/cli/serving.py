"""`chatglm serve`."""

from __future__ import annotations

import argparse
from typing import Any

from chatglm.cli.options import TIERS, add_loading, add_server
from chatglm.cli.parser import add_command


def add_serve(commands: Any) -> None:
    command = add_command(
        commands,
        "serve",
        _serve,
        "answer over HTTP in the OpenAI format",
        "Answer over HTTP in the OpenAI and Anthropic formats, many requests at once.",
    )
    command.add_argument(
        "model", nargs="?", metavar="MODEL", help="folder or hub name (default: the embedded tiny model)"
    )
    _add_address(command.add_argument_group("address"))
    _add_limits(command.add_argument_group("limits"))
    _add_vllm(command.add_argument_group("engine"))
    _add_extras(command.add_argument_group("more"))
    _add_cluster(command.add_argument_group("several replicas (Ray Serve)"))
    add_loading(command)


def _add_address(group: Any) -> None:
    group.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen at (default: this machine only)"
    )
    group.add_argument("--port", type=int, default=8000, metavar="P", help="port (default: 8000; 0: any that is free)")
    group.add_argument("--name", metavar="NAME", help="the model's name in answers (default: that of the folder)")
    group.add_argument("--alias", action="append", metavar="NAME", help="a further name it answers to")
    group.add_argument("--api-key-file", metavar="FILE", help="keys, one a line; also: the variable CHATGLM_API_KEYS")
    group.add_argument("--allow-host", action="append", metavar="NAME", help="a name this server is known under")
    group.add_argument("--allow-origin", action="append", metavar="URL", help="a web page that may ask (CORS)")
    group.add_argument("--tls-cert", metavar="FILE", help="certificate, for https")
    group.add_argument("--tls-key", metavar="FILE", help="its key")


def _add_limits(group: Any) -> None:
    for name, kind, what in (
        ("max-tokens", int, "tokens of an answer where a request does not say (default: what the context holds)"),
        ("max-tokens-limit", int, "tokens of an answer at most"),
        ("max-choices", int, "n and best_of at most (default: 16)"),
        ("max-running", int, "requests of one key answered at once (default: 256)"),
        ("max-waiting", int, "requests of one key in line; more are told to come back (default: 256)"),
        ("max-body-bytes", int, "size of a request (default: 16 MiB)"),
        ("max-file-bytes", int, "size of an uploaded file (default: 100 MiB)"),
        ("max-stored-bytes", int, "of all files of one key (default: 1 GiB)"),
        ("timeout", float, "seconds a request may take (default: 600)"),
        ("write-timeout", float, "seconds a client may leave a piece unread, or keep one back (default: 60)"),
        ("grace", float, "seconds that running answers have when the server ends (default: 30)"),
    ):
        group.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    _add_engine(group)
    group.add_argument("--temperature", type=float, metavar="X", help="where a request does not say (default: 0.8)")
    group.add_argument("--top-p", type=float, metavar="X", help="where a request does not say (default: 0.8)")


def _add_engine(group: Any) -> None:
    group.add_argument(
        "--max-batch", type=int, default=64, metavar="N", help="requests computed at once, of all keys (default: 64)"
    )
    group.add_argument(
        "--cache-memory",
        type=float,
        metavar="GB",
        help="memory for keys and values (default: a quarter of what is free, nine tenths on a GPU)",
    )


def _add_vllm(group: Any) -> None:
    group.add_argument(
        "--engine", choices=("own", "vllm"), default="own", help="what generates: this package, or vLLM on GPUs"
    )
    group.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="N", help="with --engine vllm: GPUs that share the model"
    )


def _add_extras(group: Any) -> None:
    group.add_argument(
        "--legacy", action="store_true", default=None, help="also the route of the official ChatGLM2 api.py"
    )
    group.add_argument(
        "--allow-lora", metavar="FOLDER", help="let clients load LoRA adapters from folders below this one"
    )
    group.add_argument(
        "--embedding-model",
        metavar="NAME",
        help="folder or hub name of a sentence-transformers model, for embeddings under its own name",
    )
    group.add_argument(
        "--files-dir",
        metavar="FOLDER",
        help="where uploaded files and batches are kept (default: a private folder that is gone with the server)",
    )
    group.add_argument(
        "--agent", action="store_true", default=None, help="also conversations that use this server's tools and code"
    )
    group.add_argument(
        "--tools", action="append", metavar="WHICH", help="with --agent: its tools, named as for chatglm chat"
    )
    group.add_argument(
        "--code", action="store_true", default=None, help="with --agent: an isolated interpreter for each conversation"
    )
    group.add_argument(
        "--tier", choices=TIERS[:-1], help="with --code: how it is isolated (default: the strongest there is)"
    )
    group.add_argument("--max-conversations", type=int, metavar="N", help="with --agent: of one key (default: 8)")
    group.add_argument(
        "--conversation-idle",
        type=float,
        metavar="S",
        help="with --agent: seconds after which one is ended (default: 900)",
    )
    group.add_argument("--log-prompts", action="store_true", default=None, help="write what people ask into the log")
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what is logged (default: info)",
    )


def _add_cluster(group: Any) -> None:
    group.add_argument(
        "--replicas", metavar="N", help="so many servers behind one address; 1-8: as many of these as there is work for"
    )
    group.add_argument(
        "--cluster",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="put them on a Ray cluster that runs (default: the one of this machine) and leave them there; again: "
        "replace them one by one",
    )
    group.add_argument("--replica-cpus", type=float, metavar="N", help="cores of a replica (default: an equal share)")
    group.add_argument("--replica-gpus", type=float, metavar="N", help="GPUs of a replica (default: 1 where there are)")


def _serve(options: argparse.Namespace) -> int:
    if options.replicas is not None or options.cluster is not None:
        from chatglm.serve.cluster.deploy import start_cluster

        return start_cluster(options)
    from chatglm.serve.run import start_server

    return start_server(options)


def add_batch(commands: Any) -> None:
    command = add_command(
        commands,
        "batch",
        _batch,
        "answer a file of requests",
        "Answer a file of requests in OpenAI's batch format: a line is an object with custom_id, method, url and body. "
        "Run again after it was ended: it goes on with what has no answer yet. Exit status 1: some rows have an error.",
    )
    command.add_argument("input", metavar="IN", help="the file of requests")
    command.add_argument("output", metavar="OUT", help="the file of answers, in the order in which they came")
    command.add_argument("--model", metavar="M", help="folder or hub name (default: the embedded tiny model)")
    command.add_argument(
        "--name", metavar="NAME", help="the model's name in the requests (default: that of the folder)"
    )
    command.add_argument("--alias", action="append", metavar="NAME", help="a further name it answers to")
    command.add_argument(
        "--concurrency", type=int, default=32, metavar="N", help="requests that are answered at once (default: 32)"
    )
    _add_engine(command)
    add_server(command)
    add_loading(command)


def _batch(options: argparse.Namespace) -> int:
    from chatglm.serve.batch_command import start_batch

    return start_batch(options)
