"""The HTTP API: routes and nothing else. What they do is in `service`, who may ask in `security`.

The page is one document with its style and script inside; it asks this server and nobody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files as resources
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tbps_cli.errors import UsageError
from tbps_cli.serving import described
from tbps_cli.serving.described import file_answer, json_answer, text_answer
from tbps_cli.serving.leaving import Leaving
from tbps_cli.serving.metrics import Metrics
from tbps_cli.serving.replies import AnyNameResponse, add_errors
from tbps_cli.serving.requests import ExplainRequest, ExportRequest, SearchRequest, WatchRequest
from tbps_cli.serving.security import Access, Gate
from tbps_cli.serving.served import ServedGallery
from tbps_cli.serving.service import NotThereError, Service
from tbps_cli.serving.standing import StandingQuestions
from tbps_cli.serving.work_queue import Overloaded, WorkQueue, WorkQueues

T = TypeVar("T")
IMAGE_SECONDS = 3600
"""For which a browser may keep an image of the gallery."""
LISTENERS = 100
ALERTS = 100


def make_app(
    service: Service, standing: StandingQuestions, access: Access, metrics: Metrics, queues: WorkQueues
) -> Any:
    """The application."""
    server = _Server(service, standing, metrics, queues)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        standing.start(asyncio.get_running_loop())
        yield
        standing.close()
        queues.close()

    api = FastAPI(
        title="tbps",
        version="1",
        description="Text-based person search: describe a pedestrian, get the images that fit, ranked.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        default_response_class=AnyNameResponse,
    )
    add_errors(api)
    _add_routes(api, server)
    return Gate(Leaving(_Measured(api, metrics)), access, policy())


class _Server:
    """What the routes share."""

    def __init__(self, service: Service, standing: StandingQuestions, metrics: Metrics, queues: WorkQueues) -> None:
        self.service, self.standing, self.metrics = service, standing, metrics
        self.searches, self.images, self.slow, self.far = queues.searches, queues.images, queues.slow, queues.far
        self.listeners = 0

    def queue(self, usual: WorkQueue, served: ServedGallery | None) -> WorkQueue:
        """Where work for a gallery waits: one in a database has threads of its own."""
        return self.far if served is not None and served.far else usual

    async def run(self, queue: WorkQueue, work: Callable[[], T]) -> T:
        self.metrics.waiting.labels(queue.name).set(queue.inside)
        return await queue.run(work)


class _Measured:
    """Counts what is answered, and how long it took until the answer began."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(route, str(message["status"])).inc()
                self.metrics.seconds.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, measured if scope["type"] == "http" else send)


