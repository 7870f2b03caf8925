"""Multi-stage identity matching (MSIM) of AlphaPose, section 4.2: appearance first, then place and
pose."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.boxes import iou, xyxy_to_cxcywh
from humanquery.core.errors import TrackingError
from humanquery.core.persons import Persons
from humanquery.tracking.association import match
from humanquery.tracking.motion import Motion, MotionConfig, correct, distances, predict, start
from humanquery.tracking.tracker import Stream


@dataclass(frozen=True)
class MSIMConfig:
    """The paper's thresholds; it does not publish `pose_weight`, `relaxed` and `patience`."""

    embedding_distance: float = 0.7
    """mu_emb of eq. 21: cosine distance of one person's embeddings"""
    fused_distance: float = 0.5
    """mu_f: distance by place and pose (eq. 22) of one person"""
    relaxed: float = 0.8
    """third stage: the same distance, less strict"""
    pose_weight: float = 0.5
    """lambda_np of eq. 22"""
    pose_scale: float = 0.01
    """of the pose similarity: squared distance of two joints, in box sides, that halves it about"""
    memory: float = 0.9
    """share of the old embedding in a track's mean"""
    patience: int = 30
    """frames that a track outlives its last sight"""
    birth_score: float = 0.5
    """least score of a person who starts a track"""
    keep_score: float = 0.2
    """least score of a person who goes on with one"""
    motion: MotionConfig = MotionConfig()


