"""Prometheus metrics: one instance with a registry of its own, handed to those who count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """All metrics of one process. Gauges are read when they are scraped, through functions given to `watch`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter(
            "api_requests_total", "Requests answered", ["endpoint", "method", "status"], registry=registry
        )
        self._duration = Histogram(
            "api_duration_seconds", "Time to answer", ["endpoint"], buckets=_FAST, registry=registry
        )
        self._buffer_size = Gauge("buffer_size", "Records not yet in the backend", ["type"], registry=registry)
        self._flushes = Counter(
            "persistence_flushes_total", "Flushes by what started them", ["reason"], registry=registry
        )
        self._flush_seconds = Histogram("persistence_flush_seconds", "Time of a flush", registry=registry)
        self._rows = Counter(
            "persistence_rows_written_total", "Rows merged into the backend", ["collection"], registry=registry
        )
        self._failures = Counter(
            "persistence_flush_failures_total", "Failed flush attempts", ["error"], registry=registry
        )
        self._letters = Counter(
            "persistence_dead_letters_total",
            "Records that became dead letters",
            ["collection", "reason"],
            registry=registry,
        )
        self._dropped = Counter(
            "persistence_records_dropped_total",
            "Records that came after their session was deleted",
            ["collection"],
            registry=registry,
        )

    def answered(self, endpoint: str, method: str, status: int, seconds: float) -> None:
        """Count one answer; `endpoint` is the route's template, never the path as sent."""
        self._requests.labels(endpoint, method, str(status)).inc()
        self._duration.labels(endpoint).observe(seconds)

    def flushed(self, reason: str, seconds: float, rows: Mapping[str, int]) -> None:
        """Count one flush and the rows it wrote, by collection."""
        self._flushes.labels(reason).inc()
        self._flush_seconds.observe(seconds)
        for collection, count in rows.items():
            self._rows.labels(collection).inc(count)

    def flush_failed(self, error: str) -> None:
        """Count a failed attempt by the stable code of its error."""
        self._failures.labels(error).inc()

    def dead_lettered(self, collection: str, reason: str) -> None:
        """Count a record that became a dead letter."""
        self._letters.labels(collection, reason).inc()

    def dropped(self, collection: str, records: int) -> None:
        """Count records that were deleted before they arrived."""
        if records:
            self._dropped.labels(collection).inc(records)

    def watch_buffer(self, kind: str, size: Callable[[], float]) -> None:
        """Show `size()` as `buffer_size{type=kind}`."""
        self._buffer_size.labels(kind).set_function(size)

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Show `value()` as the gauge `persistence_<name>`."""
        Gauge(f"persistence_{name}", description, registry=self._registry).set_function(value)

    def watch_by(self, name: str, description: str, label: str, values: Callable[[], Mapping[str, float]]) -> None:
        """Show each of `values()` as the gauge `persistence_<name>{label=…}`."""
        self._registry.register(_Labelled(f"persistence_{name}", description, label, values))

    def watch_total(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Show `value()`, which never goes down, as the counter `persistence_<name>_total`."""
        self._registry.register(_Total(f"persistence_{name}", description, value))

    def render(self) -> bytes:
        """Everything in Prometheus' text format, version 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Everything, as values."""
        return self._registry.collect()


def exposition(metrics: Iterable[Metric]) -> bytes:
    """`metrics`, whoever counted them, in Prometheus' text format, version 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Given(metrics))
    return generate_latest(registry)


class _Given(Collector):
    """What was collected elsewhere."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering collects nothing."""
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _Total(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, description: str, value: Callable[[], float]) -> None:
        self._name = name
        self._description = description
        self._value = value

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._description, value=self._value())


class _Labelled(Collector):
    """A gauge with one label, whose values somebody else knows."""

    def __init__(self, name: str, description: str, label: str, values: Callable[[], Mapping[str, float]]) -> None:
        self._name = name
        self._description = description
        self._label = label
        self._values = values

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._description, labels=[self._label])
        for label, value in self._values().items():
            family.add_metric([label], value)
        yield family
