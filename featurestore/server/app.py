"""Routes: lookups, what there is to look up, and whether the service is well."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pyarrow as pa
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from featurestore.client import FeatureStore
from featurestore.errors import (
    ChangedBucketsError,
    OnlineStoreError,
    RequestError,
    RequestTooLargeError,
    UnknownObjectError,
)
from featurestore.spec import FeatureService

# Ten thousand entities of a few long keys fit; more is a mistake or an attack.
_BODY_MAX = 4 << 20

log = logging.getLogger("featurestore.server")


class Lookup(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/features`: n values for each entity key and request column."""

    service: str
    entities: dict[str, list[str | int | float | bool]]
    watermark: bool = False


def make_app(store: FeatureStore) -> Starlette:
    """The API of one store."""

    async def features(request: Request) -> Response:
        asked = _decoded(await _body(request))
        table = await run_in_threadpool(store.get_many, asked.service, asked.entities, watermark=asked.watermark)
        columns = {name: [_keyed_by_text(value) for value in values] for name, values in _values(table).items()}
        return _json(200, {"service": asked.service, "columns": columns})

    async def feature_row(request: Request) -> Response:
        name = request.path_params["name"]
        entity = store.entity_of_text(name, _asked(request))
        row = await run_in_threadpool(store.get, name, entity, watermark=True)
        return _json(200, {column: _keyed_by_text(value) for column, value in row.items()})

    async def services(request: Request) -> Response:
        repository = store.repository
        names = [*repository.services, *repository.views]
        return _json(200, {"services": [_described(repository.service(name)) for name in names]})

    async def service(request: Request) -> Response:
        return _json(200, _described(store.repository.service(request.path_params["name"])))

    async def health(request: Request) -> Response:
        await run_in_threadpool(store.ping)
        return _json(200, {"status": "ok"})

    async def live(request: Request) -> Response:
        return _json(200, {"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/features", features, methods=["POST"]),
            Route("/v1/features/{name}", feature_row),
            Route("/v1/services", services),
            Route("/v1/services/{name}", service),
            Route("/health", health),
            Route("/live", live),
        ],
        exception_handlers={
            RequestError: _refused,
            OnlineStoreError: _unavailable,
            HTTPException: _http,
            Exception: _failed,
        },
    )


def _described(service: FeatureService) -> dict[str, Any]:
    return {
        "name": service.name,
        "owner": service.owner,
        "description": service.description,
        "version": service.version,
        "entity_keys": {key: kind for key, kind in service.asked.items() if key in service.entity_keys},
        "request": service.request,
        "features": service.outputs,
    }


def _values(table: pa.Table) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = table.to_pydict(maps_as_pydicts="strict")
    return columns


def _keyed_by_text(value: Any) -> Any:
    """A map as JSON can say it: whose keys are true and false has them as text. Decimals are text by themselves."""
    if not isinstance(value, dict):
        return value
    return {str(key).lower() if isinstance(key, bool) else key: times for key, times in value.items()}


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _BODY_MAX:
            raise RequestTooLargeError(_BODY_MAX)
        parts.append(part)
    return b"".join(parts)


def _asked(request: Request) -> list[tuple[str, str]]:
    """The query's keys and texts. Starlette would put U+FFFD for what is not UTF-8, which another entity may have."""
    query: bytes = request.scope["query_string"]
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise HTTPException(400, f"the query is not UTF-8, percent-encoded: {error}; write \u00e9 as %C3%A9") from error


def _decoded(body: bytes) -> Lookup:
    try:
        return msgspec.json.decode(body, type=Lookup)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        wanted = '{"service": "name", "entities": {"key": ["value"]}}'
        raise HTTPException(400, f"the body is not as expected: {error}; send {wanted}") from error


def _json(status: int, value: object) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _error(status: int, kind: str, message: str) -> Response:
    return _json(status, {"error": {"type": kind, "message": message}})


async def _refused(request: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, UnknownObjectError) else 413 if isinstance(error, RequestTooLargeError) else 422
    return _error(status, type(error).__name__.removesuffix("Error"), str(error))


async def _unavailable(request: Request, error: Exception) -> Response:
    log.error("%s", error)
    is_other = isinstance(error, ChangedBucketsError)
    what = "is not the one of these settings; see the log" if is_other else "does not answer; try again"
    return _error(503, "OnlineStore", f"the online store {what}")


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        known = "POST /v1/features, GET /v1/features/{name}, GET /v1/services, GET /health"
        return _error(404, "UnknownRoute", f"there is nothing at {request.url.path!r}; routes: {known}")
    return _error(error.status_code, "BadRequest", error.detail)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return _error(500, "Internal", "the server failed; its log says why")
