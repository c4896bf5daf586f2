"""The page: speak or drop a recording, and read along as it is decoded.

    mount(app)              # beside the API's routes, on the application of `create_app`
    await mount_late(app)   # on one that answers already

Gradio carries the conversation between browser and pipeline; what one sees is ours (`page/`). A recording goes into
memory, to the pipeline in this process, and is forgotten. The ways in which Gradio stores and serves files are shut, so
nothing touches a disk and no path can be asked for. The browser plays its own copy, and fetches nothing elsewhere.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    aclosing,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from tickertape import failures, formats, orders
from tickertape.audio import HINT
from tickertape.cues import milliseconds
from tickertape.errors import CallerError, OptionError, TickertapeError
from tickertape.failures import ClientGone, NoSuchPath, SlowBody
from tickertape.forms import Form, body_cap, check_headers, read_form
from tickertape.frame import Record, trace_line
from tickertape.gate import Gate
from tickertape.languages import LANGUAGES
from tickertape.pipeline import Update
from tickertape.telemetry import Timings
from tickertape.types import Audio, Segment, Task, Transcript
from tickertape.visits import Books

if TYPE_CHECKING:
    from tickertape.admission import Reservation
    from tickertape.visits import Service

WAITING = 60.0  # seconds after which a recording that nobody has asked to transcribe is forgotten
AT_ONCE = 64  # transcriptions shown at once; what they may cost is up to the admission
QUEUE = 256  # that wait behind them
BARS = 240  # of the waveform
ENOUGH = 2_000_000  # samples to draw it from: more would cost time and not show
EXAMPLES = (  # the clips: as they are installed, and in a checkout
    Path(__file__).resolve().parent / "page" / "examples",
    Path(__file__).resolve().parents[2] / "examples" / "audio",
)
ENDPOINT = "page"  # of the page's transcriptions, in log lines and metrics
DOWNLOADS = {"txt": "text", "srt": "srt", "vtt": "vtt", "json": "verbose_json"}

Json = dict[str, Any]


def mount(app: Any) -> Any:
    """Mount the page at the root of a FastAPI application that `create_app` made, and return that.

    Its other routes answer as before.
    """
    own, page = app.router.lifespan_context, _attach(app)

    @asynccontextmanager
    async def both(app: Any) -> AsyncIterator[Any]:
        async with own(app) as state, page(app):
            yield state

    app.router.lifespan_context = both
    return app


async def mount_late(app: Any) -> None:
    """Mount the page on an application that answers already, for as long as the process lives.

    Gradio, two seconds of work, is imported in a thread; until it is there `/` says that the page is on its way.
    """
    app.add_api_route("/", _soon, methods=["GET"], include_in_schema=False)
    soon = app.router.routes[-1]
    try:
        await asyncio.to_thread(importlib.import_module, "gradio")
    finally:
        app.router.routes.remove(soon)
    page = _attach(app)
    app.state.page = AsyncExitStack()
    await app.state.page.enter_async_context(page(app))


async def _soon() -> Response:
    """What browsers show, and ask again a second later."""
    text = "<!doctype html><title>Tickertape</title><p>The page is loading."
    return HTMLResponse(text, 503, {"refresh": "1", "retry-after": "1"})


def _attach(app: Any) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Add the page's routes; returns the lifespan of what is behind them, which is the caller's to enter."""
    import gradio as gr

    service: Service = app.state.service
    app.state.desk = desk = Desk(service)
    app.add_api_route("/recordings", desk.receive, methods=["POST"], include_in_schema=False)
    app.add_api_route("/examples/{name}", desk.example, methods=["GET"], include_in_schema=False)
    ours = tuple(app.router.routes)
    own = app.router.lifespan_context
    app.router.lifespan_context = lambda _: nullcontext()  # to which Gradio adds its own
    blocks = _blocks(desk)
    blocks.has_launched = True  # else Gradio would not check which files may be read
    theme = gr.themes.Base(font=["IBM Plex Sans", "sans-serif"], font_mono=["IBM Plex Mono", "monospace"])
    gr.mount_gradio_app(
        app, blocks, path="/", footer_links=[], run_history=False, allowed_paths=[], show_error=False,
        max_file_size=service.settings.body_limit, ssr_mode=False, enable_monitoring=False, mcp_server=False, pwa=False,
        theme=theme,
    )  # fmt: skip
    head = f"{_asset('head.html')}<style>{_asset('page.css')}</style>"  # Gradio's own way rewrites the rules
    mounted: Any = app.router.routes[-1]
    mounted.app = Gate(mounted.app, ours, head.encode())
    page, app.router.lifespan_context = app.router.lifespan_context, own
    return page  # type: ignore[no-any-return]


