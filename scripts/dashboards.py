"""What watches the service: a Grafana dashboard and Prometheus' alerts, made from the table of metrics.

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
WIDE, HIGH, COLUMNS = 8, 8, 3  # a panel in Grafana's grid of 24 columns
SPAN = "5m"  # over which rates are taken
UNITS = (("_seconds", "s"), ("_bytes", "bytes"), ("_bytes_in_memory", "bytes"), ("_seconds_in_flight", "s"))

# name: (expression, how long it must hold, severity, what it means and what to do)
ALERTS = {
    "TickertapeNotReady": (
        f"min by (instance) ({PREFIX}ready) == 0", "5m", "critical",
        "An instance has not been ready for five minutes: its engine does not answer. See its log.",
    ),
    "TickertapeGone": (
        f"absent({PREFIX}ready)", "10m", "critical",
        "No instance is scraped at all. With none kept while idle (Cloud Run), leave this rule away.",
    ),
    "TickertapeErrors": (
        f'sum(rate({PREFIX}requests_total{{status=~"5..",status!="503"}}[5m]))'
        f" / sum(rate({PREFIX}requests_total[5m])) > 0.01", "10m", "critical",
        "More than 1 % of the answers are our errors. Group by code, then look for the request ids in the log.",
    ),
    "TickertapeFull": (
        f'sum(rate({PREFIX}requests_total{{status="503"}}[5m]))'
        f" / sum(rate({PREFIX}requests_total[5m])) > 0.05", "10m", "warning",
        "More than 5 % of the requests are turned away for want of room. Add engines or instances.",
    ),
    "TickertapeQueue": (
        f"histogram_quantile(0.95, sum by (le, model) (rate({PREFIX}queue_seconds_bucket[5m]))) > 10", "15m", "warning",
        "One window in twenty waits more than ten seconds for the engine. Add engines or instances.",
    ),
    "TickertapeSlow": (
        f"histogram_quantile(0.5, sum by (le, model) (rate({PREFIX}real_time_factor_bucket[15m]))) > 1", "30m",
        "warning", "Half of the recordings take longer than they last. The processor is too slow for the model.",
    ),
    "TickertapeFallbacks": (
        f"sum by (model) (rate({PREFIX}fallbacks_total[1h])) / sum by (model) (rate({PREFIX}windows_total[1h])) > 0.5",
        "1h", "warning", "Every second window is decoded again. The audio is not what the checkpoint was tuned for.",
    ),
}  # fmt: skip


def main() -> None:
    """Write both files into a folder."""
    parser = argparse.ArgumentParser("python -m scripts.dashboards", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    write_files(parser.parse_args().folder, files())


def files() -> dict[str, str]:
    """Both files by name."""
    head = "Made from tickertape.server.metrics.METRICS by scripts.dashboards; a test fails when it is out of date."
    return {DASHBOARD_FILE: json.dumps(dashboard(), indent=2) + "\n", ALERTS_FILE: to_yaml([alerts()], head)}


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
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}]},
        "panels": [_panel(place, name) for place, name in enumerate(METRICS)],
    }


def alerts() -> dict[str, Any]:
    """Prometheus' rules."""
    rules = [
        {
            "alert": name,
            "expr": expression,
            "for": span,
            "labels": {"severity": severity},
            "annotations": {"summary": text},
        }
        for name, (expression, span, severity, text) in ALERTS.items()
    ]
    return {"groups": [{"name": "tickertape", "rules": rules}]}


def _panel(place: int, name: str) -> dict[str, Any]:
    kind, text, labels, _ = METRICS[name]
    source = {"type": "prometheus", "uid": "${source}"}
    targets = [
        {"refId": chr(ord("A") + number), "datasource": source, "expr": expression, "legendFormat": legend}
        for number, (expression, legend) in enumerate(_expressions(kind, PREFIX + name, labels))
    ]
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": text + (" per second" if kind == "counter" else ""),
        "description": PREFIX + name,
        "datasource": source,
        "gridPos": {"x": place % COLUMNS * WIDE, "y": place // COLUMNS * HIGH, "w": WIDE, "h": HIGH},
        "fieldConfig": {"defaults": {"unit": _unit(kind, name), "min": 0}, "overrides": []},
        "targets": targets,
    }


def _expressions(kind: str, metric: str, labels: tuple[str, ...]) -> list[tuple[str, str]]:
    """PromQL and the legend of each line."""
    by = f" by ({', '.join(labels)})" if labels else ""
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    if kind == "counter":
        return [(f"sum{by} (rate({metric}[{SPAN}]))", legend)]
    if kind == "gauge":
        return [(f"sum{by} ({metric})", legend or "all instances")]
    groups = f" by ({', '.join(('le', *labels))})"
    return [
        (f"histogram_quantile({share}, sum{groups} (rate({metric}_bucket[{SPAN}])))", f"{legend} {title}".strip())
        for share, title in ((0.5, "half"), (0.95, "19 of 20"), (0.99, "99 of 100"))
    ]


def _unit(kind: str, name: str) -> str:
    bare = name.removesuffix("_total")
    for ending, unit in UNITS:
        if bare.endswith(ending):
            return {"s": "none", "bytes": "Bps"}[unit] if kind == "counter" else unit
    return "ops" if kind == "counter" else "none"


if __name__ == "__main__":
    main()
