"""The metrics of several workers as one text, each value with the worker that it is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from persistence_service.fleet.messages import Family, Sample
from persistence_service.observability.metrics import Metrics, exposition

WORKER_LABEL: Final = "worker"


def families_of(metrics: Metrics) -> list[Family]:
    """A worker's own metrics, as they are sent."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(sample.name, sample.labels, repr(sample.value)) for sample in metric.samples],
        )
        for metric in metrics.collect()
    ]


def joint_text(scrapes: Mapping[int, Iterable[Family]], workers: int) -> bytes:
    """All of them in Prometheus' text format: the values of each metric together, labelled with the worker's number."""
    metrics: dict[str, Metric] = {}
    for slot, families in sorted(scrapes.items()):
        for family in families:
            metric = metrics.setdefault(family.name, Metric(family.name, family.description, family.kind))
            for sample in family.samples:
                labels = {**sample.labels, WORKER_LABEL: str(slot + 1)}
                metric.add_sample(sample.name, labels, float(sample.value))
    up = GaugeMetricFamily("persistence_workers_up", "Workers of the service that answer", value=len(scrapes))
    each = GaugeMetricFamily("persistence_worker_up", "1 while this worker answers", labels=[WORKER_LABEL])
    for slot in range(workers):
        each.add_metric([str(slot + 1)], slot in scrapes)
    return exposition([*metrics.values(), up, each])
