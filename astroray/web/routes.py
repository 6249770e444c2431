"""The endpoints below /v1: what each takes and gives."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Protocol
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from astroray.archive import Archive, Nearest
from astroray.errors import DataError
from astroray.preparation.modalities import AnyPreparation
from astroray.surveys.shards import ModalityName
from astroray.web import answers, cone
from astroray.web.guard import AuditLog, Limits
from astroray.web.rows import Rows
from astroray.web.security import needs
from astroray.web.uploads import FORMATS, MEDIA_TYPES, Beside, UnknownFormatError, read_upload

__all__ = ["BusyError", "Encoder", "build_router", "known_parameters", "refusing", "taking_uploads"]

MAX_PAGE = 1000
MAX_NEIGHBORS = 1000
MAX_CONE_ROWS = 10_000

ObjectId = Annotated[str, Path(description="object_id of the catalog, its slashes included")]
Degrees = Annotated[
    float | None, Query(allow_inf_nan=False, description="deg, ICRS; of a cone, all three or none")
]
NumNeighbors = Annotated[int, Query(ge=1, le=MAX_NEIGHBORS, description="how many")]
Exclude = Annotated[
    str | None, Query(description="object_id that is left out: the upload's own, if it has one")
]


async def _beside(
    bands: Annotated[
        str,
        Query(
            max_length=200,
            description="of a FITS image: names of its planes, `g,r,i`, where its header has none",
        ),
    ] = "",
    row: Annotated[
        int | None,
        Query(ge=0, le=10**9, description="of light curves, spectra: which one of a file, from 0"),
    ] = None,
    time: Annotated[
        str,
        Query(
            max_length=20,
            description="of light curves: BKJD, BTJD, BJD or MJD, where the file has none",
        ),
    ] = "",
    mission: Annotated[
        str,
        Query(
            max_length=20,
            description="of light curves: kepler, k2, tess or other, where the file has none",
        ),
    ] = "",
) -> Beside:
    """What is said beside the bytes of an upload."""
    return Beside(bands=bands, row=row, time=time, mission=mission)


Said = Annotated[Beside, Depends(_beside)]


class BusyError(Exception):
    """The encoder has more to do than it may queue."""


class Encoder(Protocol):
    """What encodes prepared rows: a model in this process, or somewhere on a cluster."""

    async def embed(self, image_CYX: np.ndarray) -> np.ndarray:
        """Embedding [D] float32 of a prepared row [C, Y, X]. Raises BusyError."""

    async def is_ready(self) -> bool:
        """Whether an upload would be answered now."""


def _problems(**more: str) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for OpenAPI: those of the guard, and `more` as s415="..."."""
    known = {"s401": "no valid token", "s403": "the token lacks the scope", "s429": "too many"}
    return {
        int(status[1:]): {"model": answers.Problem, "description": text}
        for status, text in {**known, "s422": "a parameter is wrong", **more}.items()
    }


