"""What the server counts, in the text form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# name of ours -> (field of the engine's `Stats`, what it is)
_GAUGES = {
    "engine_running": ("running", "Requests that are being computed"),
    "engine_waiting": ("waiting", "Requests that wait for the engine"),
    "cache_tokens": ("cache_tokens", "Tokens the cache has room for"),
    "cache_tokens_free": ("cache_tokens_free", "Tokens the cache has room for now"),
}
_COUNTERS = {
    "engine_steps": ("steps", "Steps of the engine"),
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts that were computed"),
    "output_tokens": ("output_tokens", "Tokens that were generated"),
    "prefix_tokens_queried": ("prefix_tokens_queried", "Tokens of prompts that were looked for in the cache"),
    "prefix_tokens_hit": ("prefix_tokens_hit", "Tokens of prompts that were found in the cache"),
    "preemptions": ("preemptions", "Requests that had to give their memory back and begin again"),
    "drafts_proposed": ("drafts_proposed", "Tokens that were guessed ahead"),
    "drafts_accepted": ("drafts_accepted", "Guessed tokens that came true"),
}


class Metrics:
    """The counters of one server.

    Args:
        engine: whose `stats()` are told as well.
        gate: whose `running` and `waiting` are told as well.
    """

    def __init__(self, engine: Any, gate: Any) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "chatglm_requests", "Requests by route and status", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "chatglm_request_seconds", "From a request to the end of its answer", ("route",),
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self.first_token = Histogram(
            "chatglm_time_to_first_token_seconds", "From a request to its first token",
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self.between = Histogram(
            "chatglm_time_between_tokens_seconds", "From a step with tokens of an answer to the next",
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self.finished = Counter(
            "chatglm_answers", "Answers by the reason they ended for", ("reason",), registry=self.registry
        )
        self.registry.register(_Engine(engine, gate))

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


class _Engine:
    """Asks the engine and the gate whenever somebody reads."""

    def __init__(self, engine: Any, gate: Any) -> None:
        self.engine, self.gate = engine, gate

    def collect(self) -> Iterator[Metric]:
        stats = self.engine.stats()
        for name, (field, what) in _GAUGES.items():
            yield GaugeMetricFamily(f"chatglm_{name}", what, value=getattr(stats, field))
        for name, (field, what) in _COUNTERS.items():
            yield CounterMetricFamily(f"chatglm_{name}", what, value=getattr(stats, field))
        yield GaugeMetricFamily("chatglm_requests_running", "Requests being answered", value=self.gate.running)
        yield GaugeMetricFamily("chatglm_requests_waiting", "Requests in line", value=self.gate.waiting)
        failed = getattr(self.engine, "failed", None)
        yield GaugeMetricFamily("chatglm_engine_failed", "Whether the engine has died", value=float(bool(failed)))

    def describe(self) -> Iterator[Metric]:
        """Nothing is read when this is registered."""
        return iter(())
