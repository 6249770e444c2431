"""The run record: what is on disk becomes typed parts, and these the same bytes again."""

import copy
import json

import pytest

from astroray import storage
from astroray.errors import LedgerError
from astroray.run_record import Backends, CatalogProof, Counts, Coverage, RunRecord
from tests.runs_made import make_night, make_record

MACHINE = {"cpu": "EPYC", "cores": 2, "memory_bytes": 2**34, "system": "Linux x86_64"}
PROOF = {
    "num_certified": 5, "num_objects": 88, "num_rescored": 69, "threshold": 3.25,
    "next_bound": 3.0, "score": "kth", "k": 3, "is_cut": False,
    "sentence": "exact: 69 of 88 re-scored", "model_id": "m0",
}  # fmt: skip
SCAN = {
    "survey": "/sky", "fingerprint": "f00d", "config": {"seed": 0, "search": {"k": 3}},
    "created": "2026-01-01T00:00:00Z", "begun": "", "state": "done",
    "finished": "2026-01-01T01:00:00Z", "schema_version": 1,
    "versions": {"python": "3.11.9", "astroray": "0.1.0"},
    "machine": MACHINE,
    "backends": {
        "device": "cpu", "quantize": "osc-w4a4 native", "attention": "vfa native bf16",
        "index": "flat", "index_reason": "few objects", "products": "native",
        "products_reason": "exact",
    },
    "model": {
        "model_id": "m1",
        "quantized": {"choice": "osc-w4a4", "attention": "auto", "reference_id": "m0"},
        "encoder": "vit-tiny", "modality": "images", "dim": 192,
        "input": "16 × 16 px, bands g, r", "size_px": 16, "bands": ["g", "r"],
        "pixels": "flux", "stretch": 0.1,
        "fit": {"num_passes": 3, "seconds": 9.0, "loss": [0.5, 0.25]},
    },
    "counts": {
        "shards": 3, "shards_rejected": 1, "rows_read": 90, "rows_embedded": 89,
        "rows_rejected": 1, "duplicates": 1, "catalog": 88, "positions": 88, "outside": 0,
        "reencoded": 40,
    },
    "rejects": [{"stage": "read", "class": "corrupt", "reason": "cut off", "rows": 1, "shards": 1}],
    "seconds": {"list": 0.5, "embed": 3.25},
    "proof": {**PROOF, "selected_by": "osc-w4a4 native", "num_reencoded": 40, "num_survey": 88},
    "night": {},
    "error": "",
}  # fmt: skip
NIGHT = {
    **SCAN,
    "backends": {"device": "cpu", "quantize": "none", "index": "flat"},
    "counts": {
        "shards": 1, "shards_rejected": 0, "rows_read": 20, "rows_embedded": 20,
        "rows_rejected": 0, "duplicates": 0, "inherited": 68, "catalog": 88, "positions": 0,
    },
    "proof": {**PROOF, "threshold": None, "next_bound": None, "is_cut": True},
    "night": {
        "reference": "/runs/scan", "number": 1, "inherits": "abcd", "shards_new": 2,
        "shards_left": 1, "objects_new": 20, "rows_written": 25,
        "changes": {"entered": 1, "left": 1, "moved": 2},
        "drift": {
            "stability": [0.1, 0.5], "stability_by_chance": 0.1, "stability_limit": 0.3,
            "dimensions_adrift": [1], "score_stability": 0.25,
            "score_quantiles": {"0.5": [1.5, 2.5]},
        },
        "suspects": [
            {
                "kind": "detector", "value": "d4", "num_outliers": 15, "num_objects": 100,
                "share_of_outliers": 0.5, "share_of_objects": 0.1, "chance": 1e-05,
                "sentence": "detector d4 has 50% of the outliers",
            }
        ],
    },
}  # fmt: skip
FLARES = {
    **SCAN,
    "config": {"rule": {"sigma": 3.0}},
    "backends": {"device": "cpu"}, "model": {}, "proof": {},
    "counts": {
        "shards": 1, "shards_rejected": 0, "rows_read": 2, "rows_embedded": 2, "rows_rejected": 0,
        "stars": 2, "flares": 0, "refused": 0, "mirrored": 0,
    },
}  # fmt: skip
BEGUN = {
    **SCAN, "state": "running", "finished": "", "machine": {}, "backends": {}, "model": {},
    "counts": {}, "rejects": [], "seconds": {}, "proof": {},
}  # fmt: skip
NIGHT_BEGUN = {**BEGUN, "night": {"reference": "/runs/scan", "number": 2, "inherits": "abcd"}}
NIGHT_OF_NOTHING = {**NIGHT, "night": {**NIGHT["night"], "drift": {}, "suspects": []}}


