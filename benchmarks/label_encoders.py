"""Which encoder to label with: what a made person finds with the embeddings of each.

python -m benchmarks.label_encoders prints a table of Markdown: interesting objects among the first
100 without learning and with it, of several labelled sets, means over draws that are made as those
of `benchmarks.labels`. It takes some ten minutes.
"""

import tempfile
from pathlib import Path

from benchmarks.labels import draw_set, look
from benchmarks.rows import find_survey_data

ENCODERS = ("rings", "rings-fine", "vit-tiny")
SETS = {
    "efigi, elongated": ("efigi", "S1"),
    "efigi, edge-on": ("efigi", "S2"),
    "efigi, face-on spirals": ("efigi", "S4"),
    "efigi, all kinds": ("efigi", "S5"),
    "efigi, ellipticals among spirals": ("efigi", "R1"),
    "gz2, spirals": ("gz2", "S1"),
    "gz2, others among spirals": ("gz2", "R1"),
    "mirabest, FRI among FRII": ("mirabest", "S1"),
    "mirabest, FRII among FRI": ("mirabest", "S2"),
}
NUM_SEEDS = 20


def found(
    protocol: str, subset: str, data: str, scratch: Path, encoder: str
) -> tuple[float, float, int]:
    """Means without learning and with it over the draws, and how many there are in a draw."""
    drawn = draw_set(protocol, subset, data, scratch / encoder, NUM_SEEDS, encoder)
    draws = zip(drawn.embedding_SND, drawn.is_good_SN, drawn.score_SN, strict=True)
    looked = [look(*draw, seed=seed) for seed, draw in enumerate(draws)]
    with_mean, without_mean = (sum(column) / len(looked) for column in zip(*looked, strict=True))
    return without_mean, with_mean, int(drawn.is_good_SN[0].sum())


def print_rows(data: str, scratch: Path) -> None:
    """Prints a row a set, as it comes."""
    for encoder in ENCODERS:
        (scratch / encoder).mkdir()
    print("| set |", *(f"`{encoder}` |" for encoder in ENCODERS), "all there are |")
    print("|---|", *("---|" for _ in ENCODERS), "---|", sep="")
    for name, (protocol, subset) in SETS.items():
        cells, num_good = [], 0
        for encoder in ENCODERS:
            without, with_labels, num_good = found(protocol, subset, data, scratch, encoder)
            cells.append(f"{without:.1f} → {with_labels:.1f}")
        print(f"| {name} |", *(f"{cell} |" for cell in cells), f"{num_good} |", flush=True)


def main() -> None:
    """`python -m benchmarks.label_encoders`."""
    with tempfile.TemporaryDirectory() as scratch:
        print_rows(find_survey_data(), Path(scratch))


if __name__ == "__main__":
    main()
