"""Identities over time: one book per video, asked once per frame."""

from dataclasses import dataclass, field, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.tracking import motion as kalman
from humanquery.tracking.association import Pairs, box_similarities, cascade, cosine_distances, match, pose_similarities
from humanquery.tracking.motion import Motion, MotionConfig
from humanquery.tracking.smoothing import SmoothConfig, smooth


@dataclass(frozen=True)
class TrackConfig:
    """How identities are born, kept and forgotten. Scores are the detector's, lengths of time are frames."""

    birth_score: float = 0.5
    """who is less sure than this starts no track"""
    keep_score: float = 0.2
    """who is less sure than this is not looked at; between the two only a track that is there can be continued"""
    confirm_hits: int = 3
    """frames in a row after which a track is believed; those of the first frame are at once"""
    patience: int = 30
    """frames that a lost track is waited for"""
    appearance: bool = True
    """compare human queries; False: motion only"""
    max_cosine: float = 0.3
    """largest cosine distance between two queries of one person"""
    gallery: int = 10
    """latest queries that a track is recognised by"""
    clean_overlap: float = 0.5
    """a query is kept only while nobody else overlaps the person more than this (IoU)"""
    min_similarity: float = 0.3
    """least IoU or OKS with the predicted place, where the query has not decided"""
    weak_similarity: float = 0.5
    """the same for people below `birth_score`"""
    birth_overlap: float = 0.7
    """no track is born on top of one that is seen in this frame (IoU)"""
    motion: MotionConfig = field(default_factory=MotionConfig)
    smooth: SmoothConfig | None = None

    def __post_init__(self):
        for name in ("birth_score", "keep_score", "min_similarity", "weak_similarity", "birth_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"TrackConfig.{name}: {getattr(self, name)}; expected a number from 0 to 1")
        for name in ("confirm_hits", "gallery"):
            if getattr(self, name) < 1:
                raise ConfigError(f"TrackConfig.{name}: {getattr(self, name)}; expected at least 1")
        if self.patience < 0:
            raise ConfigError(f"TrackConfig.patience: {self.patience}; expected 0 frames or more")


@dataclass(frozen=True, eq=False)
class Seen:
    """The people of one frame as plain arrays: hundreds of small steps per frame are too many for tensors."""

    boxes: Float[np.ndarray, "m 4"]
    """xyxy px"""
    places: Float[np.ndarray, "m 4"]
    """cx, cy, w, h"""
    scores: Float[np.ndarray, " m"]
    queries: Float[np.ndarray, "m d"]
    """of length 1; d is 0 where appearance is off"""
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
    seen_centers: Float[np.ndarray, "n 2"]
    """of the boxes that the joints belong to"""
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
        return Tracks(**{name: np.concatenate([own, getattr(others, name)]) for name, own in self.arrays().items()})

    @property
    def motion(self) -> Motion:
        """Views, not copies."""
        return Motion(self.place, self.speed, self.spread)

    def move(self, rows: np.ndarray | slice, motion: Motion) -> None:
        self.place[rows], self.speed[rows], self.spread[rows] = motion.place, motion.speed, motion.spread


class TrackBook:
    """Gives people of successive frames their `track_ids`.

    In the manner of DeepSORT (Wojke et al. 2017), with the human query of HQNet (section 5.4) as the appearance: lost and
    seen tracks choose among the people near their predicted place by the cosine of the queries, the recently seen first;
    who is left over goes by IoU and OKS. Ids start at 1, belong to this book and are never given twice.
    """

    def __init__(self, config: TrackConfig | None = None):
        self.config = config or TrackConfig()
        self.frame = 0
        """frames looked at so far"""
        self._tracks: Tracks | None = None
        """None while nobody is known"""
        self._next = 1

    @torch.inference_mode()
    def update(self, persons: Persons) -> Persons:
        """The people of the next frame who belong to a confirmed track, with its id; order and all fields are kept.

        ValueError for people without `embeddings` unless `TrackConfig.appearance` is off, and for people with other joints
        or embeddings of another length than those before.
        """
        persons = persons if persons.boxes.is_cpu else persons.to("cpu")
        looked_at = persons.scores >= self.config.keep_score
        persons = persons if looked_at.all() else persons[looked_at]
        people = _plain(persons, self.config.appearance)
        if self._tracks is not None and len(people):
            _check_alike(people, self._tracks)
        self.frame += 1
        if self._tracks is None:
            owners = np.full(len(people), -1)
        else:
            self._move_on(self._tracks)
            owners = self._owners(self._tracks, people)
            owners = self._go_on(self._tracks, people, owners)
        owners = self._with_births(people, owners)
        return self._answer(persons, owners)

    @property
    def confirmed_ids(self) -> list[int]:
        """Of the tracks that are seen or waited for."""
        return [] if self._tracks is None else self._tracks.ids[self._tracks.confirmed].tolist()

    def state(self) -> dict[str, Tensor]:
        """Everything the book knows, to go on from in another process; see `resumed`."""
        known = {} if self._tracks is None else self._tracks.arrays()
        numbers = {"frame": torch.tensor(self.frame), "next": torch.tensor(self._next)}
        return numbers | {name: torch.from_numpy(values.copy()) for name, values in known.items()}

    @staticmethod
    def resumed(state: dict[str, Tensor], config: TrackConfig | None = None) -> "TrackBook":
        """A book that goes on as the one whose `state` this is, with the same config."""
        book = TrackBook(config)
        book.frame, book._next = int(state["frame"]), int(state["next"])
        if "ids" in state:
            book._tracks = Tracks(**{f.name: state[f.name].numpy().copy() for f in fields(Tracks)})
        return book

    def _move_on(self, tracks: Tracks) -> None:
        tracks.move(slice(None), kalman.predict(tracks.motion, self.config.motion))
        tracks.unseen += 1

    # ------------------------------------------------------------------ who is who

    def _owners(self, tracks: Tracks, people: Seen) -> Int[np.ndarray, " m"]:
        """Row of the track that each person continues, -1 for nobody's."""
        owners = np.full(len(people), -1)
        if not len(people):
            return owners
        config, strong = self.config, people.scores >= self.config.birth_score
        free = np.ones(len(tracks), bool)

        def take(rows: np.ndarray, some: np.ndarray, pairs: Pairs) -> None:
            owners[some[pairs[1]]] = rows[pairs[0]]
            free[rows[pairs[0]]] = False

        def by_place(rows: np.ndarray, some: np.ndarray, least: float) -> None:
            if len(rows) and len(some):  # the usual frame ends before: everybody was known by the query
                alike = _similarities(tracks, people, rows, some)
                take(rows, some, match(1 - alike, 1 - least))

        if config.appearance:
            rows, some = np.flatnonzero(tracks.confirmed), np.flatnonzero(strong)
            known = tracks if len(rows) == len(tracks) else tracks[rows]
            near = kalman.distances(known.motion, people.places[some], config.motion) <= config.motion.gate
            cost = cosine_distances(known.gallery, people.queries[some], near)
            take(rows, some, cascade(cost, known.unseen, config.max_cosine))
        # one frame unseen: a query that does not fit says more than a place after a longer time
        recent = free & (tracks.unseen == 1) if config.appearance else free
        by_place(np.flatnonzero(recent), np.flatnonzero(strong & (owners < 0)), config.min_similarity)
        unclaimed = free & tracks.confirmed & (tracks.unseen == 1)
        by_place(np.flatnonzero(unclaimed), np.flatnonzero(~strong), config.weak_similarity)
        return owners

    # ------------------------------------------------------------------ what becomes of the tracks

    def _go_on(self, tracks: Tracks, people: Seen, owners: np.ndarray) -> Int[np.ndarray, " m"]:
        """Tells the tracks what was seen of them and forgets those that end; gives the owners among the rest."""
        some = np.flatnonzero(owners >= 0)
        rows = owners[some]
        corrected = kalman.correct(tracks.motion[rows], people.places[some], self.config.motion)
        tracks.move(rows, corrected)
        tracks.seen_centers[rows] = corrected.place[:, :2]
        self._take_joints(tracks, people, some, rows)
        tracks.attributes[rows] += people.attributes[some] * people.scores[some, None]
        tracks.weights[rows] += people.scores[some]
        tracks.unseen[rows] = 0
        tracks.hits[rows] += 1
        tracks.confirmed |= tracks.hits >= self.config.confirm_hits
        if self.config.appearance and len(some):
            clean = _alone(people, self.config.clean_overlap) & (people.scores >= self.config.birth_score)
            self._remember(tracks, rows[clean[some]], people.queries[some[clean[some]]])
        lost = tracks.unseen > 0
        tracks.speed[lost, 2:] = 0  # nobody sees them, and a growing box would soon cover everybody
        stays = (tracks.unseen <= self.config.patience) & (tracks.confirmed | ~lost)
        if not stays.all():
            owners[some] = (stays.cumsum() - 1)[rows]  # whoever was seen stays
            self._tracks = tracks[stays] if stays.any() else None
        return owners

    def _remember(self, tracks: Tracks, rows: np.ndarray, queries: np.ndarray) -> None:
        tracks.gallery[rows, tracks.stored[rows] % self.config.gallery] = queries
        tracks.stored[rows] += 1

    def _take_joints(self, tracks: Tracks, people: Seen, some: np.ndarray, rows: np.ndarray) -> None:
        joints = people.joints[some]
        if self.config.smooth is None or not self.config.smooth.joints:
            tracks.joints[rows] = joints
            return
        heights, known = people.places[some, 3], tracks.unseen[rows] == 1
        smoothed = smooth(tracks.joints[rows], tracks.joint_speeds[rows], joints, heights, known, self.config.smooth)
        tracks.joints[rows], tracks.joint_speeds[rows] = smoothed

    # ------------------------------------------------------------------ births

    def _with_births(self, people: Seen, owners: np.ndarray) -> Int[np.ndarray, " m"]:
        """Starts tracks for those who have none; gives the owners with them."""
        fresh = (owners < 0) & (people.scores >= self.config.birth_score)
        if fresh.any() and (owners >= 0).any():
            covered = box_similarities(people.boxes, people.boxes[owners >= 0]).max(1)
            fresh &= covered <= self.config.birth_overlap
        some = np.flatnonzero(fresh)
        if not len(some):
            return owners
        born, count = self._born(people, some), 0 if self._tracks is None else len(self._tracks)
        self._tracks = self._tracks.with_more(born) if count else born
        owners[some] = count + np.arange(len(some))
        return owners

    def _born(self, people: Seen, some: np.ndarray) -> Tracks:
        n, config = len(some), self.config
        ids = np.arange(self._next, self._next + n)
        self._next += n
        motion = kalman.start(people.places[some], config.motion)
        return Tracks(
            ids=ids,
            place=motion.place,
            speed=motion.speed,
            spread=motion.spread,
            unseen=np.zeros(n, np.int64),
            hits=np.ones(n, np.int64),
            confirmed=np.full(n, config.confirm_hits == 1 or self.frame == 1),
            gallery=np.repeat(people.queries[some, None], config.gallery, 1),
            stored=np.full(n, 1),
            joints=people.joints[some],
            joint_speeds=np.zeros_like(people.joints[some]),
            seen_centers=motion.place[:, :2].copy(),
            attributes=people.attributes[some] * people.scores[some, None],
            weights=people.scores[some],
        )

    # ------------------------------------------------------------------ the answer

    def _answer(self, persons: Persons, owners: np.ndarray) -> Persons:
        tracks, shown = self._tracks, owners >= 0
        if tracks is None or not shown.any():
            return persons[:0].replace(track_ids=torch.zeros(0, dtype=torch.long))
        shown[shown] = tracks.confirmed[owners[shown]]
        rows = owners[shown]
        persons = persons if shown.all() else persons[torch.from_numpy(shown)]
        persons = persons.replace(track_ids=torch.from_numpy(tracks.ids[rows]))
        if self.config.smooth is None:
            return persons
        changes = {}
        if self.config.smooth.joints and persons.keypoints is not None:
            changes["keypoints"] = torch.from_numpy(tracks.joints[rows])
        if self.config.smooth.attributes:
            means = tracks.attributes[rows] / np.maximum(tracks.weights[rows], 1e-6)[:, None]
            gender, age = torch.from_numpy(means).unbind(1)
            changes |= {"gender": gender} if persons.gender is not None else {}
            changes |= {"age": age} if persons.age is not None else {}
        return persons.replace(**changes)


def _plain(persons: Persons, appearance: bool) -> Seen:
    n, boxes = len(persons), persons.boxes.float()
    if appearance and persons.embeddings is None and n:
        raise ValueError("these people have no embeddings to be recognised by; use TrackConfig(appearance=False)")
    by_query = appearance and persons.embeddings is not None
    queries = F.normalize(persons.embeddings.float(), dim=1) if by_query else torch.zeros(n, 0)
    joints = torch.zeros(n, 0, 2) if persons.keypoints is None else persons.keypoints.float()
    scores, nothing = persons.keypoint_scores, torch.zeros(n)
    attributes = [nothing if v is None else v.float() for v in (persons.gender, persons.age)]
    return Seen(
        boxes=boxes.numpy(),
        places=xyxy_to_cxcywh(boxes).numpy(),
        scores=persons.scores.float().numpy(),
        queries=queries.numpy(),
        joints=joints.numpy(),
        counts=np.ones(joints.shape[:2], bool) if scores is None else (scores > 0).numpy(),
        sigmas=np.array(persons.skeleton.sigmas if persons.skeleton else (), np.float32),
        attributes=torch.stack(attributes, 1).numpy(),
    )


def _check_alike(people: Seen, tracks: Tracks) -> None:
    now = people.joints.shape[1], people.queries.shape[1]
    before = tracks.joints.shape[1], tracks.gallery.shape[2]
    if now != before:
        raise ValueError(
            f"these people have {now[0]} joints and embeddings of {now[1]} numbers, those before them {before[0]} and "
            f"{before[1]}; ask one book about one model's people"
        )


def _similarities(tracks: Tracks, people: Seen, rows: np.ndarray, some: np.ndarray) -> Float[np.ndarray, "n m"]:
    """IoU with the predicted boxes; where joints are known, the mean of it and OKS with the moved joints."""
    place, boxes = tracks.place[rows], people.boxes[some]
    alike = box_similarities(cxcywh_to_xyxy(torch.from_numpy(place)).numpy(), boxes)
    if not len(people.sigmas) or not people.joints.shape[1]:
        return alike
    moved = tracks.joints[rows] + (place[:, :2] - tracks.seen_centers[rows])[:, None]
    return (alike + pose_similarities(moved, people.joints[some], boxes, people.sigmas, people.counts[some])) / 2


def _alone(people: Seen, most: float) -> Bool[np.ndarray, " m"]:
    """Nobody else covers them by more than `most` (IoU): the query speaks of one person."""
    overlap = box_similarities(people.boxes, people.boxes)
    np.fill_diagonal(overlap, 0.0)
    return overlap.max(1, initial=0.0) <= most
