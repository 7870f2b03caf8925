"""Parts of real label files, small enough for every run of the tests."""

import json
from pathlib import Path

from tests.paths import DATA


def part_of(name: str, folder: Path, *, every: int, first: int = 0) -> Path:
    """Every so-many-th picture of people/`name`.json with all its annotations, as a file in
    `folder`, beside a link to the pictures."""
    whole = json.loads((DATA / "people" / f"{name}.json").read_text())
    images = whole["images"][first::every]
    kept = {record["id"] for record in images}
    people = [a for a in whole["annotations"] if a["image_id"] in kept]
    if not (folder / "images").exists():
        (folder / "images").symlink_to(DATA / "people" / "images")
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**whole, "images": images, "annotations": people}))
    return path


def crops_of(name: str, folder: Path, *, every: int) -> Path:
    """A folder with every so-many-th entry of `name`/`name.json` (peta, faces), and its
    pictures."""
    rows = json.loads((DATA / name / f"{name}.json").read_text())
    rows = (
        rows[::every]
        if isinstance(rows, list)
        else {
            key: value[::every] if isinstance(value, list) else value for key, value in rows.items()
        }
    )
    (folder / name).mkdir()
    (folder / name / "images").symlink_to(DATA / name / "images")
    (folder / name / f"{name}.json").write_text(json.dumps(rows))
    return folder / name
