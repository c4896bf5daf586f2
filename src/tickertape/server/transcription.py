"""One request for text: it is admitted, its recording decoded and transcribed, and its response sent.

Limits are checked before each costly step. Audio is decoded in subprocesses, windows in the engine, long responses are
rendered in threads. When the client leaves or the deadline passes, the work is cancelled.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn, TypeVar

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tickertape.audio.limits import Limits
from tickertape.errors import DeadlineExceededError, OptionError, TickertapeError
from tickertape.pipeline import Model, Update
from tickertape.server.admission import AudioReservation
from tickertape.server.auth import Key
from tickertape.server.errors import ClientDisconnectedError
from tickertape.server.metrics import Record
from tickertape.server.middleware import record_of
from tickertape.server.multipart import Form, check_headers
from tickertape.server.params import Order, form_schema, parse_form
from tickertape.server.service import Service
from tickertape.server.sse import Stream
from tickertape.server.tasks import race
from tickertape.server.uploads import Upload, receive_form
from tickertape.transcripts import formats
from tickertape.types import SAMPLE_RATE, Audio, Segment, Task, Transcript

T = TypeVar("T")
MAX_CHANNELS = {
    "mix": 8,
    "split": 2,
}  # 7.1 surround; the two sides of a call, which need the memory of a recording each


class Transcription:
    """One recording: decodes it, transcribes it, and notes the costs in the request's record."""

    def __init__(self, service: Service, record: Record) -> None:
        self._service = service
        self._record = record

    async def decode(self, form: Form, order: Order, upload: Upload, reservation: AudioReservation) -> Audio:
        """Decode the form's file, free its memory and reserve its length. Raises `AudioError` or `OverloadedError`."""
        before = self._record.elapsed
        assert form.file is not None  # noqa: S101 - `params.parse_form` or `RemoteFiles.fetch` ensured it
        file, form.file = form.file, None
        options = {
            "channels": order.form.channels,
            "track": order.form.audio_track,
            "audio_format": order.form.audio_format or None,
        }
        try:
            decoded = await self._service.decoders.decode(file, limits=self._limits(order), **options)
        except OptionError as error:
            if error.param != "track":
                raise
            raise OptionError(error.message, "audio_track", "invalid_audio_track") from error
        upload.release()
        record = self._record
        record.decode_audio = record.elapsed - before
        record.audio_seconds, record.channels = decoded.seconds, decoded.samples.shape[0]
        reservation.resize(decoded.seconds * record.channels)
        return replace(decoded, notices=order.notices + decoded.notices)

    def _limits(self, order: Order) -> Limits:
        settings = self._service.settings
        return Limits(
            max_bytes=settings.fetch_limit,  # an upload's own limit was checked on arrival
            max_seconds=settings.max_audio_seconds,
            max_channels=MAX_CHANNELS[order.form.channels],
        )

    async def transcribe(
        self, audio: Audio, order: Order, reservation: AudioReservation, deadline: float
    ) -> AsyncGenerator[Update, None]:
        """The pipeline's updates; frees the reservation of what is transcribed."""
        options = replace(order.options, deadline=deadline)
        done = 0
        async with aclosing(order.model.transcribe(audio, options, vad=order.form.vad)) as updates:
            async for update in updates:
                reservation.progress((update.done - done) / SAMPLE_RATE)
                done = max(done, update.done)
                self._note(update, order.model)
                yield update

    def _note(self, update: Update, model: Model) -> None:
        record, decoded = self._record, update.decoded
        if decoded is not None:
            self._service.readiness.alive(model.info.name)
            record.windows += 1
            record.batch_size += (decoded.batch_size - record.batch_size) / record.windows
            record.fallbacks += decoded.attempts - 1
            record.queue = max(record.queue, decoded.queue_seconds)
            record.encode += decoded.encode_seconds
            record.decode += decoded.decode_seconds
        if update.segments and not record.first_text:
            record.first_text = record.elapsed
        if update.transcript is not None:
            record.warnings = tuple(notice.code for notice in update.transcript.notices)


