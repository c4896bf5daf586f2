"""One request for text, from its headers to the last byte of its answer; and what all such requests share.

What a request costs is counted before it costs anything. Audio is decoded in processes of our own, windows in the
engine, nothing of length in the event loop. When the client leaves or its time is up, whatever is under way is
cancelled.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import anyio
from starlette.requests import Request
from starlette.responses import Response

from tickertape import audio, failures, formats, forms, orders
from tickertape.admission import LAST_ANSWERS, Admission, Door, Hold, Reservation, UploadRoom
from tickertape.decoders import Decoders
from tickertape.errors import DeadlineExceeded, OptionError, ShuttingDown, TickertapeError
from tickertape.events import Stream
from tickertape.failures import ClientGone, SlowBody, UnsupportedEncoding
from tickertape.forms import Form
from tickertape.frame import Emit, Receive, Record, Send, event_line, record_of, to_stdout
from tickertape.keys import Key, Keyring, Meter
from tickertape.objects import Objects
from tickertape.orders import Order
from tickertape.pipeline import Model, Update
from tickertape.readiness import Readiness
from tickertape.replays import Answer, Replays
from tickertape.settings import Settings
from tickertape.telemetry import Metrics, log_line
from tickertape.types import SAMPLE_RATE, Audio, Decoded, Segment, Task, Transcript

T = TypeVar("T")
QUIET = frozenset({"warning", "error"})  # levels at which only what failed is logged
DECODING_SECONDS = 60.0  # that any recording's decoding may take ...
DECODING_SHARE = 1 / 20  # ... and of its length beyond that; FFmpeg takes 1/200 to 1/1000 on a core of its own


class Service:
    """What the routes share: the models, the room, the keys, the counters.

    `decoders` decode the uploads; without, the service has its own, which `close` ends.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        settings: Settings,
        *,
        emit: Emit = to_stdout,
        decoders: Decoders | None = None,
    ) -> None:
        self.models = dict(models)
        self.settings = settings
        self.emit = emit
        self.metrics = Metrics()
        self.door = Door()
        self.admission = Admission(settings.audio_seconds_in_flight)
        self.uploads = UploadRoom(settings.upload_room, patience=settings.body_timeout)
        self.objects = Objects(settings.object_hosts, limit=settings.object_limit, timeout=settings.object_timeout)
        self.keyring = Keyring(settings.keys_file, on_problem=lambda problem: emit(event_line("WARNING", problem)))
        self.meter = Meter()
        self.replays = Replays(settings.remember_seconds)
        self.readiness = Readiness(self.models, timeout=settings.probe_timeout)
        self._decoders = decoders or self._own_decoders()
        self._borrowed = decoders is not None

    async def drain(self, grace: float | None = None) -> bool:
        """Turn readiness red and refuse new work at once; wait for accepted requests. Whether all of them finished.

        Those that do not finish in time are answered with `ShuttingDown`, within `LAST_ANSWERS` seconds.
        """
        self.door.close()
        drained = await self.door.emptied(self.settings.grace_seconds if grace is None else grace)
        if not drained:
            self.door.end()
            await self.door.emptied(LAST_ANSWERS)
        return drained

    def tell(self, record: Record) -> None:
        """Count and log what the page was asked for, as the frame does with requests."""
        record.note(total=record.elapsed)
        self.metrics.observe(record.timings)
        if record.timings.status >= 400 or self.settings.log_level not in QUIET:
            self.emit(log_line(record.timings, project=self.settings.project))

    def close(self) -> None:
        """End the processes that decode."""
        if not self._borrowed:
            self._decoders.close()

    def _own_decoders(self) -> Decoders:
        settings, emit = self.settings, self.emit
        return Decoders(
            settings.decode_threads,
            timeout=DECODING_SECONDS + DECODING_SHARE * settings.max_audio_seconds,
            tell=lambda message, **facts: emit(event_line("WARNING", message, **facts)),
        )

    def authenticate(self, request: Request) -> Key | None:
        """The caller's key. Raises `Unauthorized`."""
        headers = [value for name, value in request.scope["headers"] if name == b"authorization"]
        key = self.keyring.authenticate(headers)
        if key is not None:
            record_of(request).note(key_id=key.id)
        return key

    async def ready(self) -> None:
        """Raises `ShuttingDown` or `NotReady`."""
        self.metrics.gauge("ready", 0)
        if not self.door.open:
            raise ShuttingDown("The service is shutting down.")
        await self.readiness.check()
        self.metrics.gauge("ready", 1)
        self._decoders.warm()  # not before, so that it takes no time from what must be ready

    def scrape(self) -> bytes:
        """The metrics, as of now."""
        self.metrics.gauge("requests_in_flight", self.door.inside)
        self.metrics.gauge("audio_seconds_in_flight", self.admission.in_flight)
        self.metrics.gauge("upload_bytes_in_memory", self.uploads.taken)
        return self.metrics.render()

    async def decode_audio(self, form: forms.Form, order: Order) -> Audio:
        """The upload's samples; its bytes are let go. Raises `AudioError` and `HarmfulAudio`."""
        settings = self.settings
        limits = audio.Limits(
            max_bytes=max(settings.body_limit, settings.object_limit),  # whichever held was looked at as it came
            max_seconds=settings.max_audio_seconds,
            max_channels=settings.max_channels if order.channels == "mix" else settings.max_split_channels,
        )
        assert form.file is not None  # noqa: S101 - `orders.understand` has seen it, or it was fetched
        file, form.file = form.file, None
        options = {"channels": order.channels, "track": order.track, "audio_format": order.audio_format}
        try:
            decoded = await self._decoders.decode(file, limits=limits, **options)
        except OptionError as error:
            if error.param != "track":
                raise
            raise OptionError(error.message, "audio_track", "invalid_audio_track") from error
        return replace(decoded, notices=order.notices + decoded.notices)