def _add_routes(api: FastAPI, server: _Server) -> None:
    service, standing = server.service, server.standing

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(page_text(), headers={"cache-control": "no-cache"})

    @api.get("/healthz", summary="Whether the server answers", responses=json_answer({"status": "ok"}))
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    counted = text_answer("text/plain", 'tbps_requests_total{route="/v1/search",status="200"} 18.0')

    @api.get("/metrics", summary="Counters, for Prometheus", response_class=Response, responses=counted)
    async def metrics() -> Response:
        return Response(server.metrics.text(service.galleries), media_type="text/plain; version=0.0.4")

    listed = json_answer(described.GALLERIES, 503)

    @api.get("/v1/galleries", summary="What can be searched, and by what it can be filtered", responses=listed)
    async def galleries() -> dict[str, Any]:
        return await server.run(server.searches, service.overview)

    ranked = json_answer(described.SEARCH, 404, 413, 422, 503)

    @api.post("/v1/search", summary="Rank images for a sentence, images, or a sum of both", responses=ranked)
    async def search(asked: SearchRequest, request: Request) -> Response:
        client = request.client.host if request.client else ""
        queue = server.queue(server.searches, service.gallery(asked.gallery))
        found = await server.run(queue, lambda: service.search(asked, client))
        return AnyNameResponse(found)

    @api.post(
        "/v1/images",
        summary="Send an image to search by",
        description="The body is the file itself.",
        responses=json_answer(described.SENT, 413, 422, 503),
        openapi_extra=described.UPLOADED,
    )
    async def upload(request: Request) -> dict[str, Any]:
        content = await request.body()
        if not content:
            raise UsageError("the body is empty.", "Send the bytes of an image file.")
        return await server.run(server.slow, lambda: service.upload(content))

    @api.get(
        "/v1/images/{id}",
        summary="A small JPEG of an image that was sent",
        response_class=Response,
        responses=file_answer("image/jpeg", mistakes=(422, 503)),
    )
    async def uploaded(id: str) -> Response:
        return Response(await server.run(server.images, lambda: service.uploaded(id)), media_type="image/jpeg")

    @api.get(
        "/v1/pictures/{id}",
        summary="An image of a gallery: its thumbnail, itself, the frame it was seen in, or seconds of video around it",
        response_class=Response,
        responses=file_answer("image/jpeg", "video/webm", mistakes=(404, 422, 503)),
    )
    async def picture(
        id: str,
        view: Literal["thumbnail", "crop", "frame", "clip"] = Query("thumbnail"),
        if_none_match: str | None = Header(None),
    ) -> Response:
        queue = server.slow if view == "clip" else server.queue(server.images, service.owner(id))
        content, kind = await server.run(queue, lambda: service.picture(id, view))
        mark = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        headers = {"etag": mark, "cache-control": f"private, max-age={IMAGE_SECONDS}"}
        if if_none_match == mark:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    known = json_answer(described.FACTS, 404, 422, 503)

    @api.get(
        "/v1/pictures/{id}/facts", summary="What is known of an image, and who else is in its frame", responses=known
    )
    async def facts(id: str) -> dict[str, Any]:
        return await server.run(server.queue(server.images, service.owner(id)), lambda: service.facts(id))

    explained = json_answer(described.EXPLAINED, 404, 413, 422, 503)

    @api.post("/v1/explain", summary="Which words of a sentence an image supports, and where", responses=explained)
    async def explain(asked: ExplainRequest) -> dict[str, Any]:
        return await server.run(server.slow, lambda: service.explain(asked))

    @api.post(
        "/v1/export",
        summary="Chosen hits as CSV, a page, or a ZIP of their images",
        response_class=Response,
        responses=file_answer("text/csv", "text/html", "application/zip", mistakes=(404, 413, 422, 503)),
    )
    async def export(asked: ExportRequest, request: Request) -> Response:
        client = request.client.host if request.client else ""
        content, kind = await server.run(server.slow, lambda: service.export(asked, client))
        headers = {"content-disposition": f'attachment; filename="hits.{asked.form}"'}
        return Response(content, media_type=kind, headers=headers)

    @api.get(
        "/v1/watch",
        summary="The standing questions, and their last alerts",
        responses=json_answer(described.WATCH, 503),
    )
    async def questions() -> dict[str, Any]:
        found = await server.run(server.searches, lambda: standing.alerts(ALERTS))
        kept = await server.run(server.searches, standing.all)
        return {"questions": kept, "alerts": found, "budget": standing.budget}

    @api.post(
        "/v1/watch",
        status_code=201,
        summary="Ask a question of everything that arrives from now on",
        responses=json_answer(described.ASKED, 404, 413, 422, 503, status=201),
    )
    async def watch(asked: WatchRequest) -> dict[str, Any]:
        served = service.gallery(asked.gallery)
        return await server.run(server.slow, lambda: standing.add(served, asked.text))

    @api.delete(
        "/v1/watch/{id}",
        status_code=204,
        summary="End a standing question",
        responses=described.mistakes_of(404, 422, 503) | {204: {"description": "It is no longer asked."}},
    )
    async def unwatch(id: str) -> Response:
        if not await server.run(server.searches, lambda: standing.remove(id)):
            raise NotThereError(f"question {id:.40}: there is no such question.")
        return Response(status_code=204)

    @api.get(
        "/v1/watch/events",
        summary="Alerts as server-sent events",
        response_class=StreamingResponse,
        responses=text_answer("text/event-stream", described.EVENTS, 422, 503),
    )
    async def events(after: str | None = None, last_event_id: str | None = Header(None)) -> StreamingResponse:
        if server.listeners >= LISTENERS:
            raise Overloaded

        async def told() -> AsyncIterator[str]:
            server.listeners += 1
            try:
                if server.listeners > LISTENERS:  # many came at once: the rest asks again in a moment
                    return
                async for event in standing.events(last_event_id or after):
                    yield event
            finally:
                server.listeners -= 1

        return StreamingResponse(told(), media_type="text/event-stream")


# The page -------------------------------------------------------------------------------------


@cache
def page_text() -> str:
    """The whole page."""
    html, style, script = (_part(name) for name in ("page.html", "page.css", "page.js"))
    return html.replace("/*style*/", style).replace("/*script*/", script)


@cache
def policy() -> str:
    """What the page may do, as a Content-Security-Policy: its own style and script, and asking this server."""
    style, script = (_hash(_part(name)) for name in ("page.css", "page.js"))
    rules = {
        "default-src": "'none'",
        "script-src": script,
        "style-src": style,
        "img-src": "'self' blob: data:",
        "media-src": "'self' blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _part(name: str) -> str:
    return (resources("tbps_cli.serving") / "page" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
