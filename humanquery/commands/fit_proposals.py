"""How a detector's boxes lie about the parts of people: PGPG's distributions, fitted."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float

from humanquery.core.boxes import iou
from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.core.target import Target
from humanquery.data.augment.proposals import ProposalModel, fit_proposals

WHOLE = "person"
"""the part that is the whole person: the annotated box"""
LEAST_IOU = 0.5
"""of the person's box and the detected one, to be the same person (AlphaPose, section 3.3)"""
LEAST_SIDE = 2.0
"""px; parts whose labelled joints span less have no box"""

Pairs = dict[str, tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n 4"]]]


def part_boxes(target: Target, person: int) -> dict[str, Float[np.ndarray, "4"]]:
    """Tight boxes, xyxy px, of the person and of each part of its skeleton that is labelled."""
    boxes = {WHOLE: target.boxes[person].double().numpy()}
    if target.keypoints is None:
        return boxes
    counted = target.counted_joints[person].numpy()
    joints = target.keypoints.value[person].double().numpy()
    for part, (first, last) in target.skeleton.parts.items():
        places = joints[first:last][counted[first:last]]
        if len(places) > 1 and (np.ptp(places, axis=0) >= LEAST_SIDE).all():
            boxes[part] = np.concatenate([places.min(0), places.max(0)])
    return boxes


def matched(pairs: Iterable[tuple[list[Target], Persons]]) -> Pairs:
    """Part boxes and the detected boxes of the same people, of pictures with the targets of their
    people (one each) and what was found.

    Each person takes the detected box of the highest IoU, at least `LEAST_IOU`.
    """
    rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for targets, found in pairs:
        if not len(found):
            continue
        for target in targets:
            overlap = iou(target.boxes[:1].float(), found.boxes.float().cpu())[0]
            best = int(overlap.argmax())
            if overlap[best] < LEAST_IOU:
                continue
            box = found.boxes[best].double().cpu().numpy()
            for part, tight in part_boxes(target, 0).items():
                rows[part].append((tight, box))
    return {
        part: (np.stack([true for true, _ in each]), np.stack([box for _, box in each]))
        for part, each in rows.items()
    }


def fit(pairs: Pairs, rng: np.random.Generator, components: int) -> tuple[ProposalModel, list[str]]:
    """The distributions of every part with enough pairs, and which parts were left out.

    AnnotationError where not one part has enough.
    """
    enough = {part: each for part, each in pairs.items() if len(each[0]) >= 3 * components}
    if not enough:
        counts = {part: len(each[0]) for part, each in pairs.items()}
        raise AnnotationError(
            f"fit-proposals: {counts or 'nobody'} matched (detected box with IoU {LEAST_IOU}), "
            f"expected at least {3 * components} of a part for {components} Gaussians; give more "
            "pictures, another detector or fewer components"
        )
    left_out = [f"{part} ({len(pairs[part][0])})" for part in pairs if part not in enough]
    return fit_proposals(enough, rng, components), left_out


def looked_at(source, finder, score: float, limit: int = 0):
    """(targets of its people, what `finder` found) of each picture of a `PersonSource`."""
    from humanquery.media.images import read_image

    for image_id, rows in list(source.by_picture().items())[: limit or None]:
        path = source.path(image_id)
        with torch.inference_mode():
            found = finder.find(read_image(path), str(path), score)
        yield [source.target(row) for row in rows], found
