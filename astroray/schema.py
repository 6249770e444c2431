"""Every column and table of astroray: name, Arrow type, unit and meaning, declared once.

Shape letters used in all modules: B objects of a batch, N objects of a survey, C bands,
Y X pixel rows and columns, D embedding dimensions, K neighbors.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from astroray import sky
from astroray.errors import SchemaError

SCHEMA_VERSION = 2


def column(name: str, dtype: pa.DataType, unit: str, doc: str, *, ucd: str = "") -> pa.Field:
    """One column: what it is called, how it is stored, its unit, meaning and IVOA UCD."""
    return pa.field(name, dtype, metadata={"unit": unit, "doc": doc, "ucd": ucd})


OBJECT_ID = column(
    "object_id", pa.string(), "", "the survey's own identifier", ucd="meta.id;meta.main"
)
RA = column("ra", pa.float64(), "deg", "right ascension, ICRS", ucd="pos.eq.ra;meta.main")
DEC = column("dec", pa.float64(), "deg", "declination, ICRS", ucd="pos.eq.dec;meta.main")
HEALPIX_29 = column(
    "_healpix_29", pa.int64(), "", "HEALPix index, order 29, NESTED, as in HATS", ucd="pos.healpix"
)
IDENTITY = pa.schema([OBJECT_ID, RA, DEC, HEALPIX_29])

SHARD = column(
    "shard", pa.string(), "", "name of the shard that holds the object", ucd="meta.id;meta.file"
)
ROW = column("row", pa.int64(), "", "row within the shard, from 0", ucd="meta.record")
FLAGS = column(
    "processing_flags", pa.int32(), "", "bits of schema.Flag: how it was prepared",
    ucd="meta.code.qual",
)  # fmt: skip
FIELD = column("field", pa.string(), "", "field or image of the survey", ucd="meta.id;obs.field")
NIGHT = column("night", pa.string(), "", "night of observation, UTC date at dusk", ucd="time.epoch")
DETECTOR = column("detector", pa.string(), "", "detector or CCD", ucd="meta.id;instr.det")
MODEL_ID = column("model_id", pa.string(), "", "content hash of the model", ucd="meta.id")
SCORE = column(
    "outlier_score", pa.float64(), "", "distance to the neighbors in embedding space; larger is "
    "more unusual; null where there is no neighbor", ucd="stat.value",
)  # fmt: skip
RANK = column("rank", pa.int64(), "", "1 is the most unusual object", ucd="meta.number")
SCORE_KIND = column(
    "score_kind", pa.string(), "", "exact, or bound: the exact score is at most this",
    ucd="meta.code",
)  # fmt: skip
CERTIFIED = column("certified", pa.bool_(), "", "proven to be in the exact top", ucd="meta.code")
NEIGHBOR_ID = column(
    "neighbor_id", pa.list_(pa.string()), "", "object_id of the neighbors, nearest first",
    ucd="meta.id.assoc",
)  # fmt: skip
NEIGHBOR_DISTANCE = column(
    "neighbor_distance", pa.list_(pa.float64()), "", "Euclidean distances to the neighbors",
    ucd="stat.value",
)  # fmt: skip
FURTHER_SCORES = [
    column(
        "kth_distance", pa.float64(), "", "distance to the k-th neighbor, the last listed; at "
        "most this where score_kind is bound; null where there is no neighbor", ucd="stat.value",
    ),
    column(
        "mean_distance", pa.float64(), "", "mean distance to the k neighbors; at most this where "
        "score_kind is bound; null where there is no neighbor", ucd="stat.value",
    ),
    column(
        "mean_shift", pa.float64(), "", "distance from the embedding to the mean of those of the "
        "neighbors listed; null where there is none", ucd="stat.value",
    ),
    column(
        "local_outlier_factor", pa.float64(), "", "how much sparser its surroundings are than "
        "those of the neighbors listed, about 1 where even, infinite where only these coincide "
        "with others; null where there is no neighbor, and where a night scored it",
        ucd="stat.value",
    ),
    column(
        "mahalanobis_distance", pa.float64(), "", "distance from the mean embedding in units of "
        "the covariance of all, shrunk, in a night of all in its first reference; null with fewer "
        "than 2 objects or more than 512 dimensions",
        ucd="stat.value",
    ),
]  # fmt: skip
"""Scores beside the ranking, larger is more unusual; nothing is proven of them."""
STAGE = column(
    "stage", pa.string(), "", "stage that rejected: read, prepare, encode, catalog", ucd="meta.code"
)
CLASS = column("class", pa.string(), "", "class of the reason, one word", ucd="meta.code.class")
REASON = column("reason", pa.string(), "", "what was wrong, in words", ucd="meta.note")
ATTEMPT = column("attempt", pa.int32(), "", "attempt at the shard, from 1", ucd="meta.number")
THUMBNAIL = column("thumbnail", pa.binary(), "", "JPEG picture of the cutout", ucd="meta.dataset")


class Flag:
    """Bits of `processing_flags`."""

    FILLED = 1  # some pixels were missing and filled with the median of their band
    EDGE = 2  # the cutout reaches beyond its image; pixels beyond count as missing
    BLENDED = 4  # detected as part of a blend
    SATURATED = 8  # holds pixels that the survey marks as saturated
    COARSER = 16  # a light curve longer than the model's, in wider bins


class FlareFlag:
    """Bits of `flare_flags`."""

    EDGE = 1  # beside a gap or an end: its start or stop may be missing
    GAP = 2  # cadences are missing inside, so that flux is missing too
    SHORT = 4  # fewer than three points above the threshold; see events.FlareRule
    COMPLEX = 8  # several peaks, likely several flares
    SHARED = 16  # other stars of the run have a candidate at the same moment: see num_shared


def embedding_column(dim: int) -> pa.Field:
    """The embedding of one object: `dim` numbers in the model's frozen frame."""
    return column("embedding", pa.list_(pa.float32(), dim), "", "embedding", ucd="stat.value")


