"""One record, told three ways: log line, metrics, header."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from tests.support.logs import LOG
from tickertape.server.metrics import METRICS, Metrics, Record, level, log_request, server_timing, trace_id

TRACE = "0af7651916cd43dd8448eb211c80319c"
RECORD = Record(
    request_id="req_1", key_id="team", method="POST", endpoint="/v1/audio/transcriptions", status=200, trace=TRACE,
    model="demo", task="transcribe", response_format="json", request_bytes=32_000, response_bytes=80,
    audio_seconds=10.0, channels=1, windows=2, batch_size=1.5, fallbacks=1, warnings=("corrupt_frames",),
    read=0.01, decode_audio=0.02, queue=0.1, encode=0.5, decode=0.25, first_text=0.6, total=1.0,
)  # fmt: skip


def test_the_log_line_has_what_cloud_logging_reads() -> None:
    """Severity, time, httpRequest and the trace are under the names that Google's agents look for."""
    log_request(RECORD, project="p")
    line = json.loads(LOG.lines[-1])
    assert ("INFO", "POST /v1/audio/transcriptions 200") == (line["severity"], line["message"])
    assert datetime.now(timezone.utc) - datetime.fromisoformat(line["time"]) < timedelta(minutes=1)
    assert f"projects/p/traces/{TRACE}" == line["logging.googleapis.com/trace"]
    expected = {"requestMethod": "POST", "requestUrl": "/v1/audio/transcriptions", "status": 200,
                "requestSize": "32000", "responseSize": "80", "latency": "1.000s"}  # fmt: skip
    assert expected == line["httpRequest"]
    assert (0.1, "team", ["corrupt_frames"]) == (line["real_time_factor"], line["key_id"], line["warnings"])


def test_the_log_line_is_one_line_and_leaves_out_what_is_empty() -> None:
    """A request for health is short; no trace without a project."""
    log_request(Record(request_id="r", endpoint="/healthz", status=200, trace=TRACE))
    [text] = LOG.lines
    assert "\n" not in text
    assert {"severity", "time", "message", "httpRequest", "request_id", "method", "endpoint", "status", "trace"} == set(
        json.loads(text)
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "INFO"),
        (400, "WARNING"),
        (429, "WARNING"),
        (499, "INFO"),
        (500, "ERROR"),
        (503, "WARNING"),
        (504, "ERROR"),
    ],
)
def test_severity_tells_whose_fault_it_is(status: int, expected: str) -> None:
    """Errors are ours; warnings are the caller's or a lack of room; a client that left is neither."""
    assert expected == logging.getLevelName(level(status))


def test_server_timing_is_in_milliseconds() -> None:
    """Every stage that took time, none that did not."""
    expected = "read;dur=10.0, audio;dur=20.0, queue;dur=100.0, encode;dur=500.0, decode;dur=250.0, total;dur=1000.0"
    assert expected == server_timing(RECORD)
    assert "total;dur=1.0" == server_timing(Record(total=0.001))


@pytest.mark.parametrize(
    ("cloud", "parent", "expected"),
    [
        (f"{TRACE}/123;o=1", "", TRACE),
        ("", f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (TRACE.upper(), "", TRACE),
        ("canary", "canary-canary", ""),
        ("", "", ""),
    ],
)
def test_traces_are_taken_from_either_header(cloud: str, parent: str, expected: str) -> None:
    """Google's header first, then W3C's; what is not a trace id is dropped."""
    assert expected == trace_id(cloud, parent)


def test_every_documented_metric_is_there_and_no_other() -> None:
    """What is scraped after a request is exactly the table."""
    metrics = Metrics()
    metrics.observe(RECORD)
    for name, (kind, *_) in METRICS.items():
        if kind == "gauge":
            metrics.gauge(name, 1)
    lines = metrics.render().decode().splitlines()
    found = {
        line.split()[2] for line in lines if line.startswith("# TYPE") and not line.split()[2].endswith("_created")
    }
    assert {f"tickertape_{name}" for name in METRICS} == found


def test_a_request_is_counted_where_it_belongs() -> None:
    """Counters grow by what the record says."""
    metrics = Metrics()
    metrics.observe(RECORD)
    metrics.observe(replace(RECORD, status=500, code="engine_failed"))
    text = metrics.render().decode()
    for line in (
        '{code="engine_failed",endpoint="/v1/audio/transcriptions",model="demo",status="500"} 1.0',
        'tickertape_audio_seconds_total{model="demo"} 20.0',
        'tickertape_windows_total{model="demo"} 4.0',
        'tickertape_encode_seconds_total{model="demo"} 1.0',
        'tickertape_fallbacks_total{model="demo"} 2.0',
        'tickertape_warnings_total{code="corrupt_frames"} 2.0',
        'tickertape_real_time_factor_count{model="demo"} 1.0',
        'tickertape_upload_bytes_total{endpoint="/v1/audio/transcriptions"} 64000.0',
    ):
        assert line in text


def test_two_applications_count_apart() -> None:
    """Each has a registry of its own."""
    first, second = Metrics(), Metrics()
    first.observe(RECORD)
    assert b'requests_total{code=""' in first.render()
    assert b'requests_total{code=""' not in second.render()
