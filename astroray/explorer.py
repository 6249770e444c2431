"""The report in a notebook's cell, where what is selected on its map is the notebook's to use.

It needs anywidget, which Jupyter, VS Code, Colab and marimo show; the extra `notebook` has it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anywidget
import pyarrow as pa
import traitlets

from astroray.catalog.asked import find_objects, names_of
from astroray.catalog.exports import to_pandas

if TYPE_CHECKING:
    import pandas

__all__ = ["Explorer"]


class Explorer(anywidget.AnyWidget):
    """The report of a run, alive: what is selected on its map, said by either side.

    `observe(function, "object_ids")` calls a function whenever the selection changes.
    """

    _esm = Path(__file__).parent / "report" / "explorer.js"
    frame = traitlets.Unicode().tag(sync=True)
    """The page in its frame, HTML."""
    object_ids = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """Identifiers of the selected objects."""

    def __init__(self, frame: str, table: pa.Table, run_dir: str) -> None:
        """Nothing is selected yet; `table` is the catalog by rank of the run in `run_dir`."""
        super().__init__(frame=frame)
        self._table, self._run_dir = table, run_dir

    @property
    def selected(self) -> "pandas.DataFrame":
        """The selected objects by rank, with the columns of the catalog."""
        return to_pandas(self._table.take(self._rows_of(self.object_ids)))

    def select(self, object_ids: Sequence[str | int]) -> None:
        """Selects these objects and no others; the page says how many of them its map lacks.

        Those are not selected. Raises ConfigError where the run lacks one.
        """
        row_M = self._rows_of(names_of(object_ids))
        self.object_ids = self._table["object_id"].take(row_M).to_pylist()

    def _rows_of(self, object_ids: Sequence[str]) -> pa.Array:
        return pa.array(sorted(find_objects(self._table, object_ids, self._run_dir)), pa.int64())
