"""The record of a request as a JSON log line, as Prometheus metrics and as a `Server-Timing` header.

A record has identifiers, counts and durations. It has no audio, text, prompts, file names, headers or raw paths, so
these cannot leak.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tickertape.errors import TickertapeError

logger = logging.getLogger(__name__)
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class Record:
    """The facts and costs of one request; handlers add to them. Durations are in seconds, from the monotonic clock."""

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
    headers: dict[str, str] = field(default_factory=dict, repr=False)  # added to the response, not logged
    started: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.started

    def fail(self, error: TickertapeError) -> None:
        """Take the error's status and code."""
        self.status, self.code = error.status, error.code

    @property
    def real_time_factor(self) -> float:
        """Seconds of work per second of audio; 0 without audio."""
        return self.total / self.audio_seconds if self.audio_seconds else 0.0


def log_request(record: Record, *, project: str = "") -> None:
    """Log the record as one line of JSON, with the fields that Google Cloud Logging reads."""
    message = f"{record.method} {record.endpoint or '(no such path)'} {record.status} {record.code}".rstrip()
    line: dict[str, object] = {
        "time": datetime.now(timezone.utc).isoformat(),
        "httpRequest": {
            "requestMethod": record.method,
            "requestUrl": record.endpoint,
            "status": record.status,
            "requestSize": str(record.request_bytes),
            "responseSize": str(record.response_bytes),
            "latency": f"{record.total:.3f}s",
        },
    }
    if project and record.trace:
        line["logging.googleapis.com/trace"] = f"projects/{project}/traces/{record.trace}"
    for entry in fields(record):
        value = getattr(record, entry.name)
        if entry.repr and value not in ("", 0, 0.0, (), False):
            line[entry.name] = round(value, 4) if isinstance(value, float) else value
    if record.audio_seconds:
        line["real_time_factor"] = round(record.real_time_factor, 4)
    logger.log(level(record.status), "%s", message, extra={"fields": line})


def level(status: int) -> int:
    """ERROR for server errors, WARNING for client errors and overload, INFO for clients that left."""
    if status < 400 or status == 499:
        return logging.INFO
    return logging.ERROR if status >= 500 and status != 503 else logging.WARNING


def server_timing(record: Record) -> str:
    """The `Server-Timing` header: the duration of each stage in milliseconds."""
    parts = {
        "read": record.read,
        "audio": record.decode_audio,
        "queue": record.queue,
        "encode": record.encode,
        "decode": record.decode,
        "total": record.total,
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

    def observe(self, record: Record) -> None:
        """Count one finished request."""
        endpoint, model, windows = record.endpoint, record.model, record.windows
        self._metrics["requests_total"].labels(endpoint, model, str(record.status), record.code).inc()
        for code in record.warnings:
            self._metrics["warnings_total"].labels(code).inc()
        counts = {
            "upload_bytes_total": (endpoint, record.request_bytes),
            "audio_seconds_total": (model, record.audio_seconds),
            "audio_decode_seconds_total": (model, record.decode_audio),
            "windows_total": (model, windows),
            "encode_seconds_total": (model, record.encode),
            "decode_seconds_total": (model, record.decode),
            "fallbacks_total": (model, record.fallbacks),
        }
        for name, (label, amount) in counts.items():
            if amount:
                self._metrics[name].labels(label).inc(amount)
        observations = {
            "request_seconds": (endpoint, record.total, True),
            "first_text_seconds": (endpoint, record.first_text, record.first_text),
            "queue_seconds": (model, record.queue, windows),
            "batch_windows": (model, record.batch_size, windows),
            "real_time_factor": (model, record.real_time_factor, windows and record.status < 400),
        }
        for name, (label, value, happened) in observations.items():
            if happened:
                self._metrics[name].labels(label).observe(value)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
