"""Poses that a top-down system reads in true boxes, scored part by part."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from humanquery.core.persons import Persons
from humanquery.data.readers.persons import PersonSource
from humanquery.data.readers.sources import open_source
from humanquery.evaluation.whole_body_ap import WHOLE, Row, whole_body_scores
from humanquery.evaluation.whole_body_report import WholeBodyReport, part_errors
from humanquery.models.topdown.system import TopDown, cut_crops


@dataclass(frozen=True)
class PosesInBoxes:
    """AP and error per part of the poses that a top-down system reads in the true boxes of
    `DataConfig.val` (a `PersonsConfig`)."""

    finds_people: ClassVar[bool] = False
    parts: tuple[str, ...] = ()
    """of the system's skeleton; empty: all of them, and all joints together"""

    def run(self, system: nn.Module, data: Any, *, bf16: bool = False) -> WholeBodyReport:
        """Scores on the system's device; `bf16`: under autocast, as the system was trained."""
        device = next(system.parameters()).device
        training = system.training
        system.eval()
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16), torch.inference_mode():
                return score_poses(system, open_source(data.val), list(self.parts))
        finally:
            system.train(training)


def score_poses(system: TopDown, source: PersonSource, parts: list[str]) -> WholeBodyReport:
    """Of everybody of `source` in his true box, picture by picture."""
    images, truth, found = [], [], []
    for image_id, rows in source.by_picture().items():
        samples = [source[row] for row in rows]
        height, width = samples[0].image.shape[:2]
        images.append({"id": image_id, "height": height, "width": width})
        boxes = torch.cat([sample.target.boxes for sample in samples])
        people = Persons(image_size=(height, width), boxes=boxes, scores=torch.ones(len(boxes)))
        crops = cut_crops([samples[0].image], [people], system.config)
        joints, scores = system.read(crops.images.to(next(system.parameters()).device))
        for i, row in enumerate(rows):
            places = crops.metas[i].to_canvas.inverse().points(joints[i].float().cpu())
            truth.append(source.row(row))
            found.append(_found_row(places, scores[i].float().cpu(), image_id))
    area = "body" if "body" in system.skeleton.parts else WHOLE
    families = whole_body_scores(images, truth, found, system.skeleton, parts or None, area)
    inside = [part for part in families if part in system.skeleton.parts]
    return WholeBodyReport(families, part_errors(truth, found, system.skeleton, inside), len(truth))


def _found_row(places: torch.Tensor, scores: torch.Tensor, image_id: int) -> Row:
    joints = torch.cat([places.double() - 0.5, scores[:, None].double()], 1)
    body = scores[:17]
    seen = body > 0.2
    score = float(body[seen].mean()) if seen.any() else 0.0
    return {"image_id": image_id, "keypoints": joints.flatten().tolist(), "score": score}
