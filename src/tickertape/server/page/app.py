"""The web page: record or upload audio, and read the text while it is transcribed.

    mount(app)              # on the application of `create_app`, before it serves
    await mount_late(app)   # on an application that serves already

Gradio carries messages between browser and server; the HTML, CSS and JavaScript in `static/` are ours. A recording is
uploaded into memory, transcribed and freed. Gradio's ways to store and serve files are blocked by `guard`, so that
nothing is written to disk and no path can be requested. The browser plays its own copy and requests no other host.
"""

from __future__ import annotations

import asyncio
import importlib
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
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from tickertape.errors import CallerError, OptionError
from tickertape.server.errors import ClientDisconnectedError, NotFoundError
from tickertape.server.metrics import Record
from tickertape.server.middleware import known_error
from tickertape.server.multipart import Form, check_headers
from tickertape.server.page.guard import Guard
from tickertape.server.page.messages import Json, Messages
from tickertape.server.params import parse_form
from tickertape.server.transcription import Transcription
from tickertape.server.uploads import Upload, receive_form
from tickertape.transcripts.languages import LANGUAGES
from tickertape.types import Task

if TYPE_CHECKING:
    from tickertape.server.service import Service

UPLOAD_LIFETIME = 60.0  # seconds until an upload is freed whose transcription was never requested
CONCURRENCY = 64  # Gradio's limit of transcriptions; the service's admission limits their cost
QUEUE_SIZE = 256  # transcriptions that Gradio queues
EXAMPLE_FOLDERS = (  # in an installed package, and in a checkout
    Path(__file__).resolve().parent / "static" / "examples",
    Path(__file__).resolve().parents[4] / "examples" / "audio",
)
ENDPOINT = "page"  # in log lines and metrics


def mount(app: Any) -> Any:
    """Mount the page at the root of an application of `create_app`, and return the application."""
    app_lifespan, page_lifespan = app.router.lifespan_context, _add_routes(app)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with app_lifespan(app) as state, page_lifespan(app):
            yield state

    app.router.lifespan_context = lifespan
    return app


async def mount_late(app: Any) -> None:
    """Mount the page on an application that serves already, until the process ends.

    Gradio takes two seconds to import, in a thread; meanwhile `/` answers that the page is loading.
    """
    app.add_api_route("/", _loading, methods=["GET"], include_in_schema=False)
    placeholder = app.router.routes[-1]
    try:
        await asyncio.to_thread(importlib.import_module, "gradio")
    finally:
        app.router.routes.remove(placeholder)
    lifespan = _add_routes(app)
    app.state.page = AsyncExitStack()
    await app.state.page.enter_async_context(lifespan(app))


async def _loading() -> Response:
    """A placeholder that the browser reloads after a second."""
    text = "<!doctype html><title>Tickertape</title><p>The page is loading."
    return HTMLResponse(text, 503, {"refresh": "1", "retry-after": "1"})


def _add_routes(app: Any) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Add the page's routes. Returns Gradio's lifespan, which the caller must enter."""
    import gradio as gr

    service: Service = app.state.service
    app.state.page_handlers = handlers = PageHandlers(service)
    app.add_api_route("/recordings", handlers.upload, methods=["POST"], include_in_schema=False)
    app.add_api_route("/examples/{name}", handlers.example, methods=["GET"], include_in_schema=False)
    routes = tuple(app.router.routes)
    app_lifespan = app.router.lifespan_context
    app.router.lifespan_context = lambda _: nullcontext()  # Gradio wraps its own around it
    blocks = _blocks(handlers)
    blocks.has_launched = True  # otherwise Gradio skips its check of files that may be read
    theme = gr.themes.Base(font=["IBM Plex Sans", "sans-serif"], font_mono=["IBM Plex Mono", "monospace"])
    gr.mount_gradio_app(
        app, blocks, path="/", footer_links=[], run_history=False, allowed_paths=[], show_error=False,
        max_file_size=service.settings.body_limit, ssr_mode=False, enable_monitoring=False, mcp_server=False, pwa=False,
        theme=theme,
    )  # fmt: skip
    head = f"{_asset('head.html')}<style>{_asset('page.css')}</style>"  # Gradio's `css` parameter rewrites selectors
    mounted: Any = app.router.routes[-1]
    mounted.app = Guard(mounted.app, routes, head.encode())
    gradio_lifespan, app.router.lifespan_context = app.router.lifespan_context, app_lifespan
    return gradio_lifespan  # type: ignore[no-any-return]


def _blocks(handlers: PageHandlers) -> Any:
    """The Gradio components: the page, and a hidden bridge between page.js and the handlers."""
    import gradio as gr

    facts = json.dumps(handlers.facts()).replace("<", "\\u003c")
    with gr.Blocks(title="Tickertape", analytics_enabled=False, delete_cache=(60, 60), fill_width=True) as blocks:
        gr.HTML(_asset("page.html"), js_on_load=f"const facts = {facts};\n{_asset('page.js')}", apply_default_css=False,
                elem_id="tickertape")  # fmt: skip
        bridge = gr.HTML({}, html_template="", js_on_load=_asset("bridge.js"), visible="hidden", elem_id="bridge")
        transcribing = bridge.submit(
            handlers.transcribe, bridge, bridge, show_progress="hidden", api_visibility="private",
            concurrency_limit=CONCURRENCY, trigger_mode="multiple",
        )  # fmt: skip
        bridge.stop(None, cancels=[transcribing], api_visibility="private")
    blocks.queue(max_size=QUEUE_SIZE, api_open=False)
    return blocks


class Submission(BaseModel):
    """What page.js sends to transcribe an upload. `run` is a number that every message repeats."""

    token: Any = None
    run: int = 0
    model: str = ""
    language: str = ""
    task: Task = "transcribe"
    words: bool = False
    key: str = ""

    @classmethod
    def of(cls, sent: object) -> Submission:
        """The submission; an invalid one has no token."""
        try:
            return cls.model_validate(sent)
        except ValidationError:
            return cls()

    def fields(self) -> dict[str, list[str]]:
        """The fields of an API request."""
        choices = {"model": self.model, "language": self.language, "response_format": "verbose_json"}
        return {name: [value] for name, value in {**choices, "word_timestamps": str(self.words)}.items()}


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A recording in memory whose transcription has not been requested yet."""

    form: Form
    memory: Upload
    timer: asyncio.TimerHandle


