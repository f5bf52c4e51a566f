"""What the operator counts, under controller-runtime's names so that existing dashboards fit.

The reconciler, the client and the status server count; `probes` serves /metrics. There is no metric
with a resource's name: ten thousand resources must not become ten thousand time series.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_operator.watch.store import Key
from finetune_operator.watch.work_queue import WorkQueue

CONTROLLER = "languagefinetune"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The operator's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "controller_runtime_reconcile",
            "Reconciliations by result.",
            ["controller", "result"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Duration of a reconciliation.",
            ["controller"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "workqueue_queue_duration_seconds",
            "Time that a resource waits in the queue.",
            ["name"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.requests = Counter(
            "rest_client_requests",
            "Requests to the API server by method and status code; code 0 got no answer.",
            ["method", "code"],
            registry=self.registry,
        )
        self.progress_reports = Counter(
            "finetune_progress_reports",
            "Progress reports of training pods by the answer they got.",
            ["code"],
            registry=self.registry,
        )
        self.progress_writes = Counter(
            "finetune_progress_writes", "Writes of status.progress.", registry=self.registry
        )
        self.leading = Gauge(
            "leader_election_master_status",
            "1 where this replica leads.",
            registry=self.registry,
        )

    def count_request(self, method: str, code: int) -> None:
        """Count an answer of the API server."""
        self.requests.labels(method, str(code)).inc()

    def watch_queue(self, queue: WorkQueue[Key]) -> None:
        """Show the state of the queue at each scrape."""
        self.registry.register(_QueueCollector(queue))


class _QueueCollector(Collector):
    def __init__(self, queue: WorkQueue[Key]) -> None:
        self._queue = queue

    def collect(self) -> list[Metric]:
        """Return the queue's present figures."""
        figures = (
            ("workqueue_depth", "Resources that wait.", float(len(self._queue.keys))),
            (
                "workqueue_unfinished_work_seconds",
                "Seconds spent on what is not finished.",
                self._queue.unfinished_s(),
            ),
            (
                "workqueue_longest_running_processor_seconds",
                "Seconds of the slowest worker.",
                self._queue.longest_processing_s(),
            ),
        )
        retries = CounterMetricFamily("workqueue_retries", "Back-offs so far.", labels=["name"])
        retries.add_metric([CONTROLLER], float(self._queue.keys.retries))
        families: list[Metric] = [retries]
        for name, about, value in figures:
            family = GaugeMetricFamily(name, about, labels=["name"])
            family.add_metric([CONTROLLER], value)
            families.append(family)
        return families
