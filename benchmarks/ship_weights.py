"""Makes the weights that come with astroray out of a trained model and the pictures it saw.

python -m benchmarks.ship_weights MODEL PICTURES..., where MODEL was written by `astroray train
encoder`. Every folder `<set>/images` of PICTURES, the globs it was trained on, is a set.
"""

import argparse
import glob
from pathlib import Path
from typing import cast

from astroray.encoders import ENCODERS
from astroray.encoders.pretrained import Pretrained, object_hash, pack_pretrained
from astroray.encoders.store import load_model
from astroray.preparation import Preparation

PROTOCOL_OF = {"gz2_kaggle_spirals": "gz2"}
"""Sets that an evaluation calls by another name."""
STORY = ("seed", "num_passes", "best_pass", "num_rows", "learning_rate", "seconds", "precision")


def main() -> None:
    """Writes the file beside the encoders and prints what a model card says of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+")
    asked = parser.parse_args()
    model = load_model(asked.model)
    name = ENCODERS[model.encoder].weights
    if name is None:
        parser.error(f"no weights are shipped for {model.encoder}; name a file in ENCODERS")
    preparation = cast(Preparation, model.preparation)
    objects = _objects(asked.pictures)
    pretrained = Pretrained(
        encoder=model.encoder,
        bands=preparation.bands,
        story={
            "model_id": model.model_id,
            "size_px": preparation.size_px,
            "sets": {survey: len(ids) for survey, ids in objects.items()},
            **{key: model.fit[key] for key in STORY if key in model.fit},
        },
        trained_on=frozenset(
            object_hash(survey, object_id) for survey, ids in objects.items() for object_id in ids
        ),
        tensors=model.network.state_dict(),
    )
    data = pack_pretrained(pretrained)
    path = Path(__file__).parents[1] / "astroray" / "encoders" / name
    path.write_bytes(data)
    print(f"{path}  {len(data):,} bytes\n{pretrained.story}")


def _objects(patterns: list[str]) -> dict[str, list[str]]:
    """Object ids by set: the name of a picture's file is its id, its folder's parent the set."""
    objects: dict[str, list[str]] = {}
    for pattern in patterns:
        for path in map(Path, sorted(glob.glob(pattern))):
            folder = path.parent.parent.name
            objects.setdefault(PROTOCOL_OF.get(folder, folder), []).append(path.stem)
    return objects


if __name__ == "__main__":
    main()