@dataclass(eq=False)
class _Tracks:
    ids: Int[np.ndarray, " n"]
    motion: Motion
    embeddings: Float[np.ndarray, "n d"]
    poses: Float[np.ndarray, "n k 2"]
    unseen: Int[np.ndarray, " n"]

    def __getitem__(self, rows: np.ndarray) -> "_Tracks":
        return _Tracks(
            self.ids[rows],
            self.motion[rows],
            self.embeddings[rows],
            self.poses[rows],
            self.unseen[rows],
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """By name; `of` is the inverse."""
        own = {name: getattr(self, name) for name in ("ids", "embeddings", "poses", "unseen")}
        return own | {name: getattr(self.motion, name) for name in _MOTION}

    @staticmethod
    def of(arrays: dict[str, np.ndarray]) -> "_Tracks":
        motion = Motion(**{name: arrays[name] for name in _MOTION})
        return _Tracks(
            arrays["ids"], motion, arrays["embeddings"], arrays["poses"], arrays["unseen"]
        )


def unit_poses(
    keypoints: Float[np.ndarray, "n k 2"], places: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "n k 2"]:
    """Joints relative to the middle of their box (cx, cy, w, h), in sides of it."""
    return (keypoints - places[:, None, :2]) / np.maximum(places[:, None, 2:], 1.0)


def pose_distances(
    a: Float[np.ndarray, "n k 2"], b: Float[np.ndarray, "m k 2"], scale: float
) -> Float[np.ndarray, "n m"]:
    """1 minus the mean over joints of exp(-d² / scale) of unit poses, 0..1: eq. 18 as a distance; 0
    without joints."""
    if not a.shape[1]:
        return np.zeros((len(a), len(b)))
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    return 1 - np.exp(-squared / scale).mean(-1)


_MOTION = ("place", "speed", "spread")


class MSIMTracker:
    """`update(persons) -> persons` per frame: everybody who belongs to a track, with its id, order
    and fields kept.

    Embeddings and keypoints are used where people have them, on every frame or on none. Ids start
    at 1 and belong to this object. TrackingError, before anything has changed, for people that it
    cannot follow, see `tracker.Stream`.
    """

    def __init__(self, config: MSIMConfig | None = None):
        self.config = config or MSIMConfig()
        self._tracks: _Tracks | None = None
        self._next_id, self.frame, self._stream = 1, 0, Stream()
        """`frame`: frames so far"""
        self.given = torch.zeros(0, dtype=torch.long)
        """rows of the people that `update` was last called with who are in its answer"""

    def update(self, persons: Persons) -> Persons:
        """The people of the next frame."""
        stream = self._stream.with_frame(persons, self.frame)
        kept = (persons.scores >= self.config.keep_score).nonzero()[:, 0]
        persons = persons[kept]
        people = persons.to("cpu")
        found = self._measured(people)
        self._stream, self.frame = stream, self.frame + 1
        ids = np.full(len(people), -1)
        if self._tracks is not None:
            self._tracks.motion = predict(self._tracks.motion, self.config.motion)
            rows, cols = self._associate(self._tracks, found)
            ids[cols] = self._tracks.ids[rows]
            self._go_on(rows, found[cols])
        fresh = np.flatnonzero((ids < 0) & (people.scores.numpy() >= self.config.birth_score))
        ids[fresh] = np.arange(self._next_id, self._next_id + len(fresh))
        self._next_id += len(fresh)
        self._add(found[fresh], ids[fresh])
        followed = torch.from_numpy(ids >= 0)
        self.given = kept.cpu()[followed]
        return persons.replace(track_ids=torch.from_numpy(ids))[followed]

    @property
    def confirmed_ids(self) -> list[int]:
        """Of the tracks that are seen or waited for."""
        return [] if self._tracks is None else self._tracks.ids.tolist()

    def state(self) -> dict[str, Tensor]:
        """Everything it knows, to go on from in another process; see `resumed`."""
        numbers = {"frame": torch.tensor(self.frame), "next": torch.tensor(self._next_id)}
        numbers |= self._stream.tensors()
        known = {} if self._tracks is None else self._tracks.arrays()
        return numbers | {name: torch.from_numpy(value.copy()) for name, value in known.items()}

    @classmethod
    def resumed(cls, state: dict[str, Tensor], config: MSIMConfig | None = None) -> "MSIMTracker":
        """A tracker that goes on as the one whose `state` this is, with the same config."""
        tracker = cls(config)
        tracker._stream = Stream.of(state)
        tracker.frame, tracker._next_id = int(state["frame"]), int(state["next"])
        if "ids" in state:
            tracker._tracks = _Tracks.of({n: v.numpy().copy() for n, v in state.items()})
        return tracker

    def _measured(self, people: Persons) -> _Tracks:
        """The people of a frame in the form of tracks just begun."""
        places = xyxy_to_cxcywh(people.boxes.double()).numpy()
        n = len(people)
        embeddings, poses = np.zeros((n, 0)), np.zeros((n, 0, 2))
        if people.embeddings is not None:
            embeddings = people.embeddings.double().numpy()
            lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
            embeddings = embeddings / np.maximum(lengths, 1e-12)
        if people.keypoints is not None:
            poses = unit_poses(people.keypoints.double().numpy(), places)
        old = self._tracks
        if old is not None and n:
            given = (embeddings.shape[1], poses.shape[1])
            before = (old.embeddings.shape[1], old.poses.shape[1])
            if given != before:
                raise TrackingError(
                    f"frame {self.frame}: people with {given[0]} numbers of embedding and "
                    f"{given[1]} joints follow people with {before[0]} and {before[1]}; give the "
                    "same fields on every frame"
                )
        if old is not None and not n:
            embeddings, poses = old.embeddings[:0], old.poses[:0]
        zeros = np.zeros(n, np.int64)
        return _Tracks(zeros, start(places, self.config.motion), embeddings, poses, zeros)

    def _associate(self, tracks: _Tracks, found: _Tracks) -> tuple[np.ndarray, np.ndarray]:
        """Rows of tracks and of found people that are one, by the three stages."""
        c = self.config
        rows, cols = np.arange(len(tracks.ids)), np.arange(len(found.ids))
        taken: list[tuple[np.ndarray, np.ndarray]] = []

        def take(cost: Float[np.ndarray, "n m"], limit: float) -> None:
            nonlocal rows, cols
            one, other = match(cost[np.ix_(rows, cols)], limit)
            taken.append((rows[one], cols[other]))
            rows, cols = np.delete(rows, one), np.delete(cols, other)

        if tracks.embeddings.shape[1]:
            cost = 1 - tracks.embeddings @ found.embeddings.T
            # who cannot have come so far is somebody who looks alike
            far = distances(tracks.motion, found.motion.place, c.motion) > c.motion.gate
            take(np.where(far, np.inf, np.maximum(cost, 0)), c.embedding_distance)
        fused = self._fused(tracks, found)
        take(fused, c.fused_distance)
        take(fused, c.relaxed)
        return tuple(np.concatenate(side) for side in zip(*taken, strict=True))

    def _fused(self, tracks: _Tracks, found: _Tracks) -> Float[np.ndarray, "n m"]:
        """Eq. 22."""
        a, b = (torch.from_numpy(_corners(t.motion.place)) for t in (tracks, found))
        pose = pose_distances(tracks.poses, found.poses, self.config.pose_scale)
        overlap = iou(a, b).numpy()
        # a pose alone is no evidence: people walk alike everywhere
        return np.where(overlap > 0, 1 - overlap + self.config.pose_weight * pose, np.inf)

    def _go_on(self, rows: np.ndarray, found: _Tracks) -> None:
        tracks, c = self._tracks, self.config
        tracks.unseen += 1
        tracks.unseen[rows] = 0
        seen = correct(tracks.motion[rows], found.motion.place, c.motion)
        for name in _MOTION:
            getattr(tracks.motion, name)[rows] = getattr(seen, name)
        mean = c.memory * tracks.embeddings[rows] + (1 - c.memory) * found.embeddings
        lengths = np.linalg.norm(mean, axis=1, keepdims=True)
        tracks.embeddings[rows] = mean / np.maximum(lengths, 1e-12)
        tracks.poses[rows] = found.poses
        self._tracks = tracks[self._kept(tracks)]

    def _kept(self, tracks: _Tracks) -> Bool[np.ndarray, " n"]:
        return tracks.unseen <= self.config.patience

    def _add(self, found: _Tracks, ids: np.ndarray) -> None:
        found.ids = ids
        old = self._tracks
        if old is None or not len(old.ids):
            self._tracks = found if len(ids) else None
            return
        joined = {
            name: np.concatenate([getattr(old.motion, name), getattr(found.motion, name)])
            for name in _MOTION
        }
        self._tracks = _Tracks(
            np.concatenate([old.ids, found.ids]),
            Motion(**joined),
            np.concatenate([old.embeddings, found.embeddings]),
            np.concatenate([old.poses, found.poses]),
            np.concatenate([old.unseen, found.unseen]),
        )


def _corners(places: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    half = places[:, 2:] / 2
    return np.concatenate([places[:, :2] - half, places[:, :2] + half], 1)
