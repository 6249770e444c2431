"""Files that a version keeps for later ones: damage is named, trouble of the store is no damage."""

import pytest

from astroray import storage
from astroray.catalog import versions
from astroray.errors import LedgerError, StorageError
from astroray.neighbors.partitions import Manifest, open_batches
from astroray.storage import object_store


@pytest.mark.parametrize("data", [b"", b"no table"])
def test_a_damaged_list_of_inherited_files_is_named_with_what_to_do(tmp_path, data):
    path = tmp_path / "ledger" / "inherited.parquet"
    storage.publish(str(path), data)
    with pytest.raises(LedgerError, match=rf"{path} is damaged .* restore it"):
        versions.read_inherited(str(tmp_path))


def test_a_store_that_does_not_answer_is_no_damaged_index(monkeypatch):
    def down(*_: object) -> None:
        raise StorageError("the store answers 503")

    manifest = Manifest(
        source="s", model_id="m", dim=5, num_objects=0, num_duplicates=0, cells="c",
        cells_sha256="", objects="o", objects_sha256="", partitions=(),
    )  # fmt: skip
    for name in ("get_file", "head"):
        monkeypatch.setattr(object_store, name, down)
    for look in (
        lambda: manifest.damage("s3://sky/run", "c", ""),  # what is damaged is deleted
        lambda: open_batches("s3://sky/run/index/c"),
    ):
        with pytest.raises(StorageError, match="503"):
            look()
