"""Names and limits of the Ray Serve deployments; the cluster and its manifests share them."""

from __future__ import annotations

from typing import Any

API, PAGE = "tickertape", "page"  # names of the applications and of their ingress deployments
PAGE_PREFIX = "/page"
INGRESS_REQUESTS = 1000  # that an API or page replica may hold; admission control rejects requests long before
HEALTH_CHECKS: dict[str, Any] = {  # seconds; a busy event loop may be slow to answer
    "health_check_period_s": 2,
    "health_check_timeout_s": 30,
}
BODY_LIMIT_VARIABLE = "TICKERTAPE_PROXY_BODY_LIMIT"  # environment variable of the proxies; bytes
ENVIRONMENT = {  # of Ray's processes; variables that are already set win
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",  # a prefix would break our JSON lines
    "RAY_DEDUP_LOGS": "0",
    "RAY_FLUSH_DRIVER_LOGS": "1",  # otherwise lines are held back until there are 8 KiB
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "GRPC_VERBOSITY": "ERROR",
    "RAY_worker_niceness": "0",  # otherwise every other process of the machine has priority over the replicas
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "tickertape.cluster.proxy.middlewares",
    "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": "tickertape.server.logs.configure_logging",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a lost proxy is replaced after 7 s instead of 26 s
}
