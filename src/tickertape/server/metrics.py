"""The record of a request as a JSON log line, as Prometheus metrics and as a `Server-Timing` header.

A record has identifiers, counts and durations. It has no audio, text, prompts, file names, headers or raw paths, so
these cannot leak.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

logger = logging.getLogger(__name__)
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Timings:
    """The facts and costs of one request. Durations are in seconds, from the monotonic clock."""

    request_id: str = ""
    key_id: str = ""  # which API key, never the key
    method: str = "GET"
    endpoint: str = ""  # the route's template; "" where none matched
    status: int = 0
    code: str = ""  # the error's code; "" on success
    trace: str = ""  # 32 hexadecimal digits, from the caller
    model: str = ""
    task: str = ""
    response_format: str = ""
    stream: bool = False
    request_bytes: int = 0
    response_bytes: int = 0
    audio_seconds: float = 0.0
    channels: int = 0
    windows: int = 0
    batch_size: float = 0.0  # mean over the windows
    fallbacks: int = 0  # temperatures tried beyond the first
    warnings: tuple[str, ...] = ()  # codes of the notices in the answer
    read: float = 0.0  # the upload
    decode_audio: float = 0.0  # bytes to samples, waiting for a thread included
    queue: float = 0.0  # the longest wait of a window
    encode: float = 0.0  # this request's share of its batches
    decode: float = 0.0  # likewise
    first_text: float = 0.0  # until the first text was there
    total: float = 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds of work per second of audio; 0 without audio."""
        return self.total / self.audio_seconds if self.audio_seconds else 0.0


def log_request(timings: Timings, *, project: str = "") -> None:
    """Log the record as one line of JSON, with the fields that Google Cloud Logging reads."""
    message = f"{timings.method} {timings.endpoint or '(no such path)'} {timings.status} {timings.code}".rstrip()
    line: dict[str, object] = {
        "time": datetime.now(timezone.utc).isoformat(),
        "httpRequest": {
            "requestMethod": timings.method,
            "requestUrl": timings.endpoint,
            "status": timings.status,
            "requestSize": str(timings.request_bytes),
            "responseSize": str(timings.response_bytes),
            "latency": f"{timings.total:.3f}s",
        },
    }
    if project and timings.trace:
        line["logging.googleapis.com/trace"] = f"projects/{project}/traces/{timings.trace}"
    for field in fields(timings):
        value = getattr(timings, field.name)
        if value not in ("", 0, 0.0, (), False):
            line[field.name] = round(value, 4) if isinstance(value, float) else value
    if timings.audio_seconds:
        line["real_time_factor"] = round(timings.real_time_factor, 4)
    logger.log(level(timings.status), "%s", message, extra={"fields": line})


def level(status: int) -> int:
    """ERROR for server errors, WARNING for client errors and overload, INFO for clients that left."""
    if status < 400 or status == 499:
        return logging.INFO
    return logging.ERROR if status >= 500 and status != 503 else logging.WARNING


def server_timing(timings: Timings) -> str:
    """The `Server-Timing` header: the duration of each stage in milliseconds."""
    parts = {
        "read": timings.read,
        "audio": timings.decode_audio,
        "queue": timings.queue,
        "encode": timings.encode,
        "decode": timings.decode,
        "total": timings.total,
    }
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items() if seconds)


def trace_id(cloud: str, traceparent: str) -> str:
    """The trace id from `X-Cloud-Trace-Context` ("ID/SPAN;o=1") or W3C `traceparent`."""
    for candidate in (cloud.partition("/")[0].lower(), f"{traceparent}--".split("-")[1].lower()):
        if _TRACE_ID.fullmatch(candidate):
            return candidate
    return ""


_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_SIZES = (1, 2, 4, 8, 16, 32)

# name: (kind, what it counts, labels, buckets)
METRICS: dict[str, tuple[str, str, tuple[str, ...], tuple[float, ...]]] = {
    "requests_total": ("counter", "Requests answered", ("endpoint", "model", "status", "code"), ()),
    "request_seconds": ("histogram", "Time to the end of the answer", ("endpoint",), _SECONDS),
    "first_text_seconds": ("histogram", "Time to the first text", ("endpoint",), _SECONDS),
    "queue_seconds": ("histogram", "Longest wait of a request's windows for the engine", ("model",), _SECONDS),
    "real_time_factor": ("histogram", "Seconds of work per second of audio", ("model",), _FACTORS),
    "batch_windows": ("histogram", "Windows decoded together, mean of a request", ("model",), _SIZES),
    "upload_bytes_total": ("counter", "Bytes of request bodies", ("endpoint",), ()),
    "audio_seconds_total": ("counter", "Audio of requests that were accepted", ("model",), ()),
    "windows_total": ("counter", "Windows decoded", ("model",), ()),
    "audio_decode_seconds_total": ("counter", "Time spent on turning bytes into samples", ("model",), ()),
    "encode_seconds_total": ("counter", "Engine time spent in the encoder", ("model",), ()),
    "decode_seconds_total": ("counter", "Engine time spent in the decoder", ("model",), ()),
    "fallbacks_total": ("counter", "Windows decoded again at a higher temperature", ("model",), ()),
    "warnings_total": ("counter", "Notices in answers that succeeded", ("code",), ()),
    "requests_in_flight": ("gauge", "Requests being answered", (), ()),
    "audio_seconds_in_flight": ("gauge", "Accepted audio not yet transcribed", (), ()),
    "upload_bytes_in_memory": ("gauge", "Room reserved for uploads", (), ()),
    "ready": ("gauge", "1 if every model answers within 5 s of the scrape", (), ()),
}
PREFIX = "tickertape_"
KINDS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Metrics:
    """The metrics of one application, in its own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {}
        for name, (kind, text, labels, buckets) in METRICS.items():
            options = {"registry": self._registry} | ({"buckets": buckets} if buckets else {})
            self._metrics[name] = KINDS[kind](PREFIX + name, text, labels, **options)

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._metrics[name].set(value)

    def observe(self, timings: Timings) -> None:
        """Count one finished request."""
        endpoint, model, windows = timings.endpoint, timings.model, timings.windows
        self._metrics["requests_total"].labels(endpoint, model, str(timings.status), timings.code).inc()
        for code in timings.warnings:
            self._metrics["warnings_total"].labels(code).inc()
        counts = {
            "upload_bytes_total": (endpoint, timings.request_bytes),
            "audio_seconds_total": (model, timings.audio_seconds),
            "audio_decode_seconds_total": (model, timings.decode_audio),
            "windows_total": (model, windows),
            "encode_seconds_total": (model, timings.encode),
            "decode_seconds_total": (model, timings.decode),
            "fallbacks_total": (model, timings.fallbacks),
        }
        for name, (label, amount) in counts.items():
            if amount:
                self._metrics[name].labels(label).inc(amount)
        observations = {
            "request_seconds": (endpoint, timings.total, True),
            "first_text_seconds": (endpoint, timings.first_text, timings.first_text),
            "queue_seconds": (model, timings.queue, windows),
            "batch_windows": (model, timings.batch_size, windows),
            "real_time_factor": (model, timings.real_time_factor, windows and timings.status < 400),
        }
        for name, (label, value, happened) in observations.items():
            if happened:
                self._metrics[name].labels(label).observe(value)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
