"""The table of people/val: our models beside RTMDet-nano, MoveNet MultiPose and the commonest
answer.

    python -m benchmarks.people --weights hqnet-small --rtmdet RTMDET.onnx \\
        --movenet MOVENET.safetensors --out people.json

Data: people/, peta/ and faces/ (docs/datasets.md) under `--data`. Every row on one thread, one
picture at a time: scores of boxes, masks, joints and attributes on people/val by the library's
own evaluator; gender and age of single people on crops of peta/val (a fixed sample) and
faces/val, each on a grey canvas; for our models also how far scores and P(female) can be
believed, the best score threshold, and whether boxes need non-maximum suppression. `--rtmdet`
may also be the .safetensors file: then at a long side of 416, where the ONNX file is fixed to
320. `--limit` takes fewer pictures. The commonest answer (gender and age of most people of the
training part) is given to whom the first baseline found.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import nms

from benchmarks.baselines import Answer, Finder, MoveNet, Rtmdet, WholePicture, answered, commonest
from benchmarks.results import save
from humanquery.core.batch import Batch, Meta, Sample
from humanquery.core.boxes import iou
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.system import Ask, Picture
from humanquery.core.target import Target
from humanquery.data.loading.loader import EvalLoader
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.crops import FacesConfig, PetaConfig
from humanquery.data.readers.sources import Source
from humanquery.evaluation import attribute_ap as attributes
from humanquery.evaluation.coco_ap import evaluate_predictions
from humanquery.evaluation.coco_rows import found_of, truth_of
from humanquery.evaluation.evaluate import evaluate
from humanquery.evaluation.people_report import EvaluationReport, SizeScores
from humanquery.media.letterbox import GREY, LetterboxConfig
from humanquery.predict import load
from humanquery.predict.base import shipped_weights

PETA_CROPS = 600
CANVAS = 1.3
"""sides of the grey canvas, in sides of the crop that stands in its middle"""
LEAST_SCORE = 0.05
"""people below this are not taken for the person of a crop"""
DUPLICATE = 0.7
"""IoU above which the worse of two boxes is dropped when duplicates are counted"""
BINS = 10


@dataclass(frozen=True, eq=False)
class Entrant:
    """One row of the table."""

    name: str
    finder: Finder
    letterbox: LetterboxConfig
    skeleton: Skeleton
    parameters: int
    file_mb: float
    is_ours: bool = False


class Picked:
    """Samples of a source by number."""

    def __init__(self, source: Source, numbers: Sequence[int]):
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Sample:
        return self.source[self.numbers[i]]


def fixed_sample(length: int, count: int) -> list[int]:
    """`count` of `length` numbers, evenly spread (all, where there are not more)."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()


class OnGrey:
    """Crops in the middle of a grey canvas of `CANVAS` times their sides."""

    def __init__(self, crops: Source):
        self.crops = crops

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, i: int) -> Sample:
        crop = self.crops[i]
        height, width = crop.image.shape[:2]
        size = (round(height * CANVAS), round(width * CANVAS))
        y, x = (size[0] - height) // 2, (size[1] - width) // 2
        image = np.full((*size, 3), GREY, np.uint8)
        image[y : y + height, x : x + width] = crop.image
        target = crop.target.replace(
            image_size=size, boxes=crop.target.boxes + torch.tensor([x, y, x, y])
        )
        return Sample(
            image, Meta(size, size, image_id=crop.meta.image_id, path=crop.meta.path), target
        )


class Remembering:
    """Predicts as another does and keeps what was found, without masks."""

    def __init__(self, finder: Finder):
        self.finder = finder
        self.found: list[Persons] = []

    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        pictures = self.finder.predict(batch, ask)
        self.found += [
            one.persons.replace(masks=None, mask_scores=None, embeddings=None) for one in pictures
        ]
        return pictures


def person_of_crop(people: Persons, crop: torch.Tensor) -> int | None:
    """The row of the person that a crop (box 4, px) shows: highest IoU times score, of those at
    `LEAST_SCORE` or above that touch it; None where nobody does."""
    if not len(people):
        return None
    fit = iou(people.boxes, crop[None])[:, 0] * people.scores
    fit[people.scores < LEAST_SCORE] = 0
    best = int(fit.argmax())
    return best if fit[best] > 0 else None


