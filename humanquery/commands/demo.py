"""What a newcomer runs first: a real photo that ships with scikit-image, and a generated crowd."""

from pathlib import Path

import numpy as np

from humanquery.core.errors import HumanQueryError
from humanquery.core.persons import Persons
from humanquery.data.scenes.scenes import Scenes, street_scenes
from humanquery.draw import draw, label_of
from humanquery.media.images import write_image
from humanquery.predict import load

FILES = ("astronaut.png", "astronaut.json", "crowd.png", "crowd.json")
"""that `run` writes"""


def run(out: Path) -> None:
    """Writes `astronaut.png`, `crowd.png` and their JSON into `out`, and prints what was found."""
    predictor = load()
    for name, image in {
        "astronaut": _astronaut(),
        "crowd": Scenes(street_scenes(seed=7))[1].image,
    }.items():
        people = predictor.predict(image)
        write_image(out / f"{name}.png", draw(image, people))
        _say(name, people, out)


def _astronaut() -> np.ndarray:
    try:
        from skimage.data import astronaut
    except ImportError:
        raise HumanQueryError(
            "the demo's photo comes with scikit-image: pip install humanquery[demo]"
        ) from None
    return astronaut()


def _say(name: str, people: Persons, out: Path) -> None:
    import json

    (out / f"{name}.json").write_text(json.dumps(people.to_json()))
    print(f"{name}: {len(people)} people -> {out / name}.png, {out / name}.json")
    for i in range(min(len(people), 8)):
        x1, y1, x2, y2 = (round(v) for v in people.boxes[i].tolist())
        print(f"  {label_of(people, i)}  box {x1},{y1} - {x2},{y2}")