class PageHandlers:
    """What the page calls: uploads, examples and transcriptions."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pending: dict[str, PendingUpload] = {}  # by token

    async def upload(self, request: Request) -> Response:
        """`POST /recordings`, a form with a `file`. Keeps the file in memory; responds with a token for one use."""
        service = self._service
        service.authenticate(request)
        with service.requests.admit(), ExitStack() as failing:
            boundary = check_headers(request.headers, service.settings.body_limit)
            upload = failing.enter_context(Upload(service.uploads))
            form = await receive_form(request.receive, boundary, upload, fields={"file"}, settings=service.settings)
            if form.file is None:
                raise OptionError("The field `file` is missing.", "file", "missing_field")
            failing.pop_all()  # the pending upload owns the reservation now
            token = secrets.token_urlsafe(24)
            timer = asyncio.get_running_loop().call_later(UPLOAD_LIFETIME, self._expire, token)
            self._pending[token] = PendingUpload(form, upload, timer)
            return JSONResponse({"token": token})

    def _expire(self, token: str) -> None:
        self._pending.pop(token).memory.release()

    async def example(self, name: str) -> Response:
        """`GET /examples/{name}`: an example clip."""
        if name not in self.examples:
            raise NotFoundError("There is no such example.")
        return FileResponse(self.examples[name])

    @cached_property
    def examples(self) -> dict[str, Path]:
        """The example clips by name, in the order of their manifest; empty without a manifest."""
        for folder in EXAMPLE_FOLDERS:
            manifest = folder / "manifest.jsonl"
            if manifest.is_file():
                clips = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
                return {clip["audio"]: folder / clip["audio"] for clip in clips}
        return {}

    def facts(self) -> Json:
        """The facts about the server that page.js needs."""
        settings = self._service.settings
        return {
            "models": [
                {"name": name, "languages": list(model.info.languages), "translates": model.info.translates}
                for name, model in self._service.models.items()
            ],
            "languages": {code: name.capitalize() for code, name in LANGUAGES.items()},
            "examples": list(self.examples),
            "bytes": settings.body_limit,
            "seconds": settings.max_audio_seconds,
            "keys": settings.keys_file is not None,
            "docs": settings.docs,
        }

    async def transcribe(self, submission: object) -> AsyncGenerator[Json, None]:
        """Transcribe an upload and yield messages: progress, new segments, and finally the result or an error."""
        sent = Submission.of(submission)
        messages = Messages(sent.run)
        record = _new_record()
        try:
            async with (
                aclosing(self._messages(sent, messages, record)) as made,
                aclosing(self._service.requests.iterate(made)) as made_in_time,
            ):
                async for message in made_in_time:
                    if message["state"] == "done":
                        record.status, record.code = 200, ""
                    yield message
        except Exception as error:  # noqa: BLE001 - the browser gets a sentence, the log the location
            yield messages.fail(known_error(error, record))
        finally:
            self._service.observe(record)

    async def _messages(self, sent: Submission, messages: Messages, record: Record) -> AsyncGenerator[Json, None]:
        """Decode and transcribe the upload, within the limits of API requests."""
        service, transcription = self._service, Transcription(self._service, record)
        with ExitStack() as inside:
            inside.enter_context(service.requests.admit())
            pending = self._take(sent.token)
            inside.enter_context(pending.memory)
            self._check_key(sent.key, inside, record)
            reservation = inside.enter_context(service.admission.reserve())
            form = pending.form
            form.fields = sent.fields()
            order = parse_form(form, sent.task, service.models, beam_size=service.settings.beam_size)
            record.model, record.task = order.model.info.name, sent.task
            audio = await transcription.decode(form, order, pending.memory, reservation)
            yield await messages.start(audio)
            deadline = time.time() + service.settings.request_timeout
            async with aclosing(transcription.transcribe(audio, order, reservation, deadline)) as updates:
                async for update in updates:
                    yield await messages.add(update)

    def _take(self, token: object) -> PendingUpload:
        """The upload of a token. The token cannot be used again."""
        pending = self._pending.pop(token, None) if isinstance(token, str) else None
        if pending is None:
            raise CallerError("The recording is no longer here; send it again.")
        pending.timer.cancel()
        return pending

    def _check_key(self, secret: str, inside: ExitStack, record: Record) -> None:
        """Count the request against its key, if keys are required. Raises `UnauthorizedError` and `RateLimitError`."""
        key = self._service.keyring.authenticate([f"Bearer {secret}".encode()])
        if key is not None:
            record.key_id = key.id
        self._service.rate_limiter.take(key)
        inside.enter_context(self._service.rate_limiter.running(key))


def _new_record() -> Record:
    """A record for metrics and the log. Its status is that of a client that disconnects, until the end is known."""
    record = Record(f"page_{secrets.token_hex(6)}", method="POST", endpoint=ENDPOINT, stream=True)
    record.fail(ClientDisconnectedError())
    return record


def _asset(name: str) -> str:
    return resources.files("tickertape.server.page").joinpath("static").joinpath(name).read_text(encoding="utf-8")
