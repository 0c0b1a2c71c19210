"""What Prometheus may know, under the names that dashboards for other engines use, with `mohist:` in front.

Times and tokens of requests are counted when they are reported; the engine's state (requests running and
waiting, cache use) is read when somebody scrapes. Every series has the label `model`, which is
one of the loaded models or upstreams: a name that a client makes up makes no series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mohist.engine.engine import EngineStats
from mohist.serve.answer import Usage

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_BETWEEN_TOKENS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_REQUEST_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


class Metrics:
    """Counters and histograms of one server. `stats` says the state of each loaded engine by model."""

    def __init__(self, stats: Callable[[], Mapping[str, EngineStats]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(stats))
        histogram, counter = self._histogram, self._counter
        self._first_token = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", _FIRST_TOKEN_S
        )
        self._between = histogram(
            "inter_token_latency_seconds", "From one token of a choice to its next.", _BETWEEN_TOKENS_S
        )
        self._request = histogram(
            "e2e_request_latency_seconds", "From a request's arrival to its end.", _REQUEST_S
        )
        self._prompt = counter("prompt_tokens", "Prompt tokens, cached ones included.")
        self._queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self._hits = counter("prefix_cache_hits", "Prompt tokens that were found there.")
        self._generation = counter("generation_tokens", "Generated tokens.")
        self._success = counter("request_success", "Ended choices by the reason.", "finished_reason")
        self._refused = Counter(
            "mohist:requests_refused", "Requests answered with an error.", ("code",), registry=self._registry
        )

    def first_token(self, model: str, seconds: float) -> None:
        """A request's first token is there."""
        self._first_token(model).observe(seconds)

    def next_token(self, model: str, seconds: float) -> None:
        """A token after the first."""
        self._between(model).observe(seconds)

    def finished(self, model: str, reason: str, usage: Usage, *, seconds: float) -> None:
        """A choice has ended."""
        self._request(model).observe(seconds)
        self._success(model, reason).inc()
        self._prompt(model).inc(usage.prompt_tokens)
        self._queries(model).inc(usage.prompt_tokens)
        self._hits(model).inc(usage.cached_tokens)
        self._generation(model).inc(usage.completion_tokens)

    def refused(self, status: int) -> None:
        """A request was answered with an error status."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    # The library looks a series up under a lock and by strings made anew. That is too slow for every token.

    def _histogram(self, name: str, doc: str, buckets: tuple[float, ...]) -> Callable[[str], Histogram]:
        """A model's series."""
        made = Histogram(f"mohist:{name}", doc, ("model",), buckets=buckets, registry=self._registry)
        return cache(made.labels)

    def _counter(self, name: str, doc: str, *labels: str) -> Callable[..., Counter]:
        """The series of a model and of further labels."""
        return cache(Counter(f"mohist:{name}", doc, ("model", *labels), registry=self._registry).labels)


class _EngineCollector(Collector):
    """Reads the engines when it is asked to."""

    def __init__(self, stats: Callable[[], Mapping[str, EngineStats]]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        running = gauge("mohist:num_requests_running", "Requests in the current batch.", labels=["model"])
        waiting = gauge("mohist:num_requests_waiting", "Requests in the queue.", labels=["model"])
        usage = gauge(
            "mohist:kv_cache_usage_perc", "Cache blocks held by requests, 1 is all.", labels=["model"]
        )
        preemptions = counter("mohist:num_preemptions", "Requests sent back to the queue.", labels=["model"])
        for model, stats in self._stats().items():
            running.add_metric([model], stats.running)
            waiting.add_metric([model], stats.waiting)
            usage.add_metric([model], stats.blocks_used / stats.blocks_total)
            preemptions.add_metric([model], stats.preemptions)
        return [running, waiting, usage, preemptions]
