"""What a person calls from Python: a scan, and a finished run as tables, pictures and neighbors."""

import base64
import dataclasses
import functools
import html
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from astroray import ledger, storage
from astroray.archive import Archive, draw_rows
from astroray.catalog import pixels, versions
from astroray.catalog.asked import find_object, find_objects, name_of, names_of
from astroray.catalog.exports import to_astropy, to_pandas
from astroray.errors import AstrorayError, ConfigError, DataError
from astroray.interrupts import Interrupted
from astroray.labelling.labels import LabelLog, labels_table
from astroray.report.thumbnails import read_thumbnails
from astroray.run_files import report_file
from astroray.run_folders import finished_run, version_of
from astroray.run_record import RunRecord
from astroray.terminal import check_rejects, echo_note, in_notebook, progress_line

if TYPE_CHECKING:  # loaded where they are asked for
    import astropy.table
    import pandas
    from lsdb.catalog.catalog import Catalog

    from astroray.evaluation.own_labels import LabelEvaluation
    from astroray.explain import Explanation
    from astroray.explorer import Explorer

__all__ = ["Run", "open_run", "scan"]

NUM_SHOWN = 8
"""Pictures by which a notebook shows a run."""

StrPath = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished scan or night: its objects by rank, what is near them, how they look.

    `path` is its run directory, `record` its run.json. A notebook shows it by its proof and the
    pictures of its most unusual objects.
    """

    path: str
    record: RunRecord = dataclasses.field(repr=False)

    @property
    def report(self) -> str:
        """Where its page is."""
        return report_file(self.path)

    @functools.cached_property
    def table(self) -> pa.Table:
        """All its objects, schema.CATALOG, sorted by rank; of a night those of older versions too.

        Units, meanings and UCDs of the columns are in the metadata of the schema's fields.
        """
        return versions.read_version(self.path).combine_chunks()

    def to_pandas(self) -> "pandas.DataFrame":
        """The table as a DataFrame; integers that may be missing are pandas' own Int64."""
        return to_pandas(self.table)

    def to_astropy(self) -> "astropy.table.Table":
        """The table as astropy has it, with units and descriptions, and UCDs in `column.meta`.

        neighbor_id is one string, ids joined by '|'.
        """
        return to_astropy(self.table)

    def to_lsdb(self) -> "Catalog":
        """The HATS catalog opened by LSDB, lazily; objects without a position are not in it.

        Raises ConfigError where the run has no HATS catalog of all its objects, or LSDB is missing,
        or, of a run on S3, s3fs.
        """
        folder = storage.join(self.path, pixels.FOLDER)
        if self.record.night:
            raise ConfigError(
                f"{self.path} is a night, whose catalog has the objects that it searched alone; "
                "`astroray export --self-contained` writes one of all, or use to_pandas()"
            )
        if not storage.exists(storage.join(folder, pixels.PROPERTIES)):
            raise ConfigError(
                f"no object of {self.path} has a position, and HATS is ordered by position; use "
                "to_pandas(), or name a table of positions in the survey (?table=FILE)"
            )
        try:
            import lsdb
        except ImportError:
            raise ConfigError("LSDB is not installed; pip install lsdb") from None
        options = {"anon": False} if storage.is_remote(folder) else None  # else it asks unsigned
        try:
            return lsdb.open_catalog(folder, storage_options=options)
        except ImportError as error:
            raise ConfigError(f"LSDB cannot read {folder}: {error}; pip install s3fs") from None

    def join(
        self,
        table: "StrPath | pandas.DataFrame | astropy.table.Table",
        *,
        radius_arcsec: float | None = None,
        id: str = "",
        ra: str = "",
        dec: str = "",
        show: bool = True,
    ) -> "pandas.DataFrame":
        """The table by rank with the columns of one of yours behind: a file, DataFrame or Table.

        radius_arcsec  None: a row belongs to the object whose identifier or file name it bears;
                       else the nearest row within so much does, at separation_arcsec
        id, ra, dec    its columns, where they have unusual names
        show           whether standard error says by which columns, and how many objects matched;
                       `attrs["joined"]` of what is returned says it too

        What it has no row for is missing; a column of both is NAME_table. Raises ConfigError
        where nothing matches.
        """
        from astroray.catalog.matching import join_table
        from astroray.catalog.source_files import source_files
        from astroray.surveys.object_tables import TableOptions

        options = TableOptions(id=id, ra=ra, dec=dec)
        objects = self.to_pandas()
        files = functools.partial(source_files, self.path, objects)
        joined = join_table(objects, table, options, radius_arcsec=radius_arcsec, files=files)
        if show:
            echo_note(f"joined {joined.attrs['joined']}")
        return joined

    def evaluate(
        self,
        labels: "StrPath | pandas.DataFrame | astropy.table.Table",
        interesting: str,
        *,
        radius_arcsec: float | None = None,
        id: str = "",
        ra: str = "",
        dec: str = "",
    ) -> "LabelEvaluation":
        """How early its list has the interesting among the objects that a table of yours labels.

        interesting  COLUMN=VALUE[,VALUE...] of the table; the rest as `join` takes it

        `table` is text, `document` as `astroray evaluate run --json` has it; `write(DIR)` a page.
        """
        from astroray.evaluation.own_labels import evaluate_labels
        from astroray.surveys.object_tables import TableOptions

        options = TableOptions(id=id, ra=ra, dec=dec)
        return evaluate_labels(
            self.path, labels, interesting, options=options, radius_arcsec=radius_arcsec
        )

    def rejects(self) -> "pandas.DataFrame":
        """What was rejected, a row each: shard, row, stage, class and reason."""
        return to_pandas(ledger.read_rejects(self.path))

    def embeddings(self, object_ids: Sequence[str | int] | None = None) -> np.ndarray:
        """[N, D] float32, in the order of the table: row i is the object of rank i + 1.

        object_ids  those alone, in this order. Raises ConfigError where the run lacks one
        """
        embedding_ND = Archive(self.path).embedding_ND
        if object_ids is None:
            return embedding_ND
        return embedding_ND[find_objects(self.table, names_of(object_ids), self.path)]

    def labels(self) -> "pandas.DataFrame":
        """What people said of its objects on the labelling page, by time: schema.LABELS.

        Of each person and object the last label that was not undone.
        """
        return to_pandas(labels_table(LabelLog(self.path).read(), self.table))

    def show(self, height_px: int = 900) -> "Framed | None":
        """Its report, to be used as in a browser: in a notebook as the last line of a cell.

        Outside of a notebook it opens in the browser. The notebook keeps the page, some MB of it,
        so that it is there when the run is not.
        """
        from astroray.pages import find_page, open_page

        page = find_page(self.path)
        if not in_notebook():
            if not open_page(page):
                warnings.warn(f"no browser can be opened here; the page is {page}", stacklevel=2)
            return None
        return Framed(storage.read_bytes(page).decode(), height_px)

    def explore(self, height_px: int = 900) -> "Explorer":
        """Its report as a widget: `selected` are the objects that are selected on its map.

        `select(IDS)` selects some from the notebook. It is alive as long as the kernel is; `show()`
        stays in the notebook. Raises ConfigError where anywidget is missing, or the page has no
        map, or one of another version.
        """
        try:
            from astroray.explorer import Explorer
        except ImportError as error:
            raise ConfigError(
                f"{error.name} is not installed, expected for a widget; pip install "
                "'astroray[notebook]', or use show()"
            ) from None
        from astroray.pages import find_page
        from astroray.report.script import has_live_map

        page = storage.read_bytes(find_page(self.path)).decode()
        if not has_live_map(page):
            raise ConfigError(
                f"the page of {self.path} has no map that a notebook can ask, expected one of this "
                f"version; write it with `astroray report {self.path} --again`"
            )
        return Explorer(Framed(page, height_px)._repr_html_(), self.table, self.path)

    def map(self) -> "pandas.DataFrame":
        """The objects on the report's map at their places, by rank: schema.MAP.

        map_x and map_y keep neighbors together, plane_x and plane_y are the principal plane. Of a
        large run it is a sample of 5,000 with the outliers, as the report has it.
        """
        from astroray.report.map import read_map

        return to_pandas(read_map(self.path))

    def similar(
        self,
        query: StrPath | int | np.ndarray,
        n: int = 20,
        *,
        bands: str = "",
        row: int | None = None,
    ) -> "pandas.DataFrame":
        """The `n` objects nearest to an object of the run or to a file, exactly, nearest first.

        query, bands, row  as `astroray similar` takes them; or an embedding [D], such as the mean
                           of some of `embeddings()`
        Returns object_id, ra and dec (deg), rank, outlier_score and distance.
        """
        import pandas

        from astroray.similar import find_similar

        _check_count("n", n)
        asked = query if isinstance(query, np.ndarray) else name_of(query)
        found = find_similar(self.path, asked, n, bands=bands, row=row)
        names = ["object_id", "ra", "dec", "rank", "outlier_score", "distance"]
        numbers = dict.fromkeys(("ra", "dec", "outlier_score"), float)  # of nothing but None too
        return pandas.DataFrame(list(found.neighbors), columns=names).astype(numbers)

    def explain(self, object_id: str | int) -> "Explanation":
        """The trace of an object: its file, its neighbors, and its score computed once more."""
        from astroray.explain import explain_object

        return explain_object(self.path, name_of(object_id))

    def picture(self, object_id: str | int, size_px: int = 256) -> Image.Image:
        """An object as it is drawn in the report, read from the survey's own file.

        Raises ConfigError without such an object, DataError where its file can no longer be read.
        """
        _check_count("size_px", size_px)
        object_id = name_of(object_id)
        at = find_object(self.table, object_id, self.path)
        place = self.table.select(["shard", "row"]).slice(at, 1).to_pylist()[0]
        shard = ledger.find_shard(self.path, place["shard"])
        png = draw_rows(shard, [place["row"]], size_px=size_px).get(place["row"])
        if png is None:
            raise DataError(
                f"no picture of {object_id}: row {place['row']} of {shard.name} is gone"
            )
        return Image.open(io.BytesIO(png))

    def _repr_html_(self) -> str:
        """What a notebook shows: counts, proof, and the most unusual objects that have pictures."""
        esc, record = html.escape, self.record
        figures = "".join(
            f'<figure style="margin:0;width:104px;font-size:12px;overflow-wrap:anywhere">'
            f'<img width="104" alt="Picture of {esc(object_id)}" style="border-radius:4px" '
            f'src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
            f"<figcaption><b>{rank}</b> {esc(object_id)}</figcaption></figure>"
            for rank, object_id, jpeg in self._shown()
        )
        return (
            f"<p><b>{esc(record.survey)}</b>: {len(self.table):,} objects, "
            f"{record.num_rejects:,} rejects, encoder {esc(record.fitted.encoder)}<br>"
            f"{esc(record.proven.sentence)}<br><code>{esc(self.report)}</code>, "
            "here by <code>.show()</code></p>"
            f'<div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div>'
        )

    def _shown(self) -> list[tuple[int, str, bytes]]:
        """Rank, id and JPEG of the first objects that have one."""
        top = self.table["object_id"].slice(0, NUM_SHOWN).to_pylist()
        jpeg = read_thumbnails(self.path)
        return [(rank, name, jpeg[name]) for rank, name in enumerate(top, start=1) if name in jpeg]