def crop_scores(
    finder: Finder, crops: Source, letterbox: LetterboxConfig
) -> dict[str, float | None]:
    """Gender and age of single people. "right" counts a crop in which nobody was found as wrong;
    "mean_error" (years) is over those found. Ages are rounded to whole years first, since
    intervals are (16 to 30, 31 to 45)."""
    pairs, persons = [], []
    for batch, targets in EvalLoader(OnGrey(crops), letterbox, 1, divisor=32):
        with torch.inference_mode():
            people = finder.predict(batch)[0].persons
        if people.gender is None or people.age is None:
            return {}
        chosen = person_of_crop(people, targets[0].boxes[0])
        people = people[[] if chosen is None else [chosen]].replace(masks=None, keypoints=None)
        pairs.append((truth_of(targets[0]), found_of(people.replace(age=people.age.round()))))
        persons.append(np.zeros(len(people), dtype=int))
    # whoever was chosen is the crop's person, however well the boxes fit
    matches = attributes.BoxMatches(persons, [p.astype(bool) for p in persons])
    gender, age = attributes.gender_numbers(pairs, matches), attributes.age_numbers(pairs, matches)
    return {
        "crops": len(pairs),
        "found": sum(map(len, persons)) / len(pairs),
        "gender_right": gender and (gender.accuracy or 0.0) * gender.coverage,
        "age_right": age and (age.within_ten or 0.0) * age.coverage,
        "age_mean_error": age and age.mean_error,
    }


def score_reliability(
    truths: list[Target], found: list[Persons], bins: int = BINS
) -> list[dict[str, float | None]]:
    """Of the found people with a score in each bin: how many, their mean score, the share that
    is a person (one to one, IoU ≥ 0.5). People on ignore regions do not count."""
    pairs = [(truth_of(t), found_of(p)) for t, p in zip(truths, found, strict=True)]
    matches = attributes.match_pairs(pairs)
    counts = [~ignored for ignored in matches.ignored]
    scores = np.concatenate([f.scores[c] for (_, f), c in zip(pairs, counts, strict=True)])
    right = np.concatenate(
        [person[c] >= 0 for person, c in zip(matches.true_people, counts, strict=True)]
    )
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "people": int((bin_of == b).sum()),
            "mean_score": float(scores[bin_of == b].mean()) if (bin_of == b).any() else None,
            "share_right": float(right[bin_of == b].mean()) if (bin_of == b).any() else None,
        }
        for b in range(bins)
    ]


def without_duplicates(people: Persons, overlap: float = DUPLICATE) -> Persons:
    """After non-maximum suppression by box."""
    return people[nms(people.boxes.float(), people.scores.float(), overlap)]


def suppression_effect(truths: list[Target], found: list[Persons]) -> dict[str, float | None]:
    """Box AP as found and after `without_duplicates`, and the share of found people (of score
    0.3 and more) it drops."""
    plain = [p.replace(keypoints=None, keypoint_scores=None, gender=None, age=None) for p in found]
    thinned = [without_duplicates(p) for p in plain]
    sure = sum(int((p.scores >= 0.3).sum()) for p in plain)
    left = sum(int((p.scores >= 0.3).sum()) for p in thinned)
    return {
        "box_ap": _box_ap(truths, plain),
        "box_ap_after_nms": _box_ap(truths, thinned),
        "dropped_share": (sure - left) / sure if sure else None,
    }


def _box_ap(truths: list[Target], found: list[Persons]) -> float | None:
    return evaluate_predictions(zip(truths, found, strict=True)).families["box"].ap


def judge(
    entrant: Entrant, pictures: Source, truths: list[Target], crops: dict[str, Source]
) -> tuple[dict[str, Any], list[Persons]]:
    """All numbers of one row, and the people found."""
    finder = Remembering(entrant.finder)
    report = evaluate(
        finder,
        EvalLoader(pictures, entrant.letterbox, 1, divisor=32),
        entrant.skeleton,
        progress=False,
    )
    row: dict[str, Any] = {
        "name": entrant.name,
        "parameters": entrant.parameters,
        "file_mb": entrant.file_mb,
    }
    row |= {
        "seconds_per_picture": report.median_seconds,
        "people_val": report.to_json(),
        "columns": columns(report),
    }
    if report.gender is not None:
        row |= {
            name: crop_scores(entrant.finder, source, entrant.letterbox)
            for name, source in crops.items()
        }
    if entrant.is_ours:
        row["score_reliability"] = score_reliability(truths, finder.found)
        row["duplicates"] = suppression_effect(truths, finder.found)
    return row, finder.found


