"""What is known of the people of a frame and of the tracks, as plain arrays."""

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int

from humanquery.core.boxes import xyxy_to_cxcywh
from humanquery.core.persons import Persons
from humanquery.tracking.motion import Motion


@dataclass(frozen=True, eq=False)
class DetectedPeople:
    """The people of one frame as plain arrays: hundreds of small steps per frame are too many for
    tensors."""

    boxes: Float[np.ndarray, "m 4"]
    """xyxy px"""
    places: Float[np.ndarray, "m 4"]
    """cx, cy, w, h"""
    scores: Float[np.ndarray, " m"]
    queries: Float[np.ndarray, "m d"]
    """of length 1, or zeros where `has_queries` is not set; d is 0 where appearance is off"""
    has_queries: bool
    joints: Float[np.ndarray, "m k 2"]
    """k is 0 where the model gives none"""
    counts: Bool[np.ndarray, "m k"]
    """joints that the model gives a score"""
    sigmas: Float[np.ndarray, " s"]
    """OKS constants of the joints; s is 0 where the skeleton has none"""
    attributes: Float[np.ndarray, "m 2"]
    """gender and age; 0 where the model gives none"""

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(eq=False)
class Tracks:
    """Everything known of n tracks, one row each. The book changes it in place."""

    ids: Int[np.ndarray, " n"]
    place: Float[np.ndarray, "n 4"]
    speed: Float[np.ndarray, "n 4"]
    spread: Float[np.ndarray, "n 3 4"]
    """these three: see `Motion`"""
    born: Int[np.ndarray, " n"]
    """frame in which it was first seen"""
    unseen: Int[np.ndarray, " n"]
    """frames since the track was last seen; 0: in this frame"""
    hits: Int[np.ndarray, " n"]
    confirmed: Bool[np.ndarray, " n"]
    gallery: Float[np.ndarray, "n g d"]
    """the latest queries; the first one stands in all places that none has come to yet"""
    stored: Int[np.ndarray, " n"]
    """queries ever put into the gallery"""
    joints: Float[np.ndarray, "n k 2"]
    """as last seen, smoothed"""
    joint_speeds: Float[np.ndarray, "n k 2"]
    seen_place: Float[np.ndarray, "n 4"]
    seen_speed: Float[np.ndarray, "n 4"]
    seen_spread: Float[np.ndarray, "n 3 4"]
    """the motion as it was when the track was last seen"""
    twins: Int[np.ndarray, " n"]
    """id of an older track that lies on the same person; 0: there never was one"""
    twin_frames: Int[np.ndarray, " n"]
    """for how many frames in a row; 0: it does not"""
    attributes: Float[np.ndarray, "n 2"]
    """gender and age, weighted sums"""
    weights: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: np.ndarray) -> "Tracks":
        return Tracks(**{name: values[rows] for name, values in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def with_more(self, others: "Tracks") -> "Tracks":
        return Tracks(
            **{
                name: np.concatenate([own, getattr(others, name)])
                for name, own in self.arrays().items()
            }
        )

    @property
    def motion(self) -> Motion:
        """Views, not copies."""
        return Motion(self.place, self.speed, self.spread)

    @property
    def seen_motion(self) -> Motion:
        return Motion(self.seen_place, self.seen_speed, self.seen_spread)

    def rescale(self, x: float, y: float) -> None:
        """All lengths in px as in a picture that is so many times as wide and as high."""
        sides = np.array([x, y, x, y], np.float32)
        for values in (self.place, self.speed, self.seen_place, self.seen_speed):
            values *= sides
        for variances in (self.spread, self.seen_spread):
            variances *= sides**2
        self.joints *= sides[:2]

    def move(self, rows: np.ndarray | slice, motion: Motion) -> None:
        self.place[rows], self.speed[rows], self.spread[rows] = (
            motion.place,
            motion.speed,
            motion.spread,
        )


def plain(persons: Persons, width: int) -> DetectedPeople:
    """Arrays of these people, with queries of `width` numbers (0: appearance is off)."""
    n, boxes = len(persons), persons.boxes.float()
    by_query = width > 0 and n > 0 and persons.embeddings is not None
    queries = F.normalize(persons.embeddings.float(), dim=1) if by_query else torch.zeros(n, width)
    joints = torch.zeros(n, 0, 2) if persons.keypoints is None else persons.keypoints.float()
    scores, zeros = persons.keypoint_scores, torch.zeros(n)
    attributes = [zeros if v is None else v.float() for v in (persons.gender, persons.age)]
    return DetectedPeople(
        boxes=boxes.numpy(),
        places=xyxy_to_cxcywh(boxes).numpy(),
        scores=persons.scores.float().numpy(),
        queries=queries.numpy(),
        has_queries=by_query,
        joints=joints.numpy(),
        counts=np.ones(joints.shape[:2], bool) if scores is None else (scores > 0).numpy(),
        sigmas=np.array(persons.skeleton.sigmas if persons.skeleton else (), np.float32),
        attributes=torch.stack(attributes, 1).numpy(),
    )