@dataclasses.dataclass(frozen=True)
class Framed:
    """A page in a notebook's cell; its script reaches nothing outside of its frame."""

    page: str = dataclasses.field(repr=False)
    height_px: int

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.page)}" title="astroray report" '
            'sandbox="allow-scripts allow-downloads allow-modals" allow="clipboard-write" '
            f'style="width:100%;height:{self.height_px}px;border:0;border-radius:8px"></iframe>'
        )


def open_run(run_dir: StrPath) -> Run:
    """The finished scan or night in a run directory, local or s3://, or the newest in a folder.

    Raises ConfigError where there is none, or it is not done.
    """
    path = version_of(os.fspath(run_dir))
    return Run(path, finished_run(path))


def scan(
    survey: StrPath,
    *,
    out: StrPath,
    encoder: StrPath | None = None,
    k: int | None = None,
    top: int | None = None,
    workers: str | int | None = None,
    config: StrPath | None = None,
    settings: Mapping[str, Any] | None = None,
    show: bool = True,
) -> Run:
    """Scans a survey as `astroray scan` does, or goes on with it, and opens the run.

    survey    a path, glob, s3:// address or scheme; options follow a question mark
    out       run directory; the same call on it resumes, and encodes nothing once it is done
    config    a YAML file of settings; what is named here goes before it
    settings  any setting of it by its dotted name, e.g. {"fit.num_passes": 10}
    show      whether progress is written to standard error

    Warns where more than `max_rejected` of rows or shards were rejected; `rejects()` has the
    reasons. Raises AstrorayError where the command would end with one, and KeyboardInterrupt where
    it is stopped: what is done stays.
    """
    from astroray.config import load_config
    from astroray.pipeline import scan as run_scan

    flags = {
        "encoder.name": None if encoder is None else os.fspath(encoder),
        "search.k": k,
        "search.top": top,
        "workers": None if workers is None else str(workers),
        **(settings or {}),
    }
    file = None if config is None else os.fspath(config)
    if not isinstance(survey, str | os.PathLike):
        raise ConfigError(
            f"survey is a {type(survey).__name__}, expected one path, glob, s3:// address or "
            "scheme; several files are a glob such as 'images/*.fits', or their folder"
        )
    asked = load_config(os.fspath(survey), os.fspath(out), file, flags)
    try:
        if show:
            with progress_line() as line:
                record = run_scan(asked, show=line)
        else:
            record = run_scan(asked)
    except KeyboardInterrupt:
        raise Interrupted() from None
    try:
        check_rejects(
            record,
            asked.max_rejected,
            rows="rows",
            result="catalog is",
            advice="rejects() has the reasons, and the setting max_rejected allows more",
        )
    except AstrorayError as error:
        warnings.warn(str(error), stacklevel=2)
    return open_run(asked.out)


def _check_count(name: str, value: int) -> None:
    """Raises ConfigError where it is no whole number from 1: a slice would take -1 for another."""
    if not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{name} is {value!r}, expected a whole number from 1")
