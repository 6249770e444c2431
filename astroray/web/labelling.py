"""The labelling page and what it asks for: the next objects, labels, undo; all of it below /ui.

Every label is in the log before its request is answered, so that a page that is reloaded, or a
server that is killed, has lost nothing. Labels carry the name of the caller's token.
"""

import base64
import dataclasses
import functools
import hashlib
import secrets
import threading
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from astroray import storage
from astroray.archive import Archive
from astroray.errors import ConfigError
from astroray.labelling.interest import Learnt, Reranker
from astroray.labelling.label_queue import Next, next_objects, round_size
from astroray.labelling.labels import MAX_TEXT, Label, LabelLog, Standing, interest_of
from astroray.preparation.modalities import MODALITIES
from astroray.report.page import FLAG_WORDS, survey_name
from astroray.report.script import script_at_desk
from astroray.run_files import report_file
from astroray.templates import load_template
from astroray.web.security import Token, cookie_name, needs, secret_of

__all__ = ["LOGIN_PATH", "build_label_router"]

LOGIN_PATH = "/ui/login"
"""Open to all: it holds nothing but a field for the token."""
INTERESTING = 4
"""From this interest on an object counts as interesting."""
NUM_NEIGHBORS = 5
ASKED = "map"
"""Why an object was shown that somebody chose on the map of the report."""
PICTURE_SIZES = (96, 480)
ASPECT = 2
"""Width over height of the wide picture of what is drawn: a light curve, a spectrum."""
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_REPORT_POLICY = (
    "default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
    "img-src {images}; connect-src {server}; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_OTHER_VERSION = (
    '<p style="margin:0;padding:10px 28px;background:#181c25;color:#e9e6df">Another version of '
    "astroray wrote this report, so its map has no part in the labelling; "
    "<code>astroray report RUN --again</code> writes it anew.</p>"
)
PAGE_OF = "x-astroray-user"
"""Header by which a page says whose it is."""


def caller_of_page(request: Request, token: Annotated[Token, Depends(needs("label"))]) -> Token:
    """The caller; 409 where the page is another's: tabs of a browser share one cookie."""
    page_of = request.headers.get(PAGE_OF, token.name)
    if page_of != token.name:
        raise HTTPException(
            409,
            f"this page is {page_of[:64]}'s, but its browser has logged in as {token.name} since; "
            f"open {page_of[:64]}'s address again, in a browser or private window of its own",
        )
    return token


Caller = Annotated[Token, Depends(caller_of_page)]


class Wanted(BaseModel):
    """What the page has on its screen, and how much more it wants."""

    size: int | None = Field(None, ge=1, le=100, description="null: a round's")
    shown: list[str] = Field([], max_length=10_000, description="object_ids not to be given again")
    first: list[str] = Field([], max_length=10_000, description="object_ids chosen on the map")


class Said(BaseModel):
    """What a person says of an object."""

    object_id: str = Field(max_length=MAX_TEXT)
    interest: int | None = Field(None, ge=1, le=5)
    kind: str = Field("", max_length=MAX_TEXT)
    why: str = Field("", max_length=20)


def build_label_router(archive: Archive, log: LabelLog) -> APIRouter:
    """The routes of the page of one run; the app takes LOGIN_PATH beside them."""
    router = APIRouter(prefix="/ui", include_in_schema=False)
    desk = _Desk(archive, log)
    router.get("")(desk.page)
    router.get("/login")(login)
    router.get("/report")(desk.report)
    router.post("/session", status_code=204)(open_session)
    router.post("/queue")(desk.queue)
    router.post("/labels")(desk.label)
    router.post("/undo")(desk.undo)
    router.get("/labelled")(desk.labelled)
    router.get("/said")(desk.said)
    router.get("/picture.png")(desk.picture)
    return router


def login() -> HTMLResponse:
    """A page that turns the token after the # of its address into a cookie."""
    return _html("login.html.jinja")


