"""Small labelled sets in the layouts of the real ones, made from a seed."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

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
