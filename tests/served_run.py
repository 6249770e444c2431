"""A small finished run with a real model, made in this process, and an app of it."""

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from astroray import ledger, surveys
from astroray.actors.embed import Embedder, EmbedPlan, pack_shard
from astroray.actors.night import rank_night
from astroray.actors.quantize import QuantizePlan, quantize_model
from astroray.actors.run_model import RunModel
from astroray.actors.search import SearchOutcome, SearchPlan, rank_survey
from astroray.actors.shortlist import Reencoder, find_shortlist, rank_shortlist
from astroray.encoders import PLAIN_NUMBERS, AttentionName, QuantizeName, read_model_file
from astroray.forecast.calibration import Calibration
from astroray.forecast.model import Forecaster, ForecasterConfig
from astroray.forecast.model_file import TrainedForecaster, load_forecaster, save_forecaster
from astroray.run_record import Backends, RunRecord
from astroray.settings import to_dict
from astroray.surveys.shards import Shard
from benchmarks.embedded_runs import begin_night
from tests.light_curves_made import fluxes, times, write_mission
from tests.scans import fit_model, small_config

SURVEY = "sim:galaxies?count=160&seed=3"


def make_run(
    folder: Path,
    survey: str = SURVEY,
    *,
    k: int = 5,
    encoder: str = "pca",
    reference: str = "",
    shards: slice = slice(None),
    quantize: QuantizeName = "none",
    attention: AttentionName = "auto",
) -> str:
    """The run directory of a scan with pca at 16 px, but for the report; or of a night.

    reference  the run that a night goes on from
    shards     those of the survey that are embedded here
    """
    run_dir = str(folder / "run")
    config = small_config(
        survey, run_dir, search__k=k, encoder__name=encoder, encoder__quantize=quantize,
        encoder__attention=attention, batch_size=32,
    )  # fmt: skip
    every = surveys.list_shards(survey).shards
    ledger.write_listing(run_dir, every)
    path = f"{run_dir}/model/model.safetensors"
    if reference:
        begin_night(reference, run_dir)
        Path(path).parent.mkdir(parents=True)
        shutil.copy(f"{reference}/model/model.safetensors", path)
    else:
        fit_model(survey, path, encoder=encoder)
    if quantize not in PLAIN_NUMBERS:
        packing = QuantizePlan(model_path=path, out=path, scheme=quantize, max_rows=32)
        quantize_model(every, packing)
    plan = EmbedPlan(
        run_dir=run_dir,
        model_path=path,
        session="S1",
        batch_size=32,
        quantize=quantize,
        attention=attention,
    )
    embedder = Embedder(plan)
    for shard in every[shards]:
        embedder.embed(shard)
    model = read_model_file(path)
    searching = SearchPlan(
        run_dir=run_dir, name=survey, created="2026-01-01T00:00:00Z", model_id=model.model_id,
        search=config.search, num_random=0, seed=0,
    )  # fmt: skip
    outcome = (rank_night if reference else rank_survey)(searching)
    if quantize != "none":
        outcome = dataclasses.replace(outcome, proof=_refine(every, plan, searching).proof)
    RunRecord(
        survey=survey, fingerprint="f00d", config=to_dict(config), created="2026-01-01T00:00:00Z",
        state="done", finished="2026-01-01T01:00:00Z", model=model.describe(),
        proof=outcome.proof, counts=outcome.counts,
        backends=Backends(device="cpu", **embedder.encoder.backends).joined(outcome.backends),
    ).publish(run_dir)  # fmt: skip
    return run_dir


def _refine(shards: Sequence[Shard], plan: EmbedPlan, searching: SearchPlan) -> SearchOutcome:
    """Ranks the shortlist of a run on fewer bits by the reference, as the pipeline does."""
    places = find_shortlist(plan.run_dir, searching.search.top)
    named = {shard.name: shard for shard in shards}
    batch = {
        "shard": [pack_shard(named[name]) for name in places],
        "rows": [json.dumps(rows) for rows in places.values()],
    }
    found = Reencoder(plan)(batch)
    encoded = dict(zip(found["object_id"], found["embedding"], strict=True))
    reference_id = read_model_file(plan.model_path).quantized.get("reference_id", "")
    return rank_shortlist(
        searching, encoded, reference_id=reference_id or searching.model_id,
        selected_by=plan.quantize,
    )  # fmt: skip


def link_run(run_dir: str, folder: Path) -> str:
    """The run in `folder`, by links, with a label log and a report of its own."""
    folder.mkdir()
    for name in ("run.json", "catalog", "embeddings", "ledger", "model", "rejects"):
        if (Path(run_dir) / name).exists():
            (folder / name).symlink_to(f"{run_dir}/{name}")
    return str(folder)


def make_curve_run(folder: Path, *, num_stars: int = 12, options: str = "") -> str:
    """The run directory of a scan of Kepler's light curves with waves; one star has dips."""
    (folder / "kepler").mkdir()
    for star in range(num_stars):
        flux = fluxes(600, seed=star)
        if star == 3:
            flux[::40] *= 0.8
        primary = {"OBJECT": f"KIC {star}", "KEPLERID": star, "RA_OBJ": 290 + star}
        path = folder / "kepler" / f"kplr{star:09d}_llc.fits"
        write_mission(path, time=times(num=600), flux=flux, primary=primary)
    return make_run(folder, f"{folder}/kepler/*_llc.fits{options}", encoder="waves", k=2)


def make_forecaster(path: str) -> TrainedForecaster:
    """A forecaster of flares that has learnt nothing, in a file."""
    torch.manual_seed(1)
    save_forecaster(
        path,
        Forecaster(ForecasterConfig(width=16, num_layers=1, num_heads=2, dropout=0.0)),
        method="full",
        calibration=Calibration(slope=1.0, intercept=0.0),
        alarm=0.5,
        facts={"missions": {"tess": 9}},
    )
    return load_forecaster(path)


class PlainForecaster:
    """The forecaster in this process."""

    def __init__(self, trained: TrainedForecaster) -> None:
        self.trained = trained

    async def forecast(self, items):
        from astroray import serving  # loads Ray Serve

        return await asyncio.to_thread(serving.forecast, items, self.trained)


class PlainEncoder:
    """The model in this process, one row at a time."""

    def __init__(self, model: RunModel) -> None:
        self.encoder = model.start(batch_size=1, device="cpu", num_threads=1)

    async def embed(self, image_CYX: np.ndarray) -> np.ndarray:
        return await asyncio.to_thread(lambda: self.encoder.embed(image_CYX[None])[0])

    async def is_ready(self) -> bool:
        return True
