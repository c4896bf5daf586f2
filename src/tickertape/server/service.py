"""What all requests share: models, memory, keys, metrics and decode workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.requests import Request

from tickertape.audio.worker_pool import Decoders
from tickertape.errors import ShuttingDownError, TickertapeError
from tickertape.pipeline import Model
from tickertape.server.admission import Admission, RequestTracker
from tickertape.server.auth import Key, Keyring, RateLimiter
from tickertape.server.health import Readiness
from tickertape.server.metrics import Metrics, Record, log_request
from tickertape.server.middleware import record_of
from tickertape.server.remote_files import RemoteFiles
from tickertape.server.settings import Settings
from tickertape.server.uploads import BODY_TIMEOUT, UploadMemory

ERRORS_ONLY = frozenset({"warning", "error"})  # log levels at which successful requests are not logged
SCRAPE_TIMEOUT = 5.0  # seconds for the engine to answer; half of Prometheus' default scrape_timeout of 10
DECODE_SECONDS = 60.0  # the time limit of decoding is this ...
DECODE_SHARE = 1 / 20  # ... plus this share of the longest recording; FFmpeg takes 1/200 to 1/1000 on an idle core


class Service:
    """The state behind the routes. It owns its decode workers, unless `decoders` are given."""

    def __init__(self, models: Mapping[str, Model], settings: Settings, *, decoders: Decoders | None = None) -> None:
        self.models = dict(models)
        self.settings = settings
        self.metrics = Metrics()
        self.requests = RequestTracker()
        self.admission = Admission(settings.audio_seconds_in_flight)
        self.uploads = UploadMemory(settings.upload_memory, largest=settings.body_limit, timeout=BODY_TIMEOUT)
        self.remote_files = RemoteFiles(settings.object_hosts, limit=settings.fetch_limit)
        self.keyring = Keyring(settings.keys_file)
        self.rate_limiter = RateLimiter()
        self.readiness = Readiness(self.models)
        timeout = DECODE_SECONDS + DECODE_SHARE * settings.max_audio_seconds
        self.decoders = decoders or Decoders(settings.decode_processes, timeout=timeout)
        self._owns_decoders = decoders is None

    def close(self) -> None:
        """End the decode workers."""
        if self._owns_decoders:
            self.decoders.close()

    async def drain(self, grace: float | None = None) -> bool:
        """Reject new requests and wait `grace` seconds for accepted ones. Returns whether all of them finished."""
        return await self.requests.drain(self.settings.grace_seconds if grace is None else grace)

    def authenticate(self, request: Request) -> Key | None:
        """The request's key; None if the server has no keys. Raises `UnauthorizedError`."""
        headers = [value for name, value in request.scope["headers"] if name == b"authorization"]
        key = self.keyring.authenticate(headers)
        if key is not None:
            record_of(request).key_id = key.id
        return key

    async def ready(self) -> None:
        """Raises `ShuttingDownError` or `NotReadyError`."""
        if self.requests.draining:
            raise ShuttingDownError("The service is shutting down.")
        await self.readiness.check()
        self.decoders.warm()  # only now, because it would slow the start of the engines

    async def scrape(self) -> bytes:
        """The current metrics. Measures `ready`, because nobody may call `/readyz`."""
        self.metrics.gauge("ready", await self._is_ready())
        self.metrics.gauge("requests_in_flight", self.requests.active)
        self.metrics.gauge("audio_seconds_in_flight", self.admission.in_flight)
        self.metrics.gauge("upload_bytes_in_memory", self.uploads.taken)
        return self.metrics.render()

    async def _is_ready(self) -> bool:
        try:
            await asyncio.wait_for(self.ready(), SCRAPE_TIMEOUT)
        except (TickertapeError, asyncio.TimeoutError):
            return False
        return True

    def observe(self, record: Record) -> None:
        """Count and log a transcription on the page, as the middleware does with API requests."""
        record.total = record.elapsed
        self.metrics.observe(record)
        if record.status >= 400 or self.settings.log_level not in ERRORS_ONLY:
            log_request(record, project=self.settings.project)