def _blocks(desk: Desk) -> Any:
    """The page in Gradio's terms: what is seen, and the wire between it and the desk."""
    import gradio as gr

    facts = json.dumps(desk.describe()).replace("<", "\\u003c")
    with gr.Blocks(title="Tickertape", analytics_enabled=False, delete_cache=(60, 60), fill_width=True) as blocks:
        gr.HTML(_asset("page.html"), js_on_load=f"const facts = {facts};\n{_asset('page.js')}", apply_default_css=False,
                elem_id="tickertape")  # fmt: skip
        wire = gr.HTML({}, html_template="", js_on_load=_asset("wire.js"), visible="hidden", elem_id="wire")
        talk = wire.submit(
            desk.transcribe, wire, wire, show_progress="hidden", api_visibility="private",
            concurrency_limit=AT_ONCE, trigger_mode="multiple",
        )  # fmt: skip
        wire.stop(None, cancels=[talk], api_visibility="private")
    blocks.queue(max_size=QUEUE, api_open=False)
    return blocks


@dataclass(slots=True)
class Waiting:
    """A recording in memory, between its upload and the wish to transcribe it."""

    file: io.BytesIO
    room: Reservation
    timer: asyncio.TimerHandle

    def let_go(self) -> None:
        """Hold its bytes no longer: whoever took them does."""
        self.file = io.BytesIO()
        self.timer.cancel()

    def drop(self) -> None:
        """Forget it."""
        self.let_go()
        self.room.release()


