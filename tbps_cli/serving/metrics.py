"""Counters of a server in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tbps_cli.serving.served import ServedGallery

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """What a server counts; each server has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("tbps_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "tbps_request_seconds", "Seconds until a request was answered.", ["route"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.batches = Histogram(
            "tbps_text_batch", "Sentences that went through the model together.", buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )  # fmt: skip
        self.waiting = Gauge("tbps_waiting", "Requests inside, by kind of work.", ["work"], registry=self.registry)
        self.images = Gauge("tbps_gallery_images", "Images of a gallery.", ["gallery"], registry=self.registry)

    def text(self, galleries: Sequence[ServedGallery]) -> bytes:
        """All of them, as GET /metrics gives them."""
        for served in galleries:
            self.images.labels(served.name).set(len(served.view.gallery) if served.view else 0)
        return generate_latest(self.registry)