class TranscriptionResponse(Response):
    """The response to a request for text. It handles the whole request, because it must notice a disconnect."""

    def __init__(self, service: Service, request: Request, task: Task) -> None:
        super().__init__()
        self._service = service
        self._request = request
        self._record = record_of(request)
        self._task: Task = task
        self._deadline = time.time() + service.settings.request_timeout
        self._transcription = Transcription(service, self._record)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the request has it
        """Authenticate, admit and handle the request. Raises `TickertapeError` until the response has begun."""
        self._receive, self._send = receive, send
        self._events = Stream(send)
        self._record.task = self._task
        key = self._service.authenticate(self._request)
        with ExitStack() as resources:
            resources.enter_context(self._service.requests.admit())
            boundary = check_headers(self._request.headers, self._service.settings.body_limit)
            self._limit_rate(key, resources)
            self._service.admission.check()
            try:
                await self._service.requests.run(self._handle(boundary, resources))
            except TickertapeError as error:
                if not self._events.begun:
                    raise
                await self._fail_stream(error)

    def _limit_rate(self, key: Key | None, resources: ExitStack) -> None:
        """Count the request against its key. Raises `RateLimitError`."""
        rate_limiter = self._service.rate_limiter
        try:
            rate_limiter.take(key)
            resources.enter_context(rate_limiter.running(key))
        finally:
            self._record.headers.update(rate_limiter.headers(key))

    async def _handle(self, boundary: bytes, resources: ExitStack) -> None:
        """Read the form and respond."""
        service = self._service
        upload = resources.enter_context(Upload(service.uploads))
        fields = form_schema(self._task)["properties"]
        form = await receive_form(self._receive, boundary, upload, fields=fields, settings=service.settings)
        self._record.read = self._record.elapsed
        reservation = resources.enter_context(service.admission.reserve())
        order = parse_form(form, self._task, service.models, beam_size=service.settings.beam_size)
        self._record.model, self._record.stream = order.model.info.name, order.form.stream
        self._record.response_format = order.form.response_format
        updates = partial(self._updates, form, order, upload, reservation)  # a generator here would keep the audio
        if order.form.stream:
            await self._until_cancelled(_send_events(self._events, order, updates()))
            return
        response = await self._until_cancelled(_whole(order, updates()))
        await response(self._request.scope, self._receive, self._send)

    async def _updates(
        self, form: Form, order: Order, upload: Upload, reservation: AudioReservation
    ) -> AsyncGenerator[Update, None]:
        if order.form.file_url:
            before = self._record.elapsed
            form.file = await self._service.remote_files.fetch(order.form.file_url, upload.grow)
            self._record.read += self._record.elapsed - before
        audio = await self._transcription.decode(form, order, upload, reservation)
        async with aclosing(self._transcription.transcribe(audio, order, reservation, self._deadline)) as updates:
            async for update in updates:
                yield update

    async def _until_cancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work; cancel it when the client leaves or the deadline passes.

        Raises `ClientDisconnectedError` or `DeadlineExceededError` after the work has ended.
        """
        return await race(work, _disconnected(self._receive), _expired(self._deadline))

    async def _fail_stream(self, error: TickertapeError) -> None:
        self._record.fail(error)
        if not isinstance(error, ClientDisconnectedError):
            await self._events.fail(error)


async def _whole(order: Order, updates: AsyncGenerator[Update, None]) -> Response:
    """The response in one piece, rendered in a thread."""
    transcript: Transcript | None = None
    async with aclosing(updates):
        async for update in updates:
            transcript = update.transcript or transcript
    assert transcript is not None  # noqa: S101 - the pipeline's last update carries it
    return await anyio.to_thread.run_sync(render, order, transcript)


def render(order: Order, transcript: Transcript) -> Response:
    """The response in the requested format."""
    if order.form.response_format == "json":
        body = formats.json_object(transcript)
        if order.options.logprobs:
            body["logprobs"] = logprobs(transcript.segments)
        return Response(_dump(body), media_type="application/json")
    if order.form.response_format == "verbose_json":
        wanted = order.form.timestamp_granularities
        whole = formats.verbose_object(transcript, segments=not wanted or "segment" in wanted)
        return Response(_dump(whole), media_type="application/json")
    text = formats.RENDERERS[order.form.response_format](transcript)
    return Response(text.encode(), media_type="text/plain; charset=utf-8")


def logprobs(segments: tuple[Segment, ...]) -> list[dict[str, Any]]:
    """OpenAI's `logprobs`: token, bytes and log probability of every token whose probability is known."""
    return [
        {"token": data.decode(errors="replace"), "bytes": list(data), "logprob": round(probability, 6)}
        for segment in segments
        for data, probability in zip(segment.token_bytes, segment.token_logprobs, strict=True)
    ]


async def _send_events(stream: Stream, order: Order, updates: AsyncGenerator[Update, None]) -> None:
    """Send each final segment as an event, then the whole transcript."""
    previous: Segment | None = None
    async with aclosing(updates), aclosing(stream.paced(updates)) as paced:
        async for update in paced:
            for segment in update.segments:
                await stream.send(formats.delta_event(segment, previous))
                previous = segment
            if update.transcript is not None:
                await stream.send(await anyio.to_thread.run_sync(_done_event, order, update.transcript))
    await stream.end()


def _done_event(order: Order, transcript: Transcript) -> dict[str, Any]:
    """The last event of a stream."""
    event = formats.done_event(transcript)
    if order.options.logprobs:
        event["logprobs"] = logprobs(transcript.segments)
    return event


async def _disconnected(receive: Receive) -> NoReturn:
    """Raise `ClientDisconnectedError` when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientDisconnectedError("The client left.")


async def _expired(deadline: float) -> NoReturn:
    """Raise `DeadlineExceededError` at the deadline, in Unix time."""
    await asyncio.sleep(max(0.0, deadline - time.time()))
    raise DeadlineExceededError("The request took too long.")


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
