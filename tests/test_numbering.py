"""Objects are numbered by name a range at a time, as if all names were held."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from astroray.actors import numbering
from astroray.actors.numbering import Numbers, sort_names
from astroray.scores import outliers
from tests.memory_used import peak_bytes

NAMES = st.text(alphabet="ab\u00e9\U0001f30c9-", max_size=3)


def group(shard: str, names: list[str]) -> pa.Table:
    return pa.table(
        {
            "object_id": pa.array(names, pa.string()),
            "shard": pa.array([shard] * len(names), pa.string()),
            "row": pa.array(range(len(names)), pa.int64()),
        }
    )


@settings(max_examples=100)
@given(
    names=st.lists(st.lists(NAMES, min_size=1, max_size=30), min_size=1, max_size=5),
    rows_at_once=st.sampled_from([1, 3, 8, 2**16]),
)
def test_numbers_rejects_and_objects_are_those_of_one_sort_of_all(names, rows_at_once):
    before = numbering.ROWS_AT_ONCE, numbering.SAMPLED
    numbering.ROWS_AT_ONCE, numbering.SAMPLED = rows_at_once, 2
    try:
        groups = [group(f"s{i}", some) for i, some in enumerate(names)]
        numbers = Numbers([sort_names(rows) for rows in groups])
        objects = pa.Table.from_batches(numbers.objects())
    finally:
        numbering.ROWS_AT_ONCE, numbering.SAMPLED = before
    rows = pa.concat_tables(groups).combine_chunks()
    unique = outliers.drop_duplicates(rows)
    kept = rows.take(pa.array(unique.kept_M))
    assert objects.combine_chunks().equals(kept.sort_by("object_id").combine_chunks())
    assert numbers.rejects == list(unique.rejects)
    assert np.flatnonzero(numbers.number_R < 0).tolist() == unique.dropped_R.tolist()
    named = [numbers.number_R[row] for row in unique.kept_M]
    assert objects["object_id"].take(pa.array(named)).to_pylist() == kept["object_id"].to_pylist()


def test_eight_times_the_objects_are_numbered_in_little_more_memory(monkeypatch):
    """But for a number of each."""
    monkeypatch.setattr(numbering, "ROWS_AT_ONCE", 1024)
    draw = np.random.default_rng(0)
    peaks = []
    for num in (4_000, 4_000, 32_000):
        order = draw.permutation(num).tolist()
        groups = [
            sort_names(group(f"s{i}", [f"obj-{n:06d}-{'x' * 90}" for n in order[i::4]]))
            for i in range(4)
        ]
        numbers = Numbers(groups)

        def run(numbers: Numbers = numbers) -> None:
            for _ in numbers.objects():
                pass

        peaks.append(peak_bytes(run))
        assert numbers.num_objects == num
    assert peaks[2] < 2 * peaks[1]
