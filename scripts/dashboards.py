"""Generates the Grafana dashboard and the Prometheus alerts from the table of metrics.

python -m scripts.dashboards deploy/observe    # writes both; a test fails when they are out of date
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tickertape.deploy.manifests import to_yaml, write_files
from tickertape.server.metrics import METRICS, PREFIX

DASHBOARD_FILE, ALERTS_FILE = "grafana.json", "alerts.yaml"
WIDTH, HEIGHT, COLUMNS = 8, 8, 3  # of a panel in Grafana's grid of 24 columns; panels in a row
WINDOW = "5m"  # of the rates
UNITS = (("_seconds", "s"), ("_bytes", "bytes"), ("_bytes_in_memory", "bytes"), ("_seconds_in_flight", "s"))

# name: (expression, how long it must hold, severity, the cause and the remedy)
ALERTS = {
    "TickertapeNotReady": (
        f"min by (instance) ({PREFIX}ready) == 0", "5m", "critical",
        "An instance has not been ready for five minutes: its engine does not answer. Read its log.",
    ),
    "TickertapeGone": (
        f"absent({PREFIX}ready)", "10m", "critical",
        "Prometheus finds no instance. Delete this rule if idle instances are removed, as on Cloud Run.",
    ),
    "TickertapeErrors": (
        f'sum(rate({PREFIX}requests_total{{status=~"5..",status!="503"}}[5m]))'
        f" / sum(rate({PREFIX}requests_total[5m])) > 0.01", "10m", "critical",
        "More than 1 % of the responses are server errors. Group by code, then find the request ids in the log.",
    ),
    "TickertapeFull": (
        f'sum(rate({PREFIX}requests_total{{status="503"}}[5m]))'
        f" / sum(rate({PREFIX}requests_total[5m])) > 0.05", "10m", "warning",
        "More than 5 % of the requests are rejected because the service is full. Add engines or instances.",
    ),
    "TickertapeQueue": (
        f"histogram_quantile(0.95, sum by (le, model) (rate({PREFIX}queue_seconds_bucket[5m]))) > 10", "15m", "warning",
        "5 % of the windows wait over ten seconds for an engine. Add engines or instances.",
    ),
    "TickertapeSlow": (
        f"histogram_quantile(0.5, sum by (le, model) (rate({PREFIX}real_time_factor_bucket[15m]))) > 1", "30m",
        "warning", "Half of the recordings take longer than their duration. Use more CPUs, a GPU or a smaller model.",
    ),
    "TickertapeFallbacks": (
        f"sum by (model) (rate({PREFIX}fallbacks_total[1h])) / sum by (model) (rate({PREFIX}windows_total[1h])) > 0.5",
        "1h", "warning", "Half of the windows are decoded again. Compare the audio with the training data.",
    ),
}  # fmt: skip


def main() -> None:
    """Write the dashboard and the alerts to a folder."""
    parser = argparse.ArgumentParser("python -m scripts.dashboards", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    write_files(parser.parse_args().folder, files())


def files() -> dict[str, str]:
    """Both files by name."""
    comment = "Generated from tickertape.server.metrics.METRICS by scripts.dashboards; a test fails when out of date."
    return {DASHBOARD_FILE: json.dumps(dashboard(), indent=2) + "\n", ALERTS_FILE: to_yaml([alerts()], comment)}


def dashboard() -> dict[str, Any]:
    """A panel for each metric: rates of counters, quantiles of histograms, gauges as they are."""
    return {
        "title": "Tickertape",
        "uid": "tickertape",
        "tags": ["tickertape"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"}]
        },
        "panels": [_panel(index, name) for index, name in enumerate(METRICS)],
    }


def alerts() -> dict[str, Any]:
    """The alert rules of Prometheus."""
    rules = [
        {
            "alert": name,
            "expr": expression,
            "for": duration,
            "labels": {"severity": severity},
            "annotations": {"summary": text},
        }
        for name, (expression, duration, severity, text) in ALERTS.items()
    ]
    return {"groups": [{"name": "tickertape", "rules": rules}]}


def _panel(index: int, name: str) -> dict[str, Any]:
    kind, text, labels, _ = METRICS[name]
    source = {"type": "prometheus", "uid": "${source}"}
    targets = [
        {"refId": chr(ord("A") + number), "datasource": source, "expr": expression, "legendFormat": legend}
        for number, (expression, legend) in enumerate(_expressions(kind, PREFIX + name, labels))
    ]
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": text + (" per second" if kind == "counter" else ""),
        "description": PREFIX + name,
        "datasource": source,
        "gridPos": {"x": index % COLUMNS * WIDTH, "y": index // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": _unit(kind, name), "min": 0}, "overrides": []},
        "targets": targets,
    }


def _expressions(kind: str, metric: str, labels: tuple[str, ...]) -> list[tuple[str, str]]:
    """PromQL and legend of each series."""
    by = f" by ({', '.join(labels)})" if labels else ""
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    if kind == "counter":
        return [(f"sum{by} (rate({metric}[{WINDOW}]))", legend)]
    if kind == "gauge":
        return [(f"sum{by} ({metric})", legend or "all instances")]
    groups = f" by ({', '.join(('le', *labels))})"
    return [
        (f"histogram_quantile({quantile}, sum{groups} (rate({metric}_bucket[{WINDOW}])))", f"{legend} {title}".strip())
        for quantile, title in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    ]


def _unit(kind: str, name: str) -> str:
    bare = name.removesuffix("_total")
    for ending, unit in UNITS:
        if bare.endswith(ending):
            return {"s": "none", "bytes": "Bps"}[unit] if kind == "counter" else unit
    return "ops" if kind == "counter" else "none"


if __name__ == "__main__":
    main()