def open_session(request: Request, caller: Caller) -> Response:
    """The token of this request as a cookie that no script can read."""
    response = Response(status_code=204)
    headers = {key.lower(): value for key, value in request.headers.items()}
    response.set_cookie(
        cookie_name(headers),
        secret_of(headers),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return response


class _Desk:
    """What one run shows to the people who label it."""

    def __init__(self, archive: Archive, log: LabelLog) -> None:
        self.archive, self.log = archive, log
        self._lock, self._undoing = threading.Lock(), threading.Lock()
        self._certified_N = archive.table["certified"].to_numpy(zero_copy_only=False)
        self._learnt: tuple[int, Learnt | None] = (0, None)

    @functools.cached_property
    def reranker(self) -> Reranker:
        """Made at the first label: it needs a look at all embeddings."""
        score_N = self.archive.table["outlier_score"].to_numpy(zero_copy_only=False)
        return Reranker(self.archive.embedding_ND, score_N.astype(np.float64))

    def page(self, caller: Caller) -> HTMLResponse:
        """The page itself."""
        record = self.archive.record
        return _html(
            "labelling.html.jinja",
            user=caller.name,
            survey=survey_name(record.survey),
            num_objects=len(self.archive.table),
            bands=self._bands,
            is_drawn=self.archive.modality != "images",
            noun=MODALITIES[self.archive.modality].noun.capitalize(),
            aspect=ASPECT,
            has_report=storage.exists(self._report_path),
            key=self._key(caller),
        )

    def report(self, caller: Caller) -> HTMLResponse:
        """The report with its map, as the run wrote it: no script but its own may run in it.

        The map of one of this version sends objects to the labelling page, shows what was said of
        them and a picture of each, for which it may ask this server.
        """
        if not storage.exists(self._report_path):
            raise HTTPException(404, "this run has no report; `astroray scan` writes one")
        page = storage.read_bytes(self._report_path).decode()
        before, _, rest = page.rpartition("<script>")
        script, end, after = rest.partition("</script>")
        served = script_at_desk(script, {"key": self._key(caller), "user": caller.name})
        if served is None:
            before = before.replace("<body>", f"<body>{_OTHER_VERSION}", 1)
        else:
            script = served
        policy = _REPORT_POLICY.format(
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            images="data:" if served is None else "data: 'self'",
            server="'none'" if served is None else "'self'",
        )
        page = f"{before}<script>{script}{end}{after}"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    def queue(self, wanted: Wanted, caller: Caller, later: BackgroundTasks) -> dict[str, Any]:
        """The next objects for this person, and how far the labelling is.

        Those chosen on the map come before all others, in rounds of their own; `left` says how many
        of them come after this round.
        """
        log = self.log.standing()
        mine = {label.object_id for label in log.labels if label.user == caller.name}
        done = {*mine, *wanted.shown}
        is_done_N = np.zeros(len(self.archive.table), bool)
        rows = [self.archive.find(object_id) for object_id in done]
        is_done_N[[row for row in rows if row is not None]] = True
        asked = self._asked(wanted.first, is_done_N)
        size = wanted.size or round_size(len(is_done_N), int(is_done_N.sum()))
        chosen = [Next(row=row, why=ASKED) for row in asked[:size]]
        if not chosen:
            chosen = next_objects(
                self._learn(log), self._certified_N, is_done_N, size=size, seed=log.num_lines
            )
        objects = [self._describe(item.row) | {"why": item.why} for item in chosen]
        near = [near["row"] for one in objects for near in one["neighbors"]]
        later.add_task(
            self.archive.draw_ahead, [*(one["row"] for one in objects), *near], PICTURE_SIZES[0]
        )
        return {
            "objects": objects,
            "left": max(0, len(asked) - size),
            "progress": self._progress(log.labels, caller.name),
        }

    def label(self, said: Said, caller: Caller) -> dict[str, Any]:
        """Writes a label; it is stored when this answers."""
        if self.archive.find(said.object_id) is None:
            raise HTTPException(404, f"the catalog has no object {said.object_id!r}")
        try:
            label = Label(
                user=caller.name,
                model_id=self.archive.model_id,
                **said.model_dump(exclude={"kind"}),
                kind=said.kind.strip(),
            )
        except ConfigError as error:
            raise HTTPException(422, str(error)) from None
        written = self.log.append(label)
        return {
            "label_id": written.label_id,
            "progress": self._progress(self.log.standing().labels, caller.name),
        }

    def undo(self, caller: Caller) -> dict[str, Any]:
        """Takes back the last label of this person that stands; 404 where there is none."""
        with self._undoing:  # two at once would take back one label
            mine = [label for label in self.log.standing().labels if label.user == caller.name]
            if not mine:
                raise HTTPException(404, f"{caller.name} has no label that could be taken back")
            last = max(mine, key=lambda label: (label.time, label.label_id))
            self.log.append(
                Label(
                    object_id=last.object_id,
                    user=caller.name,
                    model_id=self.archive.model_id,
                    undoes=last.label_id,
                )
            )
        row = self.archive.find(last.object_id)
        return {
            "object": None if row is None else self._describe(row) | {"why": last.why},
            "undone": dataclasses.asdict(last),
            "progress": self._progress(self.log.standing().labels, caller.name),
        }

    def labelled(
        self, caller: Caller, limit: Annotated[int, Query(ge=1, le=1000)] = 60
    ) -> dict[str, Any]:
        """What this person has labelled, newest first."""
        standing = self.log.standing().labels
        mine = [label for label in standing if label.user == caller.name]
        mine.sort(key=lambda label: label.time, reverse=True)
        objects = []
        for label in mine[:limit]:
            row = self.archive.find(label.object_id)
            if row is not None:
                said = {"interest": label.interest, "kind": label.kind, "why": label.why}
                objects.append(self._describe(row) | said)
        return {"objects": objects, "progress": self._progress(standing, caller.name)}

    def said(self, caller: Caller, known: Annotated[int, Query(ge=-1)] = -1) -> dict[str, Any]:
        """What stands of all people: object_id, mean interest, the newest class.

        known  `num_lines` of the caller's last answer; objects are null where no more was said
        """
        log = self.log.standing()
        if log.num_lines == known:
            return {"num_lines": known, "objects": None}
        interest = interest_of(log.labels)
        by_time = sorted(log.labels, key=lambda label: (label.time, label.label_id))
        kind_of = {label.object_id: label.kind for label in by_time if label.kind}
        ids = dict.fromkeys(label.object_id for label in by_time)
        objects = [(name, interest.get(name), kind_of.get(name, "")) for name in ids]
        return {"num_lines": log.num_lines, "objects": objects}

    def picture(
        self,
        object_id: Annotated[str, Query()],
        caller: Caller,
        size: Annotated[int, Query()] = PICTURE_SIZES[0],
        band: Annotated[str, Query(max_length=40)] = "",
        wide: bool = False,
    ) -> Response:
        """PNG of an object; with `band` of that band alone; wide where asked, of what is drawn.

        By its name: a night that lands while a page is open puts others at its rank.
        """
        row = self.archive.find(object_id)
        if row is None or size not in PICTURE_SIZES:
            raise HTTPException(404, f"no picture of {object_id[:200]!r} of size {size}")
        png = self.archive.picture(row, size, band, ASPECT if wide else 1)
        if png is None:
            raise HTTPException(404, f"the survey's file of {object_id!r} cannot be read")
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(png, media_type="image/png", headers=headers)

    def _key(self, caller: Token) -> str:
        """Under which the pages of a person and a run hand each other objects in the browser."""
        return f"astroray {self.archive.run_id} {caller.name}"

    def _asked(self, object_ids: list[str], is_done_N: np.ndarray) -> list[int]:
        """Rows of objects that somebody chose, those of them that are not done."""
        rows = (self.archive.find(object_id) for object_id in dict.fromkeys(object_ids))
        return [row for row in rows if row is not None and not is_done_N[row]]

    @property
    def _report_path(self) -> str:
        return report_file(self.archive.run_dir)

    @functools.cached_property
    def _bands(self) -> list[str]:
        bands: list[str] = self.archive.record.fitted.preparation.get("bands", [])
        return bands

    def _learn(self, log: Standing) -> Learnt | None:
        """What the labels of all people say; learnt anew only where there are more of them."""
        with self._lock:
            if self._learnt[0] != log.num_lines:
                interest = interest_of(log.labels)
                found = [(self.archive.find(name), value) for name, value in interest.items()]
                pairs = [(row, value) for row, value in found if row is not None]
                learnt = None
                if pairs:
                    row_M = np.array([row for row, _ in pairs])
                    learnt = self.reranker.learn(
                        row_M, (np.array([value for _, value in pairs]) - 1) / 4
                    )
                self._learnt = (log.num_lines, learnt)
            return self._learnt[1]

    def _describe(self, row: int) -> dict[str, Any]:
        """An object as the page shows it."""
        names = ["object_id", "rank", "outlier_score", "certified", "ra", "dec"]
        names += ["processing_flags", "neighbor_id", "neighbor_distance"]
        facts: dict[str, Any] = self.archive.table.select(names).slice(row, 1).to_pylist()[0]
        flags = facts.pop("processing_flags") or 0
        near = zip(
            facts.pop("neighbor_id") or [], facts.pop("neighbor_distance") or [], strict=True
        )
        neighbors = []
        for object_id, distance in list(near)[:NUM_NEIGHBORS]:
            place = self.archive.find(object_id)
            if place is not None:
                neighbors.append({"object_id": object_id, "row": place, "distance": distance})
        return facts | {
            "row": row,
            "flags": [word for bit, word in FLAG_WORDS.items() if flags & bit],
            "neighbors": neighbors,
        }

    def _progress(self, standing: list[Label], user: str) -> dict[str, Any]:
        kinds = sorted({label.kind for label in standing if label.kind})
        mine = [label for label in standing if label.user == user]
        audits = [label.interest for label in standing if label.why == "audit" and label.interest]
        return {
            "mine": len(mine),
            "all": len(standing),
            "users": len({label.user for label in standing}),
            "interesting": sum((label.interest or 0) >= INTERESTING for label in mine),
            "audits": len(audits),
            "audits_interesting": sum(value >= INTERESTING for value in audits),
            "kinds": kinds,
        }


def _html(name: str, **values: Any) -> HTMLResponse:
    nonce = secrets.token_urlsafe(16)
    template = load_template("astroray.web", name)
    headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
    return HTMLResponse(template.render(nonce=nonce, **values), headers=headers)