class Books:
    """What one transcription takes and costs, noted in its record as its windows come back."""

    def __init__(self, service: Service, record: Record) -> None:
        self._service = service
        self._record = record
        self._batches = 0.0  # sum over the windows of their batches' sizes

    async def hear(self, form: Form, order: Order, room: Reservation, hold: Hold) -> Audio:
        """The upload's samples; its room is given back, and room for audio held as long as they are."""
        before = self._record.elapsed
        heard = await self._service.decode_audio(form, order)
        room.release()
        channels = heard.samples.shape[0]
        self._record.note(decode_audio=self._record.elapsed - before, audio_seconds=heard.seconds, channels=channels)
        hold.resize(heard.seconds * channels)
        return heard

    async def transcribe(self, heard: Audio, order: Order, hold: Hold, deadline: float) -> AsyncGenerator[Update, None]:
        """The pipeline's updates; what is done gives its room back."""
        options = replace(order.options, deadline=deadline)
        done = 0
        async with aclosing(order.model.transcribe(heard, options, vad=order.vad)) as news:
            async for update in news:
                hold.progress((update.done - done) / SAMPLE_RATE)
                done = max(done, update.done)
                self._note(update, order.model)
                yield update

    def _note(self, update: Update, model: Model) -> None:
        """What one more window has cost."""
        past = self._record.timings
        if update.decoded is not None:
            self._service.readiness.alive(model.name)
            self._record.note(**self._costs(update.decoded))
        if update.segments and not past.first_text:
            self._record.note(first_text=self._record.elapsed)
        if update.transcript is not None:
            self._record.note(warnings=tuple(notice.code for notice in update.transcript.notices))

    def _costs(self, decoded: Decoded) -> dict[str, Any]:
        past = self._record.timings
        self._batches += decoded.batch_size
        return {
            "windows": past.windows + 1,
            "batch_size": self._batches / (past.windows + 1),
            "fallbacks": past.fallbacks + decoded.attempts - 1,
            "queue": max(past.queue, decoded.queue_seconds),
            "encode": past.encode + decoded.encode_seconds / decoded.batch_size,
            "decode": past.decode + decoded.decode_seconds / decoded.batch_size,
        }