class Desk:
    """Takes recordings in, and answers with their text."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiting: dict[str, Waiting] = {}

    async def receive(self, request: Request) -> Response:
        """`POST /recordings`, a form with a `file`: keep it in memory, answer with a token that fetches it once."""
        service, limit = self._service, self._service.settings.body_limit
        service.authenticate(request)
        with service.door.enter(), ExitStack() as failing:
            length = request.headers.get("content-length", "")
            boundary = check_headers(request.headers.get("content-type", ""), length, limit)
            size = int(length) if length.isascii() and length.isdigit() else body_cap(limit)
            room = failing.enter_context(await service.uploads.reserve(size))
            file = await self._read(request, boundary)
            failing.pop_all()  # from now on the room is the recording's
            return JSONResponse({"token": self._keep(file, room)})

    async def _read(self, request: Request, boundary: bytes) -> io.BytesIO:
        """The form's file. Raises what `read_form` raises."""
        settings = self._service.settings
        reading = read_form(
            request.receive, boundary, known={"file"}, limit=settings.body_limit, timeout=settings.body_timeout
        )
        try:
            with anyio.fail_after(settings.request_timeout):
                form = await reading
        except TimeoutError as error:
            raise SlowBody("The upload took too long.") from error
        if form.file is None:
            raise OptionError("The field `file` is missing.", "file", "missing_field")
        return form.file

    async def example(self, name: str) -> Response:
        """`GET /examples/{name}`: one of the clips on the page."""
        if name not in self.examples:
            raise NoSuchPath("There is no such example.")
        return FileResponse(self.examples[name])

    @cached_property
    def examples(self) -> dict[str, Path]:
        """The clips by name, in the order of the manifest beside them; none where there is no manifest."""
        for folder in EXAMPLES:
            manifest = folder / "manifest.jsonl"
            if manifest.is_file():
                clips = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
                return {clip["audio"]: folder / clip["audio"] for clip in clips}
        return {}

    def describe(self) -> Json:
        """What the page needs to know."""
        settings = self._service.settings
        return {
            "models": [
                {"name": model.name, "languages": list(model.languages), "translates": model.translates}
                for model in self._service.models.values()
            ],
            "languages": {code: name.capitalize() for code, name in LANGUAGES.items()},
            "examples": list(self.examples),
            "bytes": settings.body_limit,
            "seconds": settings.max_audio_seconds,
            "keys": settings.keys_file is not None,
            "docs": settings.docs,
        }

    async def transcribe(self, wish: object) -> AsyncGenerator[Json, None]:
        """Answer a wish of the page: how far it is, the text so far, and at the end everything.

        `wish` holds `token`, `run` (a number that comes back with every answer), `model`, `language`, `task`, `words`
        and, where keys are wanted, `key`. Whatever goes wrong is an answer too.
        """
        given = wish if isinstance(wish, dict) else {}
        run = given.get("run")
        answer = Answer(run if isinstance(run, int) else 0)
        record = Record(Timings(f"page_{secrets.token_hex(6)}", method="POST", endpoint=ENDPOINT, stream=True))
        record.note(status=failures.status_of(ClientGone), code=ClientGone.code)  # unless it comes to an end
        try:
            door = self._service.door
            async with (
                aclosing(self._updates(given, answer, record)) as updates,
                aclosing(door.each(updates)) as timely,
            ):
                async for update in timely:
                    if update.transcript is not None:
                        record.note(status=200, code="")
                    yield answer.add(update)
        except Exception as error:  # noqa: BLE001 - the visitor gets a sentence, the log the place
            yield answer.fail(self._understood(error, record))
        finally:
            self._service.tell(record)

    def _understood(self, error: Exception, record: Record) -> TickertapeError:
        """The error in words for the visitor, noted in the record."""
        if isinstance(error, TickertapeError):
            known = error
        else:
            reference = record.timings.request_id
            self._service.emit(trace_line(error, reference))
            known = TickertapeError(f"The server failed; its log has the details under {reference}.")
        record.note(status=failures.status(known), code=known.code)
        return known

    async def _updates(self, wish: Json, answer: Answer, record: Record) -> AsyncGenerator[Update, None]:
        """Decode the recording and transcribe it, within the same limits as the API's requests."""
        service, books = self._service, Books(self._service, record)
        with ExitStack() as inside:
            inside.enter_context(service.door.enter())
            waiting = self._take(wish)
            inside.callback(waiting.drop)
            self._meter(wish, inside, record)
            hold = inside.enter_context(service.admission.enter())
            form = Form(waiting.file, _fields(wish))
            order = orders.understand(form, _task(wish), service.models, beam_size=service.settings.beam_size)
            record.note(model=order.model.name, task=_task(wish))
            waiting.let_go()
            audio = await books.hear(form, order, waiting.room, hold)
            answer.hear(audio)
            yield Update((), 0, 1)
            deadline = time.time() + service.settings.request_timeout
            async with aclosing(books.transcribe(audio, order, hold, deadline)) as updates:
                async for update in updates:
                    yield update

    def _keep(self, file: io.BytesIO, room: Reservation) -> str:
        token = secrets.token_urlsafe(24)
        timer = asyncio.get_running_loop().call_later(WAITING, self._forget, token)
        self._waiting[token] = Waiting(file, room, timer)
        return token

    def _forget(self, token: str) -> None:
        if waiting := self._waiting.pop(token, None):
            waiting.drop()

    def _take(self, wish: Json) -> Waiting:
        """The recording under the token, which is then spent."""
        token = wish.get("token")
        waiting = self._waiting.pop(token, None) if isinstance(token, str) else None
        if waiting is None:
            raise CallerError("The recording is no longer here; send it again.")
        return waiting

    def _meter(self, wish: Json, inside: ExitStack, record: Record) -> None:
        """Count the wish against its key, where keys are wanted. Raises `Unauthorized` and `RateLimited`."""
        given = wish.get("key")
        headers = [f"Bearer {given}".encode()] if isinstance(given, str) and given else []
        key = self._service.keyring.authenticate(headers)
        if key is not None:
            record.note(key_id=key.id)
        self._service.meter.take(key)
        inside.enter_context(self._service.meter.running(key))