def text_of(values) -> bytes:
    return json.dumps(values, indent=1).encode() + b"\n"


def load(folder, values) -> RunRecord:
    storage.publish(f"{folder}/run.json", text_of(values))
    return RunRecord.load(str(folder))


@pytest.mark.parametrize(
    "values", [SCAN, NIGHT, FLARES, BEGUN, NIGHT_BEGUN, NIGHT_OF_NOTHING],
    ids=["scan", "night", "flares", "begun", "night-begun", "night-of-nothing"],
)  # fmt: skip
def test_what_is_read_is_written_again_byte_by_byte(tmp_path, values):
    load(tmp_path, values).publish(str(tmp_path))
    assert (tmp_path / "run.json").read_bytes() == text_of(values)


def test_the_parts_say_what_they_are(tmp_path):
    scan, night = load(tmp_path, SCAN), load(tmp_path, NIGHT)
    assert isinstance(scan.proof, CatalogProof)
    assert scan.fitted.preparation == {
        "size_px": 16, "bands": ["g", "r"], "pixels": "flux", "stretch": 0.1
    }  # fmt: skip
    assert (scan.fitted.reference_id, night.backends.fewer_bits) == ("m0", "")
    assert scan.backends.fewer_bits == "osc-w4a4 native"
    assert scan.backends.shown()["index"] == ("flat", "few objects")
    assert (scan.num_rejects, scan.spent_s, scan.when) == (2, 3.75, "2026-01-01 01:00:00 UTC")
    assert scan.counts.is_conserved
    assert night.counts.is_conserved
    assert (scan.night, night.night.coverage) == (None, Coverage(shards_new=2, shards_left=1))
    assert night.night.found.drift.score_quantiles["0.5"] == (1.5, 2.5)
    assert [load(tmp_path, values).is_of_flares for values in (SCAN, FLARES)] == [False, True]


def test_what_is_not_known_yet_is_none(tmp_path):
    begun = load(tmp_path, NIGHT_BEGUN)
    assert (begun.model, begun.proof, begun.machine) == (None, None, None)
    assert (begun.counts, begun.backends) == (Counts(), Backends())
    assert (begun.night.coverage, begun.night.found) == (None, None)
    with pytest.raises(LedgerError, match="of /sky has no model yet"):
        _ = begun.fitted
    with pytest.raises(LedgerError, match="of /sky was not searched yet"):
        _ = begun.proven


@pytest.mark.parametrize("key", [
    "begun", "proof.is_cut", "counts.positions", "backends.products", "model.modality",
    "model.quantized", "proof.selected_by", "error",
])  # fmt: skip
def test_a_record_without_a_key_of_later_versions_is_read(tmp_path, key):
    older = copy.deepcopy(SCAN)
    *parts, name = key.split(".")
    within = older
    for part in parts:
        within = within[part]
    del within[name]
    assert load(tmp_path, older).survey == "/sky"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("proof.sureness", 1, "proof.sureness is a key that this version does not know"),
        ("hue", 1, r"\(hue is a key that this version does not know\); use the version that wrote"),
        ("counts.rows", 1, "counts.rows is a key that"),
        ("backends.device", 3, "backends.device is 3, expected str"),
        ("counts.rows_read", 1.5, "counts.rows_read is 1.5, expected int"),
        ("counts.rows_read", True, "counts.rows_read is True, expected int"),
        ("state", "asleep", "state is 'asleep', expected one of running, done, failed"),
        ("rejects", [{"stage": "read"}], r"rejects\[0\].class is missing"),
        ("seconds.embed", "long", "seconds.embed is 'long', expected float"),
        ("proof", [1], r"proof is \[1\], expected an object"),
        ("model.fit", 1, "model.fit is 1, expected an object"),
    ],
)
def test_a_damaged_or_newer_record_is_refused_by_its_key(tmp_path, key, value, words):
    other = copy.deepcopy(SCAN)
    *parts, name = key.split(".")
    within = other
    for part in parts:
        within = within[part]
    within[name] = value
    with pytest.raises(LedgerError, match=words):
        load(tmp_path, other)


def test_a_key_that_has_to_be_there_is_named(tmp_path):
    short = {name: value for name, value in SCAN.items() if name != "survey"}
    with pytest.raises(LedgerError, match=r"run.json is no record of a run \(survey is missing\)"):
        load(tmp_path, short)


def test_a_record_survives_the_disk(tmp_path):
    record = make_record(20, [1.0] * 20, night=make_night("/runs/scan"))
    record.publish(str(tmp_path))
    assert RunRecord.load(str(tmp_path)) == record
