"""Identities over time: one book per video, asked once per frame."""

from dataclasses import dataclass, field, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.boxes import cxcywh_to_xyxy
from humanquery.core.errors import ConfigError, TrackingError
from humanquery.core.persons import Persons
from humanquery.tracking import motion as kalman
from humanquery.tracking.association import (
    Pairs,
    box_similarities,
    cosine_distances,
    doubled_pairs,
    match,
    pose_similarities,
)
from humanquery.tracking.identity import IdentityEvidence, logit
from humanquery.tracking.motion import MotionConfig
from humanquery.tracking.smoothing import SmoothConfig, smooth
from humanquery.tracking.state import DetectedPeople, Tracks, plain
from humanquery.tracking.tracker import Stream

ALLOWED = 2.0
"""more than any pair costs that is allowed at all"""


@dataclass(frozen=True)
class TrackConfig:
    """How identities are born, kept and forgotten. Scores are the detector's, lengths of time are
    frames."""

    birth_score: float = 0.5
    """who is less sure than this starts no track"""
    keep_score: float = 0.2
    """who is less sure than this is left out; between the two only a track that is there can
    be continued"""
    confirm_hits: int = 3
    """frames in a row after which a track is believed; those of the first frame are at once"""
    patience: int = 30
    """frames that a lost track is waited for"""
    appearance: bool = True
    """compare human queries; False: motion only"""
    identity: IdentityEvidence = field(default_factory=IdentityEvidence)
    """what a distance of queries says: of the model, see `track_config`"""
    identity_weight: float = 0.05
    """similarity of places that a log-odd of the queries is worth"""
    recover: float = 0.9
    """P(same person) by the queries alone from which somebody is known again where the places do
    not overlap, but may be the track's (`MotionConfig.gate`)"""
    strange: float = 0.05
    """P(same person) below which nobody comes back to a track that was lost for more than a
    frame"""
    gallery: int = 10
    """latest queries that a track is recognised by"""
    clean_overlap: float = 0.5
    """a query is kept only while nobody else overlaps the person more than this (IoU)"""
    min_similarity: float = 0.3
    """least IoU or OKS with the predicted place, where the query has not decided"""
    weak_similarity: float = 0.5
    """the same for people below `birth_score`"""
    birth_overlap: float = 0.7
    """two detections that are more alike than this (IoU; with joints the mean of it and OKS) are
    one person: only one of them has a track"""
    twin_frames: int = 5
    """frames in a row on the same person after which two tracks become one: the older"""
    motion: MotionConfig = field(default_factory=MotionConfig)
    smooth: SmoothConfig | None = None

    def __post_init__(self):
        for name in (
            "birth_score",
            "keep_score",
            "min_similarity",
            "weak_similarity",
            "birth_overlap",
            "recover",
            "strange",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"TrackConfig.{name}: {getattr(self, name)}; expected a number from 0 to 1"
                )
        for name in ("confirm_hits", "gallery", "twin_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"TrackConfig.{name}: {getattr(self, name)}; expected at least 1")
        if self.patience < 0:
            raise ConfigError(f"TrackConfig.patience: {self.patience}; expected 0 frames or more")


class TrackBook:
    """Gives people of successive frames their `track_ids`.

    Tracks choose among the people by IoU and OKS with their predicted place, to which the human
    query of HQNet (section 5.4) adds what its distance says (`IdentityEvidence`), those seen in
    the last frame first. Ids start at 1, belong to this book and are never given twice.
    """

    def __init__(self, config: TrackConfig | None = None):
        self.config = config or TrackConfig()
        self.frame = 0
        """frames so far"""
        self.given = torch.zeros(0, dtype=torch.long)
        """rows of the people that `update` was last called with who are in its answer"""
        self._stream = Stream()
        self._tracks: Tracks | None = None
        """None while nobody is known"""
        self._next = 1

    @torch.inference_mode()
    def update(self, persons: Persons) -> Persons:
        """The people of the next frame who belong to a confirmed track, with its id; order and all
        fields are kept.

        A frame whose people lack `embeddings` is followed by motion alone, if there were some
        before. Where the picture has another size than before, tracks are taken as seen in it,
        scaled (streams change their resolution). TrackingError, with the book as it was: numbers
        that are not finite; another skeleton or width of embeddings than before; no `embeddings` in
        the first frame with people, unless `TrackConfig.appearance` is off.
        """
        persons = persons if persons.boxes.is_cpu else persons.to("cpu")
        stream = self._stream.with_frame(persons, self.frame + 1, resizable=True)
        if self.config.appearance and len(persons) and stream.width is None:
            raise TrackingError(
                f"frame {self.frame + 1}: {len(persons)} people without embeddings to be "
                f"recognised by; take a model that gives them, or follow by motion alone: "
                f"TrackConfig(appearance=False)"
            )
        looked_at = persons.scores >= self.config.keep_score
        self.given = looked_at.nonzero()[:, 0]
        persons = persons if looked_at.all() else persons[looked_at]
        people = plain(persons, (stream.width or 0) if self.config.appearance else 0)
        before, now = self._stream.image_size, stream.image_size
        if self._tracks is not None and before is not None and now != before:
            self._tracks.rescale(now[1] / before[1], now[0] / before[0])
        self._stream = stream
        self.frame += 1
        overlap = box_similarities(people.boxes, people.boxes)
        np.fill_diagonal(overlap, 0.0)
        doubles = doubled_pairs(
            overlap,
            people.joints,
            people.boxes,
            people.sigmas,
            people.counts,
            self.config.birth_overlap,
        )
        owners = np.full(len(people), -1)
        if self._tracks is not None:
            self._move_on(self._tracks)
            owners = self._owners(self._tracks, people)
            gone = self._refused(self._tracks, owners, doubles)
            alone = overlap.max(1, initial=0.0) <= self.config.clean_overlap
            self._go_on(self._tracks, people, owners, alone)
            gone |= self._twins(self._tracks, owners, doubles)
            owners = self._without(self._tracks, owners, gone)
        owners = self._with_births(people, owners, doubles)
        return self._answer(persons, owners)

    @property
    def confirmed_ids(self) -> list[int]:
        """Of the tracks that are seen or waited for."""
        return [] if self._tracks is None else self._tracks.ids[self._tracks.confirmed].tolist()

    def state(self) -> dict[str, Tensor]:
        """Everything the book knows, to go on from in another process; see `resumed`."""
        known = {} if self._tracks is None else self._tracks.arrays()
        numbers = {"frame": torch.tensor(self.frame), "next": torch.tensor(self._next)}
        numbers |= self._stream.tensors()
        return numbers | {name: torch.from_numpy(values.copy()) for name, values in known.items()}

    @classmethod
    def resumed(cls, state: dict[str, Tensor], config: TrackConfig | None = None) -> "TrackBook":
        """A book that goes on as the one whose `state` this is, with the same config.

        TrackingError for a state of a book with another `TrackConfig.gallery`.
        """
        book = cls(config)
        kept = state["gallery"].shape[1] if "gallery" in state else book.config.gallery
        if kept != book.config.gallery:
            raise TrackingError(
                f"this state keeps {kept} queries per track, TrackConfig.gallery is "
                f"{book.config.gallery}; go on with the config that it was made with"
            )
        book._stream = Stream.of(state)
        book.frame, book._next = int(state["frame"]), int(state["next"])
        if "ids" in state:
            book._tracks = Tracks(**{f.name: state[f.name].numpy().copy() for f in fields(Tracks)})
        return book

    def _move_on(self, tracks: Tracks) -> None:
        tracks.move(slice(None), kalman.predict(tracks.motion, self.config.motion))
        tracks.unseen += 1

    # ------------------------------------------------------------------ who is who

    def _owners(self, tracks: Tracks, people: DetectedPeople) -> Int[np.ndarray, " m"]:
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
            if len(rows) and len(some):
                cost = 1 - _similarities(tracks, people, rows, some)
                take(rows, some, match(cost, 1 - least))

        def by_both(rows: np.ndarray, some: np.ndarray) -> None:
            if len(rows) and len(some):
                take(rows, some, match(self._costs(tracks, people, rows, some), ALLOWED))

        if people.has_queries:
            # whoever was seen in the last frame chooses first: nobody comes back on their box
            by_both(np.flatnonzero(tracks.unseen == 1), np.flatnonzero(strong))
            by_both(np.flatnonzero(free), np.flatnonzero(strong & (owners < 0)))
        else:
            by_place(np.flatnonzero(free), np.flatnonzero(strong), config.min_similarity)
        unclaimed = free & tracks.confirmed & (tracks.unseen == 1)
        by_place(np.flatnonzero(unclaimed), np.flatnonzero(~strong), config.weak_similarity)
        return owners

    def _costs(
        self, tracks: Tracks, people: DetectedPeople, rows: np.ndarray, some: np.ndarray
    ) -> Float[np.ndarray, "n m"]:
        """What it costs that tracks go on as these people, by places and queries; infinite where
        neither allows it."""
        config, queries = self.config, people.queries[some]
        alike = _similarities(tracks, people, rows, some)
        everywhere = np.ones(alike.shape, bool)
        odds = config.identity.log_odds(cosine_distances(tracks.gallery[rows], queries, everywhere))
        odds[tracks.stored[rows] == 0] = 0.0  # no query is known
        lost = (tracks.unseen[rows] > 1)[:, None]
        allowed = (alike >= config.min_similarity) & ~(lost & (odds < logit(config.strange)))
        known = (odds >= logit(config.recover)) & tracks.confirmed[rows][:, None]
        if (known & ~allowed).any():
            apart = kalman.distances(tracks.motion[rows], people.places[some], config.motion)
            allowed |= known & (apart <= config.motion.gate)
        return np.where(allowed, 1 - alike - config.identity_weight * odds, np.inf)

    # ------------------------------------------------------------------ what becomes of the tracks

    def _refused(
        self, tracks: Tracks, owners: np.ndarray, doubles: np.ndarray
    ) -> Bool[np.ndarray, " n"]:
        """No track comes back on a double of somebody whose track was never lost: `owners` loses
        those.

        If that track was born only after the other was lost, then it is the same person's, who was
        not known again: it takes the old id and birth, and the lost track, which is given, ends.
        """
        gone = np.zeros(len(tracks), bool)
        back = owners >= 0
        back[back] = tracks.unseen[owners[back]] > 1
        if not back.any():
            return gone
        steady = (owners >= 0) & ~back
        for person in np.flatnonzero(back & doubles[:, steady].any(1)):
            lost, live = owners[person], owners[np.flatnonzero(doubles[person] & steady)[0]]
            if tracks.born[live] > self.frame - tracks.unseen[lost]:
                tracks.ids[live], tracks.born[live] = tracks.ids[lost], tracks.born[lost]
                tracks.confirmed[live] |= tracks.confirmed[lost]
                gone[lost] = True
            owners[person] = -1
        return gone

    def _go_on(
        self, tracks: Tracks, people: DetectedPeople, owners: np.ndarray, alone: np.ndarray
    ) -> None:
        """Tells the tracks what was seen of them; the query of those who are `alone` speaks of one
        person."""
        some = np.flatnonzero(owners >= 0)
        rows = owners[some]
        self._catch_up(tracks, people, some, rows)
        corrected = kalman.correct(tracks.motion[rows], people.places[some], self.config.motion)
        tracks.move(rows, corrected)
        tracks.seen_place[rows], tracks.seen_speed[rows] = corrected.place, corrected.speed
        tracks.seen_spread[rows] = corrected.spread
        self._take_joints(tracks, people, some, rows)
        tracks.attributes[rows] += people.attributes[some] * people.scores[some, None]
        tracks.weights[rows] += people.scores[some]
        tracks.unseen[rows] = 0
        tracks.hits[rows] += 1
        tracks.confirmed |= tracks.hits >= self.config.confirm_hits
        if people.has_queries and len(some):
            clean = alone & (people.scores >= self.config.birth_score)
            self._remember(tracks, rows[clean[some]], people.queries[some[clean[some]]])
        lost = tracks.unseen > 0
        tracks.speed[lost, 2:] = 0  # nobody sees them, and a growing box would soon cover everybody

    def _twins(
        self, tracks: Tracks, owners: np.ndarray, doubles: np.ndarray
    ) -> Bool[np.ndarray, " n"]:
        """Tracks that lay on the person of an older one for `TrackConfig.twin_frames` frames in a
        row."""
        if not doubles.any() and not tracks.twin_frames.any():  # the usual frame
            return np.zeros(len(tracks), bool)
        seen, again = np.flatnonzero(owners >= 0), np.zeros(len(tracks), bool)
        for pair in np.argwhere(np.triu(doubles[np.ix_(seen, seen)])):
            older, younger = sorted(owners[seen[pair]], key=tracks.ids.__getitem__)
            if tracks.twins[younger] != tracks.ids[older]:
                tracks.twins[younger], tracks.twin_frames[younger] = tracks.ids[older], 0
            tracks.twin_frames[younger] += 1
            again[younger] = True
        tracks.twin_frames[~again] = 0
        return tracks.twin_frames >= self.config.twin_frames

    def _without(
        self, tracks: Tracks, owners: np.ndarray, gone: np.ndarray
    ) -> Int[np.ndarray, " m"]:
        """Forgets those who are gone and the tracks that end by themselves; gives the owners among
        the rest."""
        lost = tracks.unseen > 0
        stays = (tracks.unseen <= self.config.patience) & (tracks.confirmed | ~lost) & ~gone
        if not stays.all():
            numbers = np.where(stays, stays.cumsum() - 1, -1)
            owners = np.where(owners >= 0, numbers[owners], -1)
            self._tracks = tracks[stays] if stays.any() else None
        return owners

    def _catch_up(
        self, tracks: Tracks, people: DetectedPeople, some: np.ndarray, rows: np.ndarray
    ) -> None:
        """Tracks that come back: their motion as if they had walked straight from where they were
        last seen to where they are now (the re-update of OC-SORT, Cao et al. 2023)."""
        gaps = tracks.unseen[rows]
        back = gaps > 1
        if not back.any():
            return
        rows, gaps, ends = rows[back], gaps[back], people.places[some[back]]
        motion, starts = tracks.seen_motion[rows], tracks.seen_place[rows]
        for step in range(1, gaps.max() + 1):
            motion = kalman.predict(motion, self.config.motion)
            here = gaps == step
            tracks.move(rows[here], motion[here])
            share = np.minimum(step / gaps, 1)[:, None].astype(np.float32)
            motion = kalman.correct(motion, starts + (ends - starts) * share, self.config.motion)

    def _remember(self, tracks: Tracks, rows: np.ndarray, queries: np.ndarray) -> None:
        tracks.gallery[rows, tracks.stored[rows] % self.config.gallery] = queries
        tracks.stored[rows] += 1

    def _take_joints(
        self, tracks: Tracks, people: DetectedPeople, some: np.ndarray, rows: np.ndarray
    ) -> None:
        joints = people.joints[some]
        if self.config.smooth is None or not self.config.smooth.joints:
            tracks.joints[rows] = joints
            return
        heights, known = people.places[some, 3], tracks.unseen[rows] == 1
        smoothed = smooth(
            tracks.joints[rows],
            tracks.joint_speeds[rows],
            joints,
            heights,
            known,
            self.config.smooth,
        )
        tracks.joints[rows], tracks.joint_speeds[rows] = smoothed

    # ------------------------------------------------------------------ births

    def _with_births(
        self, people: DetectedPeople, owners: np.ndarray, doubles: np.ndarray
    ) -> Int[np.ndarray, " m"]:
        """Starts tracks for those who have none; gives the owners with them."""
        fresh = (owners < 0) & (people.scores >= self.config.birth_score)
        if not fresh.any():
            return owners
        # of two on the same place the surer one, but whoever has a track comes before everybody
        rank = np.where(owners >= 0, 2.0, people.scores)
        surer = (rank[None] > rank[:, None]) | (
            (rank[None] == rank[:, None]) & np.tri(len(rank), k=-1, dtype=bool)
        )
        fresh &= ~(doubles & surer).any(1)
        some = np.flatnonzero(fresh)
        if not len(some):
            return owners
        born, count = self._born(people, some), 0 if self._tracks is None else len(self._tracks)
        self._tracks = self._tracks.with_more(born) if count else born
        owners[some] = count + np.arange(len(some))
        return owners

    def _born(self, people: DetectedPeople, some: np.ndarray) -> Tracks:
        n, config = len(some), self.config
        ids = np.arange(self._next, self._next + n)
        self._next += n
        motion = kalman.start(people.places[some], config.motion)
        return Tracks(
            ids=ids,
            place=motion.place,
            speed=motion.speed,
            spread=motion.spread,
            born=np.full(n, self.frame),
            unseen=np.zeros(n, np.int64),
            hits=np.ones(n, np.int64),
            confirmed=np.full(n, config.confirm_hits == 1 or self.frame == 1),
            gallery=np.repeat(people.queries[some, None], config.gallery, 1),
            # born in a frame without queries: the zeros in its gallery are like nobody
            stored=np.full(n, int(people.has_queries)),
            joints=people.joints[some],
            joint_speeds=np.zeros_like(people.joints[some]),
            seen_place=motion.place.copy(),
            seen_speed=motion.speed.copy(),
            seen_spread=motion.spread.copy(),
            twins=np.zeros(n, np.int64),
            twin_frames=np.zeros(n, np.int64),
            attributes=people.attributes[some] * people.scores[some, None],
            weights=people.scores[some],
        )

    # ------------------------------------------------------------------ the answer

    def _answer(self, persons: Persons, owners: np.ndarray) -> Persons:
        tracks, shown = self._tracks, owners >= 0
        if tracks is None or not shown.any():
            self.given = self.given[:0]
            return persons[:0].replace(track_ids=torch.zeros(0, dtype=torch.long))
        shown[shown] = tracks.confirmed[owners[shown]]
        self.given = self.given[torch.from_numpy(shown)]
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


def _similarities(
    tracks: Tracks, people: DetectedPeople, rows: np.ndarray, some: np.ndarray
) -> Float[np.ndarray, "n m"]:
    """IoU with the predicted boxes; where joints are known, the mean of it and OKS with the moved
    joints."""
    place, boxes = tracks.place[rows], people.boxes[some]
    alike = box_similarities(cxcywh_to_xyxy(torch.from_numpy(place)).numpy(), boxes)
    if not len(people.sigmas) or not people.joints.shape[1]:
        return alike
    moved = tracks.joints[rows] + (place[:, :2] - tracks.seen_place[rows, :2])[:, None]
    return (
        alike
        + pose_similarities(moved, people.joints[some], boxes, people.sigmas, people.counts[some])
    ) / 2