def embeddings(dim: int) -> pa.Schema:
    """EMBEDDINGS: one row an object, one file a shard."""
    return pa.schema([*IDENTITY, SHARD, ROW, embedding_column(dim), FLAGS, FIELD, NIGHT, DETECTOR])


NEIGHBORS = pa.schema([*IDENTITY, NEIGHBOR_ID, NEIGHBOR_DISTANCE])
CATALOG = pa.schema(
    [
        *[*IDENTITY, SHARD, ROW, MODEL_ID, SCORE, RANK, SCORE_KIND, CERTIFIED],
        *[NEIGHBOR_ID, NEIGHBOR_DISTANCE, FLAGS, *FURTHER_SCORES],
    ]
)
MAP = pa.schema(
    [
        *[*IDENTITY, SHARD, FIELD, NIGHT, DETECTOR, RANK, SCORE, CERTIFIED, *FURTHER_SCORES],
        column(
            "map_x", pa.float64(), "", "place where the nearest in embedding space stay near, by "
            "t-SNE; of fewer than 100 objects plane_x; directions and far distances mean nothing",
            ucd="stat.value",
        ),
        column("map_y", pa.float64(), "", "the same, upwards", ucd="stat.value"),
        column(
            "plane_x", pa.float64(), "", "along the direction in which most embeddings differ "
            "most, from the median", ucd="stat.value",
        ),
        column("plane_y", pa.float64(), "", "the same, second direction", ucd="stat.value"),
    ]
)  # fmt: skip
"""MAP: one row an object that is on the map of the embedding, by rank."""
CHANGES = pa.schema(
    [
        *IDENTITY,
        column("change", pa.string(), "", "entered, left or moved", ucd="meta.code"),
        RANK,
        column("rank_before", pa.int64(), "", "rank in the reference", ucd="meta.number"),
        SCORE,
        column("score_before", pa.float64(), "", "score in the reference", ucd="stat.value"),
        SCORE_KIND,
        column(
            "suspect", pa.string(), "", "why it is likely an artefact: its detector, field or "
            "night has too many of the outliers; else null", ucd="meta.note",
        ),
    ]
)  # fmt: skip
"""CHANGES: one row an object whose place in the certified list is another than before."""
REJECTS = pa.schema([SHARD, ROW, STAGE, CLASS, REASON, ATTEMPT])
THUMBNAILS = pa.schema([OBJECT_ID, THUMBNAIL])
LABELS = pa.schema(
    [
        *[*IDENTITY, RANK, SCORE],
        column(
            "interest", pa.int32(), "", "1 to 5; null where only a class was given", ucd="meta.code"
        ),
        column("class", pa.string(), "", "class in the person's own words", ucd="meta.code.class"),
        column("user", pa.string(), "", "who said so", ucd="meta.curation"),
        column("labelled", pa.string(), "", "when, UTC, ISO 8601", ucd="time.epoch"),
        column("why", pa.string(), "", "why the object was shown", ucd="meta.note"),
        MODEL_ID,
        column("label_id", pa.string(), "", "session and number in the label log", ucd="meta.id"),
    ]
)  # fmt: skip
"""LABELS: one row an object and person, what stands of the label log."""

