"""The routes of the service, and what stands in its OpenAPI document."""

import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from humanquery import __version__
from humanquery.core.errors import HumanQueryError
from humanquery.predict.base import BasePredictor
from humanquery.serve import schema
from humanquery.serve.answers import ClipOptions, DrawnOptions, PictureOptions
from humanquery.serve.config import ServiceConfig
from humanquery.serve.problems import Problem, as_problem
from humanquery.serve.service import Service
from humanquery.serve.watch import Watch

WORDS = {404: "nothing", 405: "method"}
POSTED = (400, 401, 408, 413, 415, 422, 500, 503, 504)
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""the page asks nobody but its own service"""
DESCRIPTION = """
Sees people in pictures and short clips: boxes, masks, joints, apparent gender and age.

Send a picture as form field `file`, as the body itself, or in JSON as base64. Coordinates are
pixels of the upright picture, the left edge of the first pixel is 0. Gender and age are
impressions of looks, no facts about anybody.
"""


def create_app(load: Callable[[], BasePredictor], config: ServiceConfig | None = None) -> FastAPI:
    """The service as an ASGI application; `load` is called when it starts.

    `app.state.service` is there between start and stop.
    """
    config = config or ServiceConfig()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(load(), config)
        try:
            await app.state.service.start()
            yield
        finally:
            await app.state.service.stop()

    app = FastAPI(
        title="humanquery",
        version=__version__,
        description=DESCRIPTION,
        lifespan=life,
        docs_url=None,  # these pages load scripts from other servers
        redoc_url=None,
        license_info={"name": "Apache-2.0"},
    )
    app.add_exception_handler(HumanQueryError, _known)
    app.add_exception_handler(TimeoutError, _known)
    app.add_exception_handler(ClientDisconnect, _nobody_there)
    app.add_exception_handler(RequestValidationError, _wrong_option)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _unforeseen)
    _add_model_routes(app, _guards(config.api_keys))
    _add_state_routes(app)
    if config.page:
        _add_page(app)
    app.add_middleware(Watch, seconds=config.upload_seconds)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    return app


def _service(request: Request) -> Service:
    return request.app.state.service


Working = Annotated[Service, Depends(_service)]


def _add_model_routes(app: FastAPI, guards: list[Any]) -> None:
    refusals = tuple(s for s in POSTED if guards or s != 401)
    about = {"dependencies": guards, "tags": ["people"]}

    @app.post(
        "/v1/picture",
        summary="People of one picture",
        responses={200: _example(schema.People, schema.EXAMPLE), **_said(403, *refusals)},
        openapi_extra=schema.picture_body(),
        **about,
    )
    async def picture(
        request: Request, service: Working, options: Annotated[PictureOptions, Query()]
    ) -> Response:
        return _ready_json(await service.picture(request, options))

    @app.post(
        "/v1/pictures",
        summary="People of several pictures",
        responses={
            200: _example(
                schema.PictureList,
                {"pictures": [{"name": "a.jpg", "people": schema.EXAMPLE, "problem": None}]},
            ),
            **_said(403, *refusals),
        },
        openapi_extra=schema.pictures_body(),
        **about,
    )
    async def pictures(
        request: Request, service: Working, options: Annotated[PictureOptions, Query()]
    ) -> Response:
        return _ready_json(await service.pictures(request, options))

    @app.post(
        "/v1/drawn",
        summary="One picture with its people drawn on it",
        responses={
            200: {
                "description": "The picture",
                "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
            },
            **_said(403, *refusals),
        },
        response_class=Response,
        openapi_extra=schema.picture_body(),
        **about,
    )
    async def drawn(
        request: Request, service: Working, options: Annotated[DrawnOptions, Query()]
    ) -> Response:
        return Response(await service.drawn(request, options), media_type="image/jpeg")

    @app.post(
        "/v1/clip",
        summary="People of each frame of a short clip",
        responses={200: {"model": schema.Clip}, **_said(*refusals)},
        openapi_extra=schema.clip_body(),
        **about,
    )
    async def clip(
        request: Request, service: Working, options: Annotated[ClipOptions, Query()]
    ) -> Response:
        return _ready_json(await service.clip(request, options))

    @app.get(
        "/v1/model",
        summary="What is served, and within which limits",
        responses={200: {"model": schema.Model}, **_said(*(401,) if guards else ())},
        **about,
    )
    async def model(service: Working) -> Response:
        return JSONResponse(service.model())


def _add_state_routes(app: FastAPI) -> None:
    state: dict[str, Any] = {"tags": ["state"]}

    @app.get("/healthz", summary="Is it alive?", responses=_said(503), **state)
    async def healthz(service: Working) -> Response:
        if service.ill:
            raise Problem(503, "ill", f"{service.ill}; start this worker anew")
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", summary="Does it take pictures?", responses=_said(503), **state)
    async def readyz(service: Working) -> Response:
        if service.ill or not service.ready:
            raise Problem(503, "ill", service.ill or "not ready yet, or being stopped")
        if service.waiting >= service.config.queue:
            raise Problem(503, "busy", f"{service.waiting} pictures are waiting", retry_after=1)
        return JSONResponse({"status": "ok"})

    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        **state,
    )
    async def metrics(service: Working) -> Response:
        return Response(
            service.metrics.text(), headers={"Content-Type": service.metrics.content_type}
        )


def _add_page(app: FastAPI) -> None:
    folder = Path(str(files("humanquery"))) / "serve" / "page"
    app.mount("/page", StaticFiles(directory=folder), name="page")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(
            folder / "index.html", headers={"Content-Security-Policy": CONTENT_POLICY}
        )


def _guards(keys: tuple[str, ...]) -> list[Any]:
    """Dependencies that let only those in who bring a key; none where there are no keys."""
    if not keys:
        return []
    bearer = HTTPBearer(auto_error=False)
    header = APIKeyHeader(name="X-API-Key", auto_error=False)

    def check(
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
        key: Annotated[str | None, Security(header)],
    ) -> None:
        given = (key or (bearer.credentials if bearer else "")).encode()
        # every key is compared, in constant time: how long it takes tells nothing
        if not sum(hmac.compare_digest(given, known.encode()) for known in keys):
            raise Problem(
                401,
                "key",
                "this service wants an API key; send it as 'Authorization: Bearer KEY' or as "
                "'X-API-Key: KEY'",
            )

    return [Depends(check)]


def _ready_json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _said(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return schema.problems(*statuses)


def _example(model: type, example: Any) -> dict[str, Any]:
    return {"model": model, "content": {"application/json": {"example": example}}}


async def _known(request: Request, raised: Exception) -> Response:
    return _told(request, as_problem(raised))


async def _unforeseen(request: Request, raised: Exception) -> Response:
    return _told(request, as_problem(raised))  # the server writes the traceback into its log


async def _nobody_there(request: Request, raised: Exception) -> Response:
    return Response(status_code=499)  # for the count alone: nobody reads it


async def _wrong_option(request: Request, raised: RequestValidationError) -> Response:
    said = "; ".join(
        f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
        for error in raised.errors()
    )
    return _told(request, Problem(422, "options", said))


async def _no_route(request: Request, raised: HTTPException) -> Response:
    word = WORDS.get(raised.status_code, "request")
    said = f"{request.method} {request.url.path}: {raised.detail}; /openapi.json tells what is here"
    response = _told(request, Problem(raised.status_code, word, said))
    response.headers.update(raised.headers or {})
    return response


def _told(request: Request, problem: Problem) -> Response:
    request.app.state.service.metrics.problems.labels(problem.error).inc()
    return problem.response()
