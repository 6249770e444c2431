"""How the web app is put together: guard, routes, health, OpenAPI, and pages that others bring."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from astroray import __version__
from astroray.archive import Archive
from astroray.encoders import read_model_file
from astroray.errors import LedgerError, StorageError
from astroray.web.guard import AuditLog, Guard, Limits
from astroray.web.reference import render_reference
from astroray.web.routes import Encoder, build_router
from astroray.web.security import Tokens

__all__ = ["OPEN_PATHS", "build_app"]

_log = logging.getLogger("astroray.web")

OPEN_PATHS = ("/", "/docs", "/healthz", "/readyz", "/openapi.json")
"""What needs no token: nothing of a run is in it."""
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def build_app(
    archive: Archive,
    encoder: Encoder,
    *,
    tokens: Tokens,
    limits: Limits,
    routers: Sequence[APIRouter],
    audit: AuditLog | None = None,
    login_path: str = "",
) -> FastAPI:
    """The app of one finished run.

    routers     further pages and endpoints, such as the labelling page at /ui; each of their
                routes asks for its scope with `Depends(needs(...))`
    login_path  of the page to log in, which needs no token, in the folder of the pages that
                browsers without one are sent away from; empty where there are no pages
    """
    audit = audit or AuditLog()
    app = FastAPI(
        title="astroray",
        version=__version__,
        summary="The unusual objects of one survey: catalog, pictures, neighbors, scores.",
        docs_url=None,  # its page loads scripts from other hosts
        redoc_url=None,
        openapi_url="/openapi.json",
        responses={},
    )
    preparation = read_model_file(archive.model.path).preparation
    for router in (build_router(archive, encoder, preparation, limits, audit), *routers):
        app.include_router(router)
    _add_open_routes(app, encoder, login_path)
    app.add_exception_handler(RequestValidationError, _explain)
    for kind in (StorageError, LedgerError):
        app.add_exception_handler(kind, _excuse)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    app.add_middleware(
        Guard,
        tokens=tokens,
        limits=limits,
        audit=audit,
        open_paths=OPEN_PATHS,
        login_path=login_path,
        headers={"x-astroray-run": archive.run_id, "x-astroray-model": archive.model_id},
    )
    return app


def _add_open_routes(app: FastAPI, encoder: Encoder, login_path: str) -> None:
    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "no model is ready to encode"}})
    async def readyz() -> JSONResponse:
        """Whether an upload would be answered."""
        ready = await encoder.is_ready()
        status, headers = (200, {}) if ready else (503, {"Retry-After": "5"})
        text = "ready" if ready else "no model is ready to encode"
        return JSONResponse({"status": text}, status_code=status, headers=headers)

    @app.get("/", include_in_schema=False)
    def reference() -> HTMLResponse:
        page = render_reference(app.openapi(), login_path)
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    @app.get("/docs", include_in_schema=False)
    def docs() -> RedirectResponse:
        return RedirectResponse("/")


async def _explain(request: Request, error: Exception) -> JSONResponse:
    """A parameter that is wrong, in the form of all errors: one sentence."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    parts = [
        f"{'.'.join(str(place) for place in one['loc'][1:]) or 'body'}: {one['msg']}"
        for one in errors
    ]
    return JSONResponse({"detail": "; ".join(parts)[:1000]}, status_code=422)


async def _excuse(request: Request, error: Exception) -> JSONResponse:
    """A full disk, or a broken file of the run: the operator reads which, the caller that it is."""
    _log.error("%s %s: %s", request.method, request.url.path, error)
    text = "the server cannot read or write its files now; its log says why"
    return JSONResponse({"detail": text}, status_code=503, headers={"Retry-After": "5"})


def _describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the ways to send a token."""
    if app.openapi_schema:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    components = document.setdefault("components", {})
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "basic": {"type": "http", "scheme": "basic", "description": "the token as password"},
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open: bool = path in OPEN_PATHS
            operation["security"] = [] if is_open else [{"bearer": []}, {"basic": []}]
    schemas: Mapping[str, Any] = components.get("schemas", {})
    components["schemas"] = {
        name: value
        for name, value in schemas.items()
        if name not in ("HTTPValidationError", "ValidationError")
    }
    return document