_TIME_ZERO = column(
    "time_zero", pa.string(), "", "zero point of the times: BKJD is BJD - 2454833, BTJD is "
    "BJD - 2457000, MJD is JD - 2400000.5", ucd="meta.ref",
)  # fmt: skip
FLARE_EVENT = [
    column(
        "start", pa.float64(), "d", "time of the first cadence, TDB, in the zero point `time_zero`",
        ucd="time.start",
    ),
    column("peak", pa.float64(), "d", "time of the brightest cadence", ucd="time.epoch"),
    column("stop", pa.float64(), "d", "time of the last cadence", ucd="time.end"),
    _TIME_ZERO,
    column(
        "amplitude", pa.float64(), "", "peak flux over that of the star without flare, minus 1",
        ucd="phot.flux;stat.max",
    ),
    column(
        "fwhm", pa.float64(), "d", "full width at half maximum: t_1/2 of the Davenport et al. "
        "(2014) template that fits best; null where it is below half a cadence or below its "
        "error, and where the flare was refused", ucd="time.duration",
    ),
    column(
        "fwhm_err", pa.float64(), "d", "one sigma of it, from noise and misfit of the template",
        ucd="stat.error;time.duration",
    ),
    column(
        "equivalent_duration", pa.float64(), "s", "time in which the star without flare radiates "
        "as much in the mission's band", ucd="time.duration",
    ),
    column(
        "equivalent_duration_err", pa.float64(), "s", "one sigma of it, from the noise and from "
        "the level of the star under the flare; not from its tail below the noise; where it was "
        "refused from the noise alone", ucd="stat.error;time.duration",
    ),
    column(
        "energy", pa.float64(), "erg", "bolometric energy of a black body of flares.energy; null "
        "where temperature or radius of the star, or the band, is unknown", ucd="phys.energy",
    ),
    column(
        "energy_err", pa.float64(), "erg", "one sigma of it from equivalent_duration_err alone: "
        "energy * equivalent_duration_err / equivalent_duration; that of temperature, radius and "
        "black body is not in it", ucd="stat.error;phys.energy",
    ),
    column("snr", pa.float64(), "", "sum of the flare over its noise", ucd="stat.snr"),
    column("num_points", pa.int32(), "", "cadences from start to stop", ucd="meta.number"),
    column(
        "confidence", pa.float64(), "", "0 to 1, from signal-to-noise and shape; a ranking, not a "
        "probability", ucd="stat.likelihood",
    ),
    column(
        "flare_flags", pa.int32(), "", "sum of 1 edge: beside a gap or an end, 2 gap: cadences are "
        "missing inside, 4 short: fewer than three points above the threshold, 8 complex: "
        "several peaks, 16 shared: see num_shared", ucd="meta.code.qual",
    ),
    column(
        "num_shared", pa.int32(), "", "other stars of the run with a candidate within 0.01 d or a "
        "cadence, where chance does not give so many: likely of the spacecraft; else 0",
        ucd="meta.number",
    ),
    column(
        "profile_time", pa.list_(pa.float32()), "d", "times of the cadences in and around the "
        "flare, after its peak, up to a pause that splits the light curve; missing ones have none; "
        "null where it was refused", ucd="time.interval",
    ),
    column(
        "profile_flux", pa.list_(pa.float32()), "", "their flux over that of the star without "
        "flare, minus 1; NaN where missing", ucd="phot.flux",
    ),
]  # fmt: skip
FLARES = pa.schema([*IDENTITY, SHARD, ROW, *FLARE_EVENT])
"""FLARES: one row a flare."""
REFUSED_FLARES = pa.schema([*FLARES, CLASS, REASON])
"""REFUSED_FLARES: candidates that stood out and are no flares, and why."""