class Visit:
    """One request on its way through the service: `await visit.answer()`."""

    def __init__(self, service: Service, request: Request, task: Task, receive: Receive, send: Send) -> None:
        self._service = service
        self._settings = service.settings
        self._request = request
        self._record = record_of(request)
        self._task: Task = task
        self._receive = receive
        self._send = send
        self._deadline = time.time() + service.settings.request_timeout
        self._events = Stream(send, heartbeat=service.settings.heartbeat)
        self._books = Books(service, self._record)

    async def answer(self) -> None:
        """Do it all. Raises `TickertapeError` as long as the answer has not begun."""
        self._record.note(task=self._task)
        key = self._service.authenticate(self._request)
        with ExitStack() as inside:
            inside.enter_context(self._service.door.enter())
            boundary = self._check_headers()
            self._meter(key, inside)
            hold = inside.enter_context(self._service.admission.enter())
            await self._told(self._service.door.during(self._accepted(key, boundary, hold, inside)))

    async def _accepted(self, key: Key | None, boundary: bytes, hold: Hold, inside: ExitStack) -> None:
        """Read the form and answer it; nothing of the body has been read so far."""
        room = inside.enter_context(await self._service.uploads.reserve(self._expected_bytes()))
        form = await self._read(boundary)
        order = orders.understand(form, self._task, self._service.models, beam_size=self._settings.beam_size)
        self._record.note(model=order.model.name, response_format=order.response_format, stream=order.stream)
        updates = partial(self._updates, form, order, hold, room)
        if order.stream:
            await self._attended(_tell(self._events, order, updates()))
            return
        answer = await self._attended(self._once(key, form, partial(self._whole, order, updates)))
        await Response(answer.body, media_type=answer.media_type)(self._request.scope, self._receive, self._send)

    def _check_headers(self) -> bytes:
        """The form's boundary. Raises for what need not be read to be refused."""
        headers = self._request.headers
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedEncoding("Send the form as it is, without Content-Encoding.")
        limit = self._settings.body_limit
        return forms.check_headers(headers.get("content-type", ""), headers.get("content-length", ""), limit)

    def _expected_bytes(self) -> int:
        """What the upload declares, or else the most it may have."""
        declared = self._request.headers.get("content-length", "")
        return int(declared) if declared.isascii() and declared.isdigit() else forms.body_cap(self._settings.body_limit)

    def _meter(self, key: Key | None, inside: ExitStack) -> None:
        """Count the request against its key. Raises `RateLimited`."""
        meter = self._service.meter
        try:
            meter.take(key)
            inside.enter_context(meter.running(key))
        finally:
            self._record.headers.update(meter.headers(key))

    async def _read(self, boundary: bytes) -> Form:
        """The form; reading it counts against the request's time, too."""
        settings = self._settings
        reading = forms.read_form(
            self._receive,
            boundary,
            known=orders.known(self._task),
            limit=settings.body_limit,
            timeout=settings.body_timeout,
        )
        try:
            with anyio.fail_after(settings.request_timeout):
                form = await reading
        except TimeoutError as error:
            raise SlowBody("The upload took too long.") from error
        self._record.note(read=self._record.elapsed)
        return form

    async def _once(self, key: Key | None, form: Form, compute: Any) -> Answer:
        """Compute the answer, or find it under the client's `Idempotency-Key`."""
        given = self._request.headers.get("idempotency-key")
        if not given:
            return await compute()  # type: ignore[no-any-return]
        fingerprint = await asyncio.to_thread(orders.digest, form, self._task)
        return await self._service.replays.get((key.id if key else "", given[:256], fingerprint), compute)

    async def _whole(self, order: Order, updates: Any) -> Answer:
        """The answer that comes in one piece."""
        transcript: Transcript | None = None
        async with aclosing(updates()) as news:
            async for update in news:
                transcript = update.transcript or transcript
        assert transcript is not None  # noqa: S101 - the pipeline's last update carries it
        return render(order, transcript)

    async def _told(self, answering: Awaitable[None]) -> None:
        """An error before the first event of a stream is an ordinary one, afterwards an event."""
        try:
            await answering
        except TickertapeError as error:
            if not self._events.begun:
                raise
            self._record.note(status=failures.status(error), code=error.code)
            if not isinstance(error, ClientGone):
                await self._events.fail(error)

    async def _updates(self, form: Form, order: Order, hold: Hold, room: Reservation) -> AsyncGenerator[Update, None]:
        """Decode, transcribe, and keep the books."""
        if order.url is not None:
            await self._fetch(form, order.url, room)
        decoded = await self._books.hear(form, order, room, hold)
        async with aclosing(self._books.transcribe(decoded, order, hold, self._deadline)) as news:
            async for update in news:
                yield update

    async def _fetch(self, form: Form, url: str, room: Reservation) -> None:
        """Put the recording that lies elsewhere into the form; it takes room as an upload does."""
        before = self._record.elapsed
        form.file = await self._service.objects.fetch(url, room.resize)
        self._record.note(read=self._record.timings.read + self._record.elapsed - before)

    async def _attended(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work as long as the client is there and its time is not up.

        Raises `ClientGone` or `DeadlineExceeded`; the work is cancelled then, and has ended.
        """
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_disconnected(self._receive))
        remaining = max(0.0, self._deadline - time.time())
        try:
            await asyncio.wait({working, leaving}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise ClientGone("The client left.") if leaving.done() else DeadlineExceeded("The request took too long.")
        finally:
            working.cancel()
            leaving.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)
            del working  # its error's frames hold the recording, and Ray holds this frame if the client has left


def render(order: Order, transcript: Transcript) -> Answer:
    """The body that was asked for."""
    if order.response_format == "json":
        body = formats.json_object(transcript)
        if order.options.logprobs:
            body["logprobs"] = logprobs(transcript.segments)
        return Answer(_dump(body), "application/json")
    if order.response_format == "verbose_json":
        whole = formats.verbose_object(transcript, segments=order.segments, words=order.words)
        return Answer(_dump(whole), "application/json")
    text = formats.FORMATS[order.response_format](transcript)
    return Answer(text.encode(), "text/plain; charset=utf-8")


def logprobs(segments: tuple[Segment, ...]) -> list[dict[str, Any]]:
    """OpenAI's `logprobs`: token, bytes and log probability of every token whose probability is known."""
    return [
        {"token": data.decode(errors="replace"), "bytes": list(data), "logprob": round(probability, 6)}
        for segment in segments
        for data, probability in zip(segment.token_bytes, segment.token_logprobs, strict=True)
    ]


async def _tell(stream: Stream, order: Order, updates: AsyncGenerator[Update, None]) -> None:
    """Each final segment as an event, then everything."""
    previous: Segment | None = None
    async with aclosing(updates), aclosing(stream.paced(updates)) as news:
        async for update in news:
            for segment in update.segments:
                await stream.send(formats.delta_event(segment, previous))
                previous = segment
            if update.transcript is not None:
                done = formats.done_event(update.transcript)
                if order.options.logprobs:
                    done["logprobs"] = logprobs(update.transcript.segments)
                await stream.send(done)
    await stream.end()


async def _disconnected(receive: Receive) -> None:
    """Return when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
