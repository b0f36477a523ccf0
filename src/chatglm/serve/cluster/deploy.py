"""`chatglm serve --replicas` and `--cluster`: replicas and their front on Ray Serve."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import tempfile
import threading
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from chatglm.errors import ConfigError, MissingExtraError
from chatglm.serve.access import Keys
from chatglm.serve.cluster.front import Front
from chatglm.serve.cluster.keeper import Keeper
from chatglm.serve.cluster.replica import Replica
from chatglm.serve.config import ServerConfig
from chatglm.serve.run import checked, free_address, note

APP = "chatglm"
REPLICAS_OF_A_FRONT = 2  # half a millisecond of a processor for each piece of an answer that it passes on
_NO_LIMIT = 100_000  # requests at a front; what is too much is refused by the replicas
_HEALTH_SECONDS = 5.0
_PROXY_SECONDS = 60.0
_BUSY = 0.75  # share of a replica's batch above which there should be another replica


@dataclass(frozen=True, slots=True)
class Size:
    """How many replicas there are, and what each one needs.

    Raises:
        ConfigError: numbers that make no sense.
    """

    least: int
    most: int
    cpus: float
    gpus: float | None  # None: one, where the cluster has any

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            asked = self.least if self.least == self.most else f"{self.least}-{self.most}"
            raise ConfigError(f"--replicas is {asked}; it must be a number of at least 1, or two: 1-8")
        if self.cpus <= 0 or (self.gpus or 0) < 0:
            raise ConfigError(f"--replica-cpus is {self.cpus} and --replica-gpus {self.gpus}; they must be above 0")

    @classmethod
    def of(cls, options: argparse.Namespace) -> Size:
        """What the options ask for; by default the machine is shared equally."""
        first, _, last = (options.replicas or "1").partition("-")
        try:
            least, most = int(first), int(last or first)
        except ValueError:
            raise ConfigError(f"--replicas is {options.replicas!r}; it must be a number, or two: 1-8") from None
        share = (os.cpu_count() or 1) / max(1, most)
        return cls(least, most, share if options.replica_cpus is None else options.replica_cpus, options.replica_gpus)


def start_cluster(options: argparse.Namespace) -> int:
    """Run `chatglm serve --replicas` or `--cluster` with parsed options.

    Answers with several replicas: on this machine until a signal comes, or on a cluster that goes on without us.

    Returns:
        The exit status.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: an option that does not fit, or no cluster at the address.
    """
    config, keys = checked(options)
    config, size = replace(config, alone=False), Size.of(options)
    ray, serve = _ray()
    stop = threading.Event()
    stay = options.cluster is not None
    port = options.port if stay else free_address(options.host, options.port)
    kept = None
    if not stay and config.files_dir is None:
        kept = tempfile.TemporaryDirectory(prefix="chatglm-files-")  # gone with us, as with one server
        config = replace(config, files_dir=kept.name)
    _join(ray, options.cluster, size)
    if size.gpus is None:
        size = replace(size, gpus=min(1.0, ray.cluster_resources().get("GPU", 0.0)))
    try:
        if not stay:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
        serve.start(http_options=_address(options, port), proxy_location="EveryNode" if stay else "HeadOnly")
        note(f"starting {size.least} replicas of " + (options.model or "the embedded model"))
        serve.run(application(serve, options, config, keys, size), name=APP, route_prefix="/")
        scheme = "https" if options.tls_cert else "http"
        note(f"{config.name} answers at {scheme}://{options.host}:{port}/v1")
        if stay:
            note("it goes on without this program; `serve status` tells how it is, `serve shutdown` ends it")
        else:
            stop.wait()
            serve.delete(APP)  # what runs has its grace
    finally:
        if not stay:
            serve.shutdown()
        ray.shutdown()
        if kept is not None:
            kept.cleanup()
    return 0


def application(serve: Any, options: argparse.Namespace, config: ServerConfig, keys: Keys, size: Size) -> Any:
    """The front over the replicas, as Ray Serve runs them. Run again with other options they are replaced in turn."""
    count: dict[str, Any] = {"num_replicas": size.least}
    if size.most > size.least:
        target = max(1.0, _BUSY * options.max_batch)
        autoscaling = {"min_replicas": size.least, "max_replicas": size.most, "target_ongoing_requests": target}
        count = {"autoscaling_config": autoscaling}
    replicas = serve.deployment(
        Replica,
        name="replica",
        max_ongoing_requests=config.max_running + config.max_waiting,
        ray_actor_options={"num_cpus": size.cpus, "num_gpus": size.gpus},
        request_router_config={"request_router_class": _router_path()},
        health_check_period_s=_HEALTH_SECONDS,
        health_check_timeout_s=6 * _HEALTH_SECONDS,
        graceful_shutdown_timeout_s=config.grace,
        **count,
    )
    bound = replicas.bind(options, config, keys)
    keeper = None
    if config.files_dir is not None:
        keeper = serve.deployment(
            Keeper,
            name="keeper",
            max_ongoing_requests=_NO_LIMIT,
            ray_actor_options={"num_cpus": 0},
            health_check_period_s=_HEALTH_SECONDS,
            graceful_shutdown_timeout_s=config.grace,
        ).bind(bound, config, keys)
    fronts = serve.deployment(
        Front,
        name="front",
        num_replicas=ceil(size.most / REPLICAS_OF_A_FRONT),
        max_ongoing_requests=_NO_LIMIT,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=config.grace,
    )
    return fronts.bind(bound, keeper, config, keys)


def _router_path() -> str:
    from chatglm.serve.cluster.ray_router import PATH

    return PATH


def _join(ray: Any, cluster: str | None, size: Size) -> None:
    """A cluster that is there, or one of our own of this machine."""
    quiet = {"logging_level": "warning", "log_to_driver": False}
    if cluster is None:
        cores = max(os.cpu_count() or 1, ceil(size.most * size.cpus))
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address=cluster, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"there is no Ray cluster at {cluster!r}: {str(error).strip()[:200]}; start one with `ray start --head`"
        ) from None


def _address(options: argparse.Namespace, port: int) -> dict[str, Any]:
    tls = {"ssl_certfile": options.tls_cert, "ssl_keyfile": options.tls_key} if options.tls_cert else {}
    return {"host": options.host, "port": port, "keep_alive_timeout_s": 75, **tls}


def _ray() -> tuple[Any, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's own ports take orders from us alone
    for name in ("READY", "HEALTH"):  # the proxy of a machine that is busy is no dead one
        os.environ.setdefault(f"RAY_SERVE_PROXY_{name}_CHECK_TIMEOUT_S", str(_PROXY_SECONDS))
    try:
        import ray
        from ray import serve
    except ImportError:
        raise MissingExtraError("ray", "cluster", "What --replicas and --cluster start") from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return ray, serve
