"""Small labelled sets in the layouts of the real ones, made from a seed."""

import csv
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

from tests.spectra_made import LOGLAM, fluxes, write_lamost

SIZE_PX = 16
ATTRIBUTES = {
    "usual": (-3, 0.0, 0.0, 0.0),
    "S1": (-2, 0.75, 0.0, 0.0),
    "S2": (3, 1.0, 0.0, 0.0),
    "S3": (-1, 0.0, 0.5, 0.0),
    "S4": (4, 0.25, 0.0, 0.0),
    "multiple": (-2, 0.0, 0.25, 0.5),
}
"""T, Inclination, Perturbation and Multiplicity of an object of each pool."""


def make_efigi(folder: Path, *, usual: int = 18, others: int = 4) -> Path:
    """`folder` with galaxies/efigi: round blobs are usual, the others are long or noisy."""
    base = folder / "galaxies" / "efigi"
    (base / "images").mkdir(parents=True)
    random = np.random.default_rng(5)
    rows = []
    for kind, attributes in ATTRIBUTES.items():
        for number in range(usual if kind == "usual" else others):
            name = f"PGC{kind}{number:03d}"
            save_picture(base / "images" / f"{name}.jpg", random, is_usual=kind == "usual")
            rows.append((name, *attributes))
    write_table(
        base / "efigi_attributes.csv",
        ("PGC_name", "T", "Inclination", "Perturbation", "Multiplicity"),
        rows,
    )
    return folder


def make_gz2(folder: Path, num_each: int = 12) -> Path:
    """`folder` with galaxies/gz2_kaggle_spirals."""
    base = folder / "galaxies" / "gz2_kaggle_spirals"
    (base / "images").mkdir(parents=True)
    random = np.random.default_rng(6)
    rows = []
    for number in range(2 * num_each):
        label = "spiral" if number % 2 else "non_spiral"
        save_picture(base / "images" / f"{number}.jpg", random, is_usual=label != "spiral")
        rows.append((f"{number}.jpg", label))
    write_table(base / "labels.csv", ("file", "label"), rows)
    return folder


def make_mirabest(folder: Path) -> Path:
    """`folder` with galaxies/radio_mirabest: one array, its labels row by row."""
    base = folder / "galaxies" / "radio_mirabest"
    base.mkdir(parents=True)
    kinds = [("FRI", "confident", "standard"), ("FRII", "confident", "standard")] * 10
    kinds += [("FRI", "confident", "wide-angle-tail")] * 2 + [("FRI", "uncertain", "standard")]
    random = np.random.default_rng(7)
    images = random.integers(0, 255, (len(kinds), SIZE_PX, SIZE_PX), dtype=np.uint8)
    np.savez(base / "mirabest_150px_uint8.npz", images=images)
    rows = [(f"{i:03d}_{i}.5-0.1.fits", *kind) for i, kind in enumerate(kinds)]
    write_table(base / "labels.csv", ("file", "fr_class", "confidence", "morphology"), rows)
    return folder


def make_tess(folder: Path, *, num_windows: int = 8) -> Path:
    """`folder` with lightcurves/tess_young_stars: stars whose windows 1 and 4 have a flare."""
    base = folder / "lightcurves" / "tess_young_stars"
    base.mkdir(parents=True)
    events = []
    for tic in (7, 8, 9):
        time_d = 1400 + tic + np.arange(num_windows * 512) / 720
        flux = np.random.default_rng(tic).normal(1, 0.002, len(time_d))
        for window, height in ((1, 0.2), (4, 0.08), (6, 0.01)):
            peak = window * 512 + 200
            flux[peak : peak + 12] += height * np.exp(-np.arange(12) / 4)
            start_d, peak_d, stop_d = time_d[[peak - 2, peak, peak + 12]]
            events.append((tic, 1, start_d, peak_d, stop_d, height, 1.0))
        np.savez(base / f"tic{tic}_s0001.npz", time=time_d, flux=flux)
    columns = ("tic", "sector", "t_start_btjd", "t_peak_btjd", "t_end_btjd", "amp_rel", "stella")
    write_table(base / "stella_events.csv", columns, events)
    return folder


def make_crts(folder: Path, *, num_each: int = 12) -> Path:
    """`folder` with lightcurves/other_variables: CV that jump, SN that rise once, a short one."""
    base = folder / "lightcurves" / "other_variables"
    base.mkdir(parents=True)
    random = np.random.default_rng(3)
    labels, rows = [("CV", 999)], [("TranID999", 18.0, 0.1, 53000.0), ("TranID999", 19, 0.1, 53400)]
    for number in range(2 * num_each):
        is_rare = number % 2 == 1
        labels.append(("SN" if is_rare else "CV", number))
        mjd = 53000 + 11.0 * np.arange(30)
        mag = random.normal(19, 0.1, 30)
        mag[12 : 17 if is_rare else 13] -= 3
        rows += [(f"TranID{number}", *line) for line in zip(mag, [0.1] * 30, mjd, strict=True)]
    write_table(base / "labels.csv", ("Classification", "TransientID"), labels)
    write_table(base / "curves.csv", ("ID", "Mag", "Magerr", "MJD"), rows)
    names = {"labels": "crts_transient_labels.csv.gz", "curves": "crts_subset_500.csv.gz"}
    for plain, packed in names.items():
        path = base / f"{plain}.csv"
        (base / packed).write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return folder


def save_picture(
    path: Path, random: np.random.Generator, *, is_usual: bool = True, quality: int = 90
) -> None:
    """A blob on noise, round or long."""
    x = np.arange(SIZE_PX) - SIZE_PX / 2
    width = 3.0 if is_usual else random.uniform(1.0, 8.0)
    light = np.exp(-(x[None] ** 2) / 9.0 - x[:, None] ** 2 / width**2)
    noise = random.normal(20, 4, (SIZE_PX, SIZE_PX, 3))
    pixels = np.clip(noise + 200 * light[..., None], 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=quality)


def write_table(path: Path, columns: tuple, rows: list) -> None:
    """A CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([columns, *rows])


def make_lamost(folder: Path, *, num_each: int = 4) -> Path:
    """`folder` with spectra/lamost_lrs: stars of types G, dM and A, and galaxies."""
    base = folder / "spectra" / "lamost_lrs"
    (base / "fits").mkdir(parents=True)
    lines = ["file,cls,subclass"]
    for kind, (cls, subclass) in enumerate(
        [("STAR", "G5"), ("STAR", "G2"), ("STAR", "dM3"), ("STAR", "A1V"), ("GALAXY", "Non")]
    ):
        for i in range(num_each):
            name = f"spec-{kind}{i}.fits"
            write_lamost(base / "fits" / name, cards={"OBSID": 10 * kind + i})
            (base / "fits" / name).rename(base / "fits" / f"{name}.gz")
            lines.append(f"{name}.gz,{cls},{subclass}")
    (base / "index.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_types(folder: Path, *, num_each: int = 4) -> Path:
    """`folder` with spectra/sdss_templates_spt: mean spectra of types F, L and B in one file."""
    base = folder / "spectra" / "sdss_templates_spt"
    base.mkdir(parents=True)
    names = [f"{letter}{i}" for letter in "FLB" for i in range(num_each)]
    flux = [fluxes(seed) for seed in range(len(names))]
    np.savez(base / "sdss_templates.npz", wave=10**LOGLAM, flux=np.array(flux), name=names)
    rows = "".join(f"{name},{name},,\n" for name in names)
    (base / "labels.csv").write_text(f"name,spt,feh,lum\n{rows}")
    return folder
