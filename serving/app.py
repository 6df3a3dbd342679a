"""The REST server's addresses: what HTTP adds to `Server`."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.monitoring import CONTENT_TYPE
from serving.requests import TYPES, Fields, RequestError, media_type
from serving.server import Server

GONE = 499  # as nginx counts requests whose client went away
DRAIN_SECONDS = 5.0  # for the rest of a refused body
STATIC = "static"  # address of the files that /docs loads
KINDS = {
    **{400: "damaged", 401: "token", 404: "not_found", 406: "accept", 408: "slow_body", 413: "too_large"},
    **{415: "format", 422: "field", GONE: "client_gone", 500: "failure", 503: "queue_full", 504: "timeout"},
}
"""Kinds of errors in the metrics, by status."""


class DrainRefused:
    """ASGI middleware: sends the answer to a refused request at once, then reads and drops the rest of its body.

    If the connection were closed at once, a client that still sends would get an error instead of the answer.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left = Headers(scope=scope).get("expect") != "100-continue"  # such a client sends no body before it is asked to

        async def watched() -> Message:
            nonlocal left
            message = await receive()
            left = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def drain() -> None:
            while left:
                await watched()

        async def answer(message: Message) -> None:
            if left and message["type"] == "http.response.body" and not message.get("more_body"):
                await send({**message, "more_body": True})
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(drain(), DRAIN_SECONDS)
                message = {"type": "http.response.body"}
            await send(message)

        await self._app(scope, watched, answer)


def create_app(server: Server, token: str | None = None) -> FastAPI:
    """The routes of a server.

    Args:
        server: that answers.
        token: required as ``Authorization: Bearer`` by every address but ``/health`` and ``/ready``; None lets
            everybody in.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with server.running():
            yield

    app = FastAPI(
        title="One-step image translation",
        description="Translates images with trained adapters.",
        version=version("one-step-translation"),
        openapi_url=None,  # FastAPI's own address needs no token
        redirect_slashes=False,  # to what the request's Host says, and behind a proxy without TLS
        lifespan=lifespan,
    )
    app.add_middleware(DrainRefused)
    app.mount(f"/{STATIC}", StaticFiles(packages=[("fastapi_offline", "static")]))

    def check_token(
        found: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        given = found.credentials if found is not None else ""
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            server.monitoring.errors.labels(KINDS[401]).inc()
            sentence = "A valid token is needed: Authorization: Bearer TOKEN."
            raise RequestError(401, sentence, {"WWW-Authenticate": "Bearer"})

    routes = APIRouter(dependencies=[Depends(check_token)])
    default = server.models.names[0]

    @routes.post("/translate", summary="Translate an image", **DOCUMENTED)
    async def translate(request: Request) -> Response:
        return await _translate(server, request, default)

    @routes.post("/translate/{adapter}", summary="Translate an image with one of several adapters", **DOCUMENTED)
    async def translate_by(request: Request, adapter: Annotated[str, Path(description="a name in /info")]) -> Response:
        return await _translate(server, request, adapter)

    @routes.get("/info", summary="Adapters and limits")
    def info() -> dict[str, object]:  # reads cards: in a thread
        return server.info()

    @routes.get("/metrics", summary="Counters and times, as Prometheus reads them", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(server.monitoring.text(), media_type=CONTENT_TYPE)

    @routes.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{STATIC}/favicon.png",
        )

    @app.get("/health", summary="Whether the server works")
    async def health() -> JSONResponse:
        works = server.batcher.running
        return JSONResponse({"healthy": works}, 200 if works else 503)

    @app.get("/ready", summary="Whether a model is loaded")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": server.ready}, 200 if server.ready else 503)

    app.include_router(routes)

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        return JSONResponse({"error": error.sentence}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        sentence = {404: "There is no such address: /docs lists them.", 405: "This address takes another method."}
        return JSONResponse({"error": sentence.get(error.status_code, error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:  # uvicorn logs it
        return JSONResponse({"error": "The server failed: its log says why."}, 500)

    return app


async def _translate(server: Server, request: Request, name: str) -> Response:
    """Answer a request for a translation, and count it.

    Raises:
        RequestError: it is refused, or cannot be answered.
    """
    start, status, monitoring = time.perf_counter(), 500, server.monitoring
    try:
        kind = media_type(request.headers.get("accept", ""))
        answer = await server.translate(request, name, TYPES[kind])
        status = 200
    except RequestError as error:
        status = error.status
        raise
    except ClientDisconnect:
        status = GONE
        return Response(status_code=GONE)  # which nobody receives
    finally:
        monitoring.requests.labels(str(status)).inc()
        if status != 200:
            monitoring.errors.labels(KINDS[status]).inc()
    total = time.perf_counter() - start
    monitoring.seconds.observe(total)
    monitoring.queue_seconds.observe(answer.queue)
    parts = {"queue": answer.queue, "compute": answer.compute, "total": total}
    timing = ", ".join(f"{part};dur={seconds * 1000:.1f}" for part, seconds in parts.items())
    return Response(answer.content, media_type=kind, headers={"Server-Timing": timing, "Resolution": answer.layout})


def _documented() -> dict[str, Any]:
    """OpenAPI's description of both routes of translation, of which FastAPI sees only that they take a request."""
    properties = Fields.model_json_schema()["properties"]
    parameters = [
        {"name": name, "in": "query", "description": schema["description"], "schema": schema}
        for name, schema in properties.items()
    ]
    image = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"image": image, **properties}, "required": ["image"]}
    bodies = {**dict.fromkeys(("image/*", "application/octet-stream"), image), "multipart/form-data": form}
    error = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
    sentences = {
        **{400: "The image is damaged.", 401: "The token is missing or wrong.", 404: "There is no such adapter."},
        **{406: "No such type of image is sent.", 408: "The body came too slowly.", 413: "The image is too large."},
        **{415: "The format is not read.", 422: "A field is not valid.", 503: "Too many requests at once."},
        504: "The translation took too long.",
    }
    return {
        "openapi_extra": {
            "parameters": parameters,
            "requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in bodies.items()}},
        },
        "response_class": Response,
        "responses": {
            200: {"description": "The translation.", "content": {kind: {"schema": image} for kind in TYPES}},
            **{status: {"description": text, "content": error} for status, text in sentences.items()},
        },
    }


DOCUMENTED = _documented()