def taking_uploads(modality: ModalityName) -> Any:
    """What a route that takes uploads says of them for OpenAPI, as arguments of the route."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    body = {
        "required": True,
        "description": f"the file itself: {FORMATS[modality]}",
        "content": dict.fromkeys(MEDIA_TYPES[modality], binary),
    }
    responses = _problems(
        s400="a header is wrong",
        s408="the upload took too long",
        s413="the upload is too large",
        s415=f"not {FORMATS[modality]}",
        s422="the file or a parameter is wrong",
        s503="busy: come again after Retry-After",
    )
    return {"openapi_extra": {"requestBody": body}, "responses": responses}


_MISSING = _problems(s404="no such object")


async def known_parameters(request: Request) -> None:
    """A FastAPI dependency: 422 for a parameter that the route has not.

    A cone whose `radius` is misspelt would else be answered with the whole catalog.
    """
    route = request.scope["route"]
    operation = request.app.openapi()["paths"][route.path_format][request.method.lower()]
    known = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
    unknown = sorted(set(request.query_params) - set(known))
    if known and unknown:
        raise HTTPException(422, f"no parameter {unknown[0][:40]!r}, expected {', '.join(known)}")


def build_router(
    archive: Archive,
    encoder: Encoder,
    preparation: AnyPreparation,
    limits: Limits,
    audit: AuditLog,
) -> APIRouter:
    """The routes of one archive, each of which names the scope that it needs."""
    router = APIRouter(prefix="/v1")
    reading = [Depends(needs("read"))]
    known = [*reading, Depends(known_parameters)]
    view = _View(archive, encoder, preparation, limits)
    get = functools.partial(router.get, dependencies=known)
    post: Any = functools.partial(
        router.post, dependencies=known, **taking_uploads(archive.modality)
    )
    get("/run", response_model=answers.Run, responses=_problems())(view.run)
    get("/catalog", response_model=answers.Page, responses=_problems())(view.catalog)
    # tools of the Virtual Observatory may send parameters of their own with a cone
    router.get(
        "/cone", dependencies=reading, response_class=Response, responses=_binary(cone.MEDIA_TYPE)
    )(view.cone)
    png = _MISSING | _binary("image/png")
    get("/objects/{object_id:path}/cutout.png", response_class=Response, responses=png)(view.cutout)
    get("/objects/{object_id:path}", response_model=answers.Single, responses=_MISSING)(view.object)
    get("/similar", response_model=answers.Neighborhood, responses=_MISSING)(view.similar)
    post("/similar", response_model=answers.Neighborhood)(view.similar_to_upload)
    post("/score", response_model=answers.Score)(view.score)
    post("/embed", response_model=answers.Embedding)(view.embed)

    @router.get("/audit", dependencies=[Depends(needs("admin"))], responses=_problems())
    def read_audit(count: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
        """The last requests, newest last; needs the scope admin."""
        return audit.tail(count)

    return router


def _binary(media_type: str) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return _problems() | {200: {"content": content, "description": "Successful Response"}}


class _View:
    """The endpoints of one archive."""

    def __init__(
        self, archive: Archive, encoder: Encoder, preparation: AnyPreparation, limits: Limits
    ) -> None:
        self.archive, self.encoder = archive, encoder
        self.preparation, self.limits = preparation, limits
        self.origin = {
            "run_id": archive.run_id,
            "model_id": archive.model_id,
            "numbers": archive.model.numbers,
        }

    def run(self) -> dict[str, Any]:
        """What the run is, and what an upload needs to be like."""
        record = self.archive.record
        return self.origin | {
            "survey": record.survey,
            "encoder": record.fitted.encoder,
            "finished": record.finished,
            "num_objects": len(self.archive.table),
            "k": self.archive.k,
            "score": self.archive.score,
            "proof": record.proven.sentence,
            "modality": self.archive.modality,
            "input": self.preparation.describe()["input"],
            "bands": list(getattr(self.preparation, "bands", ())),
            "pixels": getattr(self.preparation, "pixels", None),
            "versions": dict(record.versions),
        }

    def catalog(
        self,
        ra: Degrees = None,
        dec: Degrees = None,
        radius: Degrees = None,
        after: Annotated[int, Query(ge=0, description="rank of the last object seen")] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="objects a page")] = 100,
        certified: Annotated[bool | None, Query(description="only the proven, or the rest")] = None,
    ) -> dict[str, Any]:
        """Objects in order of rank, page by page; of a cone where ra, dec and radius are given."""
        row_M = self._matching(ra, dec, radius)
        if certified is not None:
            is_certified_N = self.archive.table["certified"].to_numpy(zero_copy_only=False)
            row_M = row_M[is_certified_N[row_M] == certified]
        left_M = row_M[np.searchsorted(row_M, min(after, len(self.archive.table))) :]
        page_M = left_M[:limit]
        query = {"ra": ra, "dec": dec, "radius": radius, "limit": limit, "certified": certified}
        given = {name: value for name, value in query.items() if value is not None}
        more = urlencode(given | {"after": int(page_M[-1]) + 1}) if len(left_M) > limit else ""
        return self.origin | {
            "total": len(row_M),
            "objects": self._rows(page_M).objects(),
            "next": f"/v1/catalog?{more}" if more else None,
        }

    def cone(
        self,
        RA: Annotated[str, Query(description="deg, ICRS", examples=["150.1"])] = "",
        DEC: Annotated[str, Query(description="deg, ICRS", examples=["2.2"])] = "",
        SR: Annotated[str, Query(description="radius, deg", examples=["0.5"])] = "",
        VERB: Annotated[str, Query(description="1, 2 or 3; all columns come anyway")] = "1",
    ) -> Response:
        """VO Simple Cone Search: a VOTable for TOPCAT and others, at most 10,000 objects."""
        try:
            values = [_number(name, text) for name, text in (("RA", RA), ("DEC", DEC), ("SR", SR))]
            row_M = self._matching(*values)
            if VERB not in ("1", "2", "3"):
                raise HTTPException(422, f"VERB is {VERB[:40]!r}, expected 1, 2 or 3")
        except HTTPException as error:
            return Response(cone.cone_error(str(error.detail)), media_type=cone.MEDIA_TYPE)
        rows = self._rows(row_M[:MAX_CONE_ROWS]).table
        body = cone.cone_table(rows, overflow=len(row_M) > MAX_CONE_ROWS, facts=self.origin)
        return Response(body, media_type=cone.MEDIA_TYPE)

    def object(self, object_id: ObjectId) -> dict[str, Any]:
        """One object of the catalog."""
        row = self._find(object_id)
        return self.origin | {"object": self._rows(np.array([row])).objects()[0]}

    def cutout(
        self,
        object_id: ObjectId,
        size: Annotated[int, Query(ge=16, le=1024, description="edge, px")] = 256,
    ) -> Response:
        """The picture of an object, PNG, from the survey's own file; light curves and spectra
        are drawn."""
        picture = self.archive.picture(self._find(object_id), size)
        if picture is None:
            raise HTTPException(404, "the survey's file of this object can no longer be read")
        return Response(picture, media_type="image/png")

    def similar(
        self,
        object_id: Annotated[str, Query(description="object_id of the catalog")],
        k: NumNeighbors = 10,
    ) -> dict[str, Any]:
        """The nearest neighbors of an object of the catalog, itself left out."""
        row = self._find(object_id)
        found = self.archive.nearest(self.archive.embedding_ND[row], k, exclude=row)
        return self.origin | {"neighbors": self._neighbors(found)}

    async def similar_to_upload(
        self, request: Request, beside: Said, k: NumNeighbors = 10, exclude: Exclude = None
    ) -> dict[str, Any]:
        """The nearest objects of the catalog to an upload."""
        embedding_D, _ = await self._embed(request, beside)
        found = await run_in_threadpool(self._nearest, embedding_D, k, exclude)
        return self.origin | {"neighbors": self._neighbors(found)}

    async def score(
        self, request: Request, beside: Said, exclude: Exclude = None
    ) -> dict[str, Any]:
        """How unusual an upload is: the run's own score of it, and the rank that it would have."""
        embedding_D, flags = await self._embed(request, beside)
        found = await run_in_threadpool(self._nearest, embedding_D, self.archive.k, exclude)
        score = self.archive.score_of(found)
        has_score = math.isfinite(score)
        return self.origin | {
            "outlier_score": score if has_score else None,
            "rank": self.archive.rank_of(score) if has_score else None,
            "num_objects": len(self.archive.table),
            "processing_flags": flags,
            "neighbors": self._neighbors(found),
        }

    async def embed(self, request: Request, beside: Said) -> dict[str, Any]:
        """The embedding of an upload, in the frame of the run's embeddings."""
        embedding_D, flags = await self._embed(request, beside)
        return self.origin | {"embedding": embedding_D.tolist(), "processing_flags": flags}

    async def _embed(self, request: Request, beside: Beside) -> tuple[np.ndarray, int]:
        """Embedding of the body of a request and the flags of its row."""
        data = await request.body()
        with refusing():
            prepared = await run_in_threadpool(
                read_upload,
                data,
                self.preparation,
                beside=beside,
                params=self.archive.params,
                max_pixels=self.limits.pixels,
                curves=self.limits.curves,
            )
            embedding_D = await self.encoder.embed(prepared.input_BCYX[0])
        if not np.isfinite(embedding_D).all():
            raise HTTPException(
                422,
                "the model gives no finite numbers for this upload; whether a network of one's own "
                "raised something is in the server's log",
            )
        return embedding_D, int(prepared.flags_B[0])

    def _nearest(self, embedding_D: np.ndarray, k: int, exclude: str | None) -> Nearest:
        row = -1 if exclude is None else self._find(exclude, status=422)
        return self.archive.nearest(embedding_D, k, exclude=row)

    def _find(self, object_id: str, *, status: int = 404) -> int:
        row = self.archive.find(object_id)
        if row is None and " " in object_id:
            # A plus in a query stands for a space, and many names of objects have one: J0213+0105.
            row = self.archive.find(object_id.replace(" ", "+"))
        if row is None:
            raise HTTPException(status, f"the catalog has no object {object_id[:200]!r}")
        return row

    def _matching(self, ra: float | None, dec: float | None, radius: float | None) -> np.ndarray:
        """Rows of a cone, all rows where there is none asked for; refuses half a cone."""
        if ra is None and dec is None and radius is None:
            return np.arange(len(self.archive.table))
        if ra is None or dec is None or radius is None:
            raise HTTPException(422, "a cone needs ra, dec and radius, all three in degrees")
        if not -90 <= dec <= 90 or not 0 <= radius <= 180 or not -360 <= ra <= 360:
            got = f"ra {ra:g}, dec {dec:g}, radius {radius:g}"
            raise HTTPException(422, f"got {got} deg, expected -360..360, -90..90 and 0..180")
        if not self.archive.num_positions:
            raise HTTPException(422, "the objects of this run have no positions on the sky")
        return self.archive.cone(ra, dec, radius)

    def _rows(self, row_M: np.ndarray) -> Rows:
        return Rows(self.archive.table.take(pa.array(row_M, pa.int64())))

    def _neighbors(self, found: Nearest) -> list[dict[str, Any]]:
        return self._rows(found.row_K).neighbors(found.distance_K.tolist())


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """What is wrong with an upload, or with the time of its coming, as the answer's status."""
    try:
        yield
    except UnknownFormatError as error:
        raise HTTPException(415, str(error)) from None
    except DataError as error:
        raise HTTPException(422, str(error)) from None
    except BusyError as error:
        raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from None


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise HTTPException(422, f"{name} is {text[:40]!r}, expected a number of degrees")
    return value