def judge_commonest(
    of_train: dict[str, Answer],
    truths: list[Target],
    found: list[Persons],
    crops: dict[str, Source],
) -> dict[str, Any]:
    """The row of one answer for everybody: on people/val for the people that another row found,
    on crops for all. Each set is given the commonest answer of its own training part
    (`of_train`)."""
    people = [answered(p, of_train["people"]) for p in found]
    report = evaluate_predictions(zip(truths, people, strict=True), COCO17)
    row: dict[str, Any] = {
        "name": "commonest answer",
        "parameters": 0,
        "file_mb": 0.0,
        "seconds_per_picture": 0.0,
    }
    row |= {"people_val": report.to_json(), "columns": columns(report)}
    row |= {"answers": {name: dataclasses.asdict(answer) for name, answer in of_train.items()}}
    small = LetterboxConfig(64, 64)
    return row | {
        name: crop_scores(WholePicture(of_train[name]), source, small)
        for name, source in crops.items()
    }


def columns(report: EvaluationReport) -> dict[str, float | None]:
    """The numbers of the table, 0..1."""
    absent = SizeScores(None, None, None, None)
    sizes = {
        f"{family} {name}": report.families[family][size] if family in report.families else absent
        for family in ("box", "mask", "keypoints", "gender", "age")
        for name, size in (("all", "all"), ("w/o S", "without_small"))
    }
    return {
        "box AP": sizes["box all"].ap,
        "box w/o S": sizes["box w/o S"].ap,
        "box AP50": sizes["box all"].ap50,
        "box AP50 w/o S": sizes["box w/o S"].ap50,
        "box AR": sizes["box all"].ar,
        "mask AP": sizes["mask all"].ap,
        "mask w/o S": sizes["mask w/o S"].ap,
        "kpt AP": sizes["keypoints all"].ap,
        "kpt AP50": sizes["keypoints all"].ap50,
        "kpt w/o S": sizes["keypoints w/o S"].ap,
        "gender AP": sizes["gender all"].ap,
        "Age-10 AP": sizes["age all"].ap,
        "gender right": report.gender and report.gender.accuracy,
        "age in ten": report.age and report.age.within_ten,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One line per number, one column per row of `judge`; scores in %."""
    width = max(24, *(len(row["name"]) + 2 for row in rows))
    lines = [" " * 20 + "".join(f"{row['name']:>{width}}" for row in rows)]
    for name in rows[0]["columns"]:
        lines.append(
            f"{name:<20}" + "".join(f"{_percent(row['columns'][name]):>{width}}" for row in rows)
        )
    for crops in ("peta", "faces"):
        for name in ("found", "gender_right", "age_right", "age_mean_error"):
            values = [row.get(crops, {}).get(name) for row in rows]
            shown = [
                ("-" if v is None else f"{v:.1f}") if name == "age_mean_error" else _percent(v)
                for v in values
            ]
            lines.append(f"{crops + ' ' + name:<20}" + "".join(f"{v:>{width}}" for v in shown))
    for name, number in (
        ("parameters", "{:,}"),
        ("file_mb", "{:.1f}"),
        ("seconds_per_picture", "{:.3f}"),
    ):
        lines.append(
            f"{name:<20}" + "".join(f"{number.format(row[name]):>{width}}" for row in rows)
        )
    return "\n".join(lines)


def belief(row: dict[str, Any]) -> str:
    """Threshold, duplicates and reliability of one of our models, as text."""
    best, twice = row["people_val"]["box_threshold"], row["duplicates"]
    lines = [f"\n{row['name']}"]
    if best:
        lines.append(f"best F1 {_percent(best['f1'])} at score {best['threshold']:.3f}")
    lines.append(
        f"box AP {_percent(twice['box_ap'])}, after NMS at IoU {DUPLICATE} "
        f"{_percent(twice['box_ap_after_nms'])}; "
        f"it drops {_percent(twice['dropped_share'])} % of the people found with score 0.3 or more"
    )
    lines.append(
        f"{'score':<12}{'people':>8}{'mean':>8}{'right':>8}    "
        f"{'P(female)':<12}{'people':>8}{'mean':>8}{'female':>8}"
    )
    gender = (row["people_val"]["gender"] or {}).get("reliability") or [None] * BINS
    for score, female in zip(row["score_reliability"], gender, strict=True):
        span = f"{score['low']:.1f}-{score['high']:.1f}"
        line = f"{span:<12}{score['people']:>8}"
        line += f"{_percent(score['mean_score']):>8}{_percent(score['share_right']):>8}"
        if female:
            line += f"    {span:<12}{female['people']:>8}"
            line += (
                f"{_percent(female['mean_probability']):>8}{_percent(female['share_female']):>8}"
            )
        lines.append(line)
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f}"


def ours(path: str) -> Entrant:
    system = load(path, device="cpu").system
    limits = system.input
    return Entrant(
        name=Path(path).stem,
        finder=system,
        letterbox=LetterboxConfig(limits.short_side, limits.long_side),
        skeleton=system.skeleton,
        parameters=sum(p.numel() for p in system.parameters()),
        file_mb=_megabytes(path),
        is_ours=True,
    )


def rtmdet(path: Path) -> Entrant:
    """On a square canvas with grey below and to the right."""
    finder = Rtmdet(path)
    side = finder.side or 416
    box = LetterboxConfig(canvas=(side, side))
    return Entrant(f"RTMDet-nano {side}", finder, box, COCO17, finder.parameters, _megabytes(path))


def movenet(path: Path) -> Entrant:
    finder = MoveNet(path)
    return Entrant(
        "MoveNet MultiPose 384",
        finder,
        LetterboxConfig(384, 384),
        COCO17,
        finder.parameters,
        _megabytes(path),
    )


def commonest_of_train(data: Path, crops: int = 1000) -> dict[str, Answer]:
    """Of people/train, and of `crops` crops each of peta/train and faces/train."""
    people = CocoSourceConfig(str(data / "people/train.json"), fields=("gender", "age")).build()
    answers = {"people": commonest(people.target(i) for i in range(len(people)))}
    for name, source in _crops(data, "train").items():
        answers[name] = commonest(source[i].target for i in fixed_sample(len(source), crops))
    return answers


def _crops(data: Path, split: str) -> dict[str, Source]:
    return {
        "peta": PetaConfig(str(data / "peta"), split).build(),
        "faces": FacesConfig(str(data / "faces"), split).build(),
    }


def _megabytes(path: str | Path) -> float:
    return Path(shipped_weights().get(str(path), path)).stat().st_size / 1e6


def _some(source: Source, count: int) -> Picked:
    return Picked(source, fixed_sample(len(source), count))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="*", default=[], help="weights files or shipped names")
    parser.add_argument("--rtmdet", type=Path, nargs="*", default=[])
    parser.add_argument("--movenet", type=Path, nargs="*", default=[])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--limit", type=int, default=0, help="pictures of people/val and crops of each set; 0: all"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not (given.weights or given.rtmdet or given.movenet):
        parser.error("name at least one of --weights, --rtmdet, --movenet")
    torch.set_num_threads(1)
    val = CocoSourceConfig(str(given.data / "people/val.json")).build()
    pictures = Picked(val, range(min(given.limit or len(val), len(val))))
    truths = [val.target(i) for i in pictures.numbers]
    most = given.limit or PETA_CROPS
    crops = {
        name: _some(source, min(most, PETA_CROPS))
        for name, source in _crops(given.data, "val").items()
    }
    entrants = [*map(ours, given.weights), *map(rtmdet, given.rtmdet), *map(movenet, given.movenet)]
    rows: list[dict[str, Any]] = []
    for entrant in entrants:
        row, found = judge(entrant, pictures, truths, crops)
        if not entrant.is_ours and all(r["name"] != "commonest answer" for r in rows):
            rows.append(judge_commonest(commonest_of_train(given.data), truths, found, crops))
        rows.append(row)
        print(f"{entrant.name}: {row['seconds_per_picture']:.3f} s per picture", flush=True)
        save(given.out, given, rows=rows)
    print(
        f"\n{len(pictures)} pictures of people/val; crops: "
        f"{', '.join(f'{len(c)} of {n}/val' for n, c in crops.items())}"
    )
    print(table(rows))
    for row in rows:
        if "duplicates" in row:
            print(belief(row))


if __name__ == "__main__":
    main()