def _fields(wish: Json) -> dict[str, list[str]]:
    """The wish as a form of the API."""
    model, language = wish.get("model"), wish.get("language")
    fields = {"model": [model if isinstance(model, str) else ""], "response_format": ["verbose_json"]}
    if isinstance(language, str) and language:
        fields["language"] = [language]
    if wish.get("words") is True:
        fields["word_timestamps"] = ["true"]
    return fields


def _task(wish: Json) -> Task:
    return "translate" if wish.get("task") == "translate" else "transcribe"


@dataclass(slots=True)
class Answer:
    """What the page shows of one transcription; it grows with every update."""

    run: int
    seconds: float = 0.0  # of all channels
    body: Json = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def hear(self, audio: Audio) -> None:
        """The recording is decoded."""
        self.seconds = audio.seconds * len(audio.samples)
        self.body = {"duration": round(audio.seconds, 3), "channels": len(audio.samples), "peaks": peaks(audio),
                     "segments": []}  # fmt: skip

    def add(self, update: Update) -> Json:
        """The answer with an update."""
        self.body["segments"] = [*self.body["segments"], *map(_segment, update.segments)]
        self.body["done"] = round(update.done / max(1, update.total), 4)
        if update.transcript is not None:
            self.body |= _whole(update.transcript)
        return self._now("running" if update.transcript is None else "done")

    def fail(self, error: TickertapeError) -> Json:
        """The answer that ends in an error."""
        message = error.message.removesuffix(HINT).strip()  # which is for callers of the API
        self.body["error"] = {"code": error.code, "message": message}
        return self._now("failed")

    def _now(self, state: str) -> Json:
        elapsed = time.perf_counter() - self.began
        done = self.seconds * self.body.get("done", 0)
        factor = round(elapsed / done, 4) if done else None
        return {**self.body, "run": self.run, "state": state, "elapsed": round(elapsed, 3), "factor": factor}


def _segment(segment: Segment) -> Json:
    """A row of the page's table, times in seconds."""
    return {
        "start": milliseconds(segment.start) / 1000,
        "end": milliseconds(segment.end) / 1000,
        "text": segment.text.strip(),
        "channel": segment.channel,
        "words": [
            [milliseconds(word.start) / 1000, milliseconds(word.end) / 1000, word.text] for word in segment.words
        ],
    }


def _whole(transcript: Transcript) -> Json:
    """What is known at the end."""
    return {
        "language": LANGUAGES.get(transcript.language, transcript.language),
        "text": formats.text(transcript).strip(),
        "notices": [notice.message for notice in transcript.notices],
        "files": {name: formats.FORMATS[style](transcript) for name, style in DOWNLOADS.items()},
    }


def peaks(audio: Audio) -> list[int]:
    """The waveform in `BARS` bars: the loudest sample of each, from 0 to 100, the recording's loudest being 100."""
    loud = np.abs(audio.samples[:, :: 1 + audio.length // ENOUGH]).max(axis=0)
    edges = np.linspace(0, len(loud), BARS, endpoint=False, dtype=np.int64)
    bars = np.maximum.reduceat(loud, edges)
    return [round(100 * float(bar) / max(float(bars.max()), 1e-4)) for bar in bars]


def _asset(name: str) -> str:
    return resources.files("tickertape").joinpath("page").joinpath(name).read_text(encoding="utf-8")