_OBSERVED = [
    column("num_cadences", pa.int64(), "", "cadences that were searched", ucd="meta.number"),
    column("observed", pa.float64(), "d", "their number times their spacing", ucd="time.duration"),
    column("num_flares", pa.int64(), "", "flares found", ucd="meta.number"),
    column("num_refused", pa.int64(), "", "candidates refused", ucd="meta.number"),
    column(
        "num_mirrored", pa.int64(), "", "flares that the same rule finds in the light curve turned "
        "upside down: about how many of num_flares are false, unless the star has eclipses",
        ucd="meta.number",
    ),
    column("teff", pa.float64(), "K", "effective temperature of the star", ucd="phys.temperature"),
    column("radius", pa.float64(), "solRad", "radius of the star", ucd="phys.size.radius"),
    column(
        "num_injected", pa.list_(pa.int64()), "", "made flares put in, by bin of equivalent "
        "duration, flares.inject.ED_EDGES_S", ucd="meta.number",
    ),
    column(
        "num_recovered", pa.list_(pa.int64()), "", "those of them that were found",
        ucd="meta.number",
    ),
]  # fmt: skip
FLARE_CURVES = pa.schema(
    [
        *[*IDENTITY, SHARD, ROW],
        column("mission", pa.string(), "", "kepler, k2, tess or other", ucd="meta.id;instr"),
        column("flux_kind", pa.string(), "", "pdcsap, sap or flux", ucd="meta.code"),
        column("cadence", pa.float64(), "s", "median spacing", ucd="time.interval"),
        column(
            "window", pa.float64(), "d", "full width of the trend's window", ucd="time.interval"
        ),
        column("noise", pa.float64(), "", "median noise of the relative flux", ucd="stat.error"),
        *_OBSERVED,
        column("first", pa.float64(), "d", "time of the first cadence", ucd="time.start"),
        column("last", pa.float64(), "d", "time of the last cadence", ucd="time.end"),
        _TIME_ZERO,
        column(
            "sketch_low", pa.list_(pa.float32()), "", "least flux over its median, minus 1, in "
            "even bins from first to last, NaN in empty ones; null without a flare",
            ucd="phot.flux;stat.min",
        ),
        column(
            "sketch_high", pa.list_(pa.float32()), "", "the same of the largest",
            ucd="phot.flux;stat.max",
        ),
    ]
)  # fmt: skip
"""FLARE_CURVES: one row a light curve that was searched."""
FLARE_STARS = pa.schema(
    [
        *IDENTITY,
        column("num_light_curves", pa.int64(), "", "light curves searched", ucd="meta.number"),
        *_OBSERVED,
        column("rate", pa.float64(), "d-1", "flares found over days observed", ucd="arith.rate"),
        column(
            "half_complete", pa.float64(), "s", "equivalent duration from which half of the made "
            "flares are found; null where unknown", ucd="time.duration;stat.min",
        ),
        column(
            "mostly_complete", pa.float64(), "s", "the same for four of five",
            ucd="time.duration;stat.min",
        ),
        column(
            "slope", pa.float64(), "", "alpha of dN/dED ~ ED^-alpha; null for fewer than five "
            "flares where four of five are found", ucd="stat.fit.param",
        ),
        column("slope_err", pa.float64(), "", "one sigma of it", ucd="stat.error"),
    ]
)  # fmt: skip
"""FLARE_STARS: one row a star, its light curves together."""
FORECASTS = pa.schema(
    [
        *IDENTITY,
        SHARD,
        column(
            "end", pa.float64(), "d", "moment of the forecast, the end of the window, TDB, in the "
            "zero point `time_zero`; nothing later is used", ucd="time.end",
        ),
        _TIME_ZERO,
        column(
            "probability", pa.float64(), "", "of a flare that starts within 24 h of `end`, "
            "calibrated on stars that the model was not trained on", ucd="stat.probability",
        ),
        column(
            "alarm", pa.bool_(), "", "whether it reaches the model's threshold", ucd="meta.code"
        ),
        column(
            "newest", pa.bool_(), "", "whether it is the last window of its star", ucd="meta.code"
        ),
        column(
            "flared", pa.bool_(), "", "whether a flare came; null where the 24 h were not observed",
            ucd="meta.code",
        ),
    ]
)  # fmt: skip
"""FORECASTS: one row a window, by star and time."""


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """`table` with exactly the columns of `schema`, in its order and types.

    Raises SchemaError naming the column, `where`, the type got and the type expected.
    """
    arrays = []
    for field in schema:
        index = table.schema.get_field_index(field.name)
        if index < 0:
            raise SchemaError(
                f"column {field.name!r} is missing in {where}: got {table.column_names}, "
                f"expected {schema.names}; write it with schema.{where.upper()}"
            )
        if table.schema.field(index).type != field.type:
            raise SchemaError(
                f"column {field.name!r} in {where} has type {table.schema.field(index).type}, "
                f"expected {field.type}; cast it before it is written"
            )
        arrays.append(table.column(index))
    return pa.Table.from_arrays(arrays, schema=schema)


def identity(
    object_id_B: Sequence[str], ra_deg_B: np.ndarray, dec_deg_B: np.ndarray
) -> dict[str, pa.Array]:
    """The four identity columns; positions are null together where either is not finite.

    object_id_B  [B]  identifiers
    ra_deg_B     [B]  right ascension, deg, ICRS, turned into 0..360; NaN where unknown
    dec_deg_B    [B]  declination, deg, ICRS; NaN where unknown
    """
    known_B = np.isfinite(ra_deg_B) & np.isfinite(dec_deg_B)
    healpix_B = np.zeros(len(known_B), np.int64)
    healpix_B[known_B] = sky.healpix_29(ra_deg_B[known_B], dec_deg_B[known_B])
    missing_B = ~known_B
    turned_B = np.where(known_B, ra_deg_B, 0.0) % 360.0
    turned_B[turned_B == 360.0] = 0.0  # as -1e-20 % 360 is
    return {
        "object_id": pa.array(list(object_id_B), pa.string()),
        "ra": pa.array(turned_B, mask=missing_B),
        "dec": pa.array(np.asarray(dec_deg_B, np.float64), mask=missing_B),
        "_healpix_29": pa.array(healpix_B, mask=missing_B),
    }
