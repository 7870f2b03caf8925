"""Identities over time: one book per video, asked once per frame."""

from dataclasses import dataclass, field, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.tracking import motion as kalman
from humanquery.tracking.association import Pairs, box_similarities, cascade, cosine_distances, match, pose_similarities
from humanquery.tracking.motion import Motion, MotionConfig
from humanquery.tracking.smoothing import Joints, Means, SmoothConfig, rest, smooth


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
class Tracks:
    """Everything known of n tracks, one row each."""

    ids: Int[Tensor, " n"]
    motion: Motion
    unseen: Int[Tensor, " n"]
    """frames since the track was last seen; 0: in this frame"""
    hits: Int[Tensor, " n"]
    confirmed: Bool[Tensor, " n"]
    gallery: Float[Tensor, "n g d"]
    stored: Int[Tensor, " n"]
    """queries ever put into the gallery; the latest stand in it"""
    joints: Joints | None
    """as last seen, smoothed"""
    seen_centers: Float[Tensor, "n 2"]
    """of the boxes that the joints belong to"""
    means: Means

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> "Tracks":
        return Tracks(**{f.name: _rows(getattr(self, f.name), rows) for f in fields(self)})


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
        self._next = 1

    @torch.inference_mode()
    def update(self, persons: Persons) -> Persons:
        """The people of the next frame who belong to a confirmed track, with its id; order and all fields are kept.

        Without `embeddings` in `persons`, ValueError unless `TrackConfig.appearance` is off.
        """
        persons = persons.to("cpu")
        if self.config.appearance and persons.embeddings is None and len(persons):
            raise ValueError("these people have no embeddings to be recognised by; use TrackConfig(appearance=False)")
        self.frame += 1
        looked_at = persons.scores >= self.config.keep_score
        persons = persons if looked_at.all() else persons[looked_at]
        queries = F.normalize(persons.embeddings.float(), dim=1) if self._by_query(persons) else None
        tracks = self._moved_on() if self._tracks is not None else None
        owners = self._owners(tracks, persons, queries)
        kept = self._continued(tracks, persons, queries, owners) if tracks is not None else None
        self._tracks, owners = self._with_births(kept, persons, queries, owners)
        return self._answer(persons, owners)

    @property
    def confirmed_ids(self) -> list[int]:
        """Of the tracks that are seen or waited for."""
        return [] if self._tracks is None else self._tracks.ids[self._tracks.confirmed].tolist()

    def state(self) -> dict[str, Tensor]:
        """Everything the book knows, to go on from in another process; see `resumed`."""
        known = {} if self._tracks is None else _flat(self._tracks)
        return {"frame": torch.tensor(self.frame), "next": torch.tensor(self._next), **known}

    @staticmethod
    def resumed(state: dict[str, Tensor], config: TrackConfig | None = None) -> "TrackBook":
        """A book that goes on as the one whose `state` this is, with the same config."""
        book = TrackBook(config)
        book.frame, book._next = int(state["frame"]), int(state["next"])
        rows = {name: value.clone() for name, value in state.items() if name not in ("frame", "next")}
        book._tracks = _unflat(Tracks, rows) if rows else None
        return book

    def _by_query(self, persons: Persons) -> bool:
        return self.config.appearance and persons.embeddings is not None

    def _moved_on(self) -> Tracks:
        tracks = self._tracks
        moved = kalman.predict(tracks.motion, self.config.motion)
        return replace(tracks, motion=moved, unseen=tracks.unseen + 1)

    # ------------------------------------------------------------------ who is who

    def _owners(self, tracks: Tracks | None, persons: Persons, queries: Tensor | None) -> Int[Tensor, " m"]:
        """Row of the track that each person continues, -1 for nobody's."""
        owners = torch.full((len(persons),), -1)
        if tracks is None or not len(tracks) or not len(persons):
            return owners
        config, strong = self.config, persons.scores >= self.config.birth_score
        free = torch.ones(len(tracks), dtype=torch.bool)

        def take(rows: Tensor, people: Tensor, pairs: Pairs) -> None:
            owners[people[pairs[1]]] = rows[pairs[0]]
            free[rows[pairs[0]]] = False

        def by_place(rows: Tensor, people: Tensor, least: float) -> None:
            if len(rows) and len(people):  # the usual frame ends before: everybody was known by the query
                alike = self._similarities(tracks, persons, rows, people)
                take(rows, people, match(1 - alike, 1 - least))

        if queries is not None:
            rows, people = _where(tracks.confirmed), _where(strong)
            known = tracks if len(rows) == len(tracks) else tracks[rows]
            cost = cosine_distances(known.gallery, known.stored.clamp(max=config.gallery), queries[people])
            far = kalman.distances(known.motion, persons.boxes[people], config.motion) > config.motion.gate
            take(rows, people, cascade(cost.masked_fill_(far, torch.inf), known.unseen, config.max_cosine))
        # one frame unseen: a query that does not fit says more than a place after a longer time
        recent = free if queries is None else free & (tracks.unseen == 1)
        by_place(_where(recent), _where(strong & (owners < 0)), config.min_similarity)
        by_place(_where(free & tracks.confirmed & (tracks.unseen == 1)), _where(~strong), config.weak_similarity)
        return owners

    def _similarities(self, tracks: Tracks, persons: Persons, rows: Tensor, people: Tensor) -> Float[Tensor, "n m"]:
        """IoU with the predicted boxes; where joints are known, the mean of it and OKS with the moved joints."""
        motion, boxes = tracks.motion[rows], persons.boxes[people]
        alike = box_similarities(motion.boxes, boxes)
        if tracks.joints is None or persons.keypoints is None or not persons.skeleton.sigmas:
            return alike
        moved = tracks.joints.places[rows] + (motion.place[:, :2] - tracks.seen_centers[rows])[:, None]
        joints, scores = persons.keypoints[people], persons.keypoint_scores
        counts = torch.ones(joints.shape[:2], dtype=torch.bool) if scores is None else scores[people] > 0
        sigmas = torch.tensor(persons.skeleton.sigmas)
        return (alike + pose_similarities(moved, joints, boxes, sigmas, counts)) / 2

    # ------------------------------------------------------------------ what becomes of the tracks

    def _continued(self, tracks: Tracks, persons: Persons, queries: Tensor | None, owners: Tensor) -> Tracks:
        """The tracks after this frame; those that end are left out, and `owners` then points into the rest."""
        people = _where(owners >= 0)
        rows = owners[people]
        boxes = persons.boxes[people]
        corrected = kalman.correct(tracks.motion[rows], boxes, self.config.motion)
        motion = Motion(
            tracks.motion.place.index_copy(0, rows, corrected.place),
            tracks.motion.speed.index_copy(0, rows, corrected.speed),
            tracks.motion.spread.index_copy(0, rows, corrected.spread),
        )
        unseen = tracks.unseen.index_fill(0, rows, 0)
        hits = tracks.hits.index_add(0, rows, torch.ones_like(rows))
        lost = unseen > 0
        tracks = replace(
            tracks,
            motion=kalman.without_growth(motion, lost),
            joints=self._joints_after(tracks, persons, people, rows),
            seen_centers=tracks.seen_centers.index_copy(0, rows, corrected.place[:, :2]),
            means=self._means_after(tracks.means, persons, people, rows),
            unseen=unseen,
            hits=hits,
            confirmed=tracks.confirmed | (hits >= self.config.confirm_hits),
        )
        if queries is not None:
            clean = self._alone(persons)[people] & (persons.scores[people] >= self.config.birth_score)
            self._remember(tracks, rows[clean], queries[people[clean]])
        stays = (unseen <= self.config.patience) & (tracks.confirmed | ~lost)
        if stays.all():
            return tracks
        owners[people] = (stays.cumsum(0) - 1)[rows]  # whoever was seen stays
        return tracks[_where(stays)]

    def _alone(self, persons: Persons) -> Bool[Tensor, " m"]:
        """Nobody else covers them much: the query speaks of one person."""
        overlap = box_similarities(persons.boxes, persons.boxes).fill_diagonal_(0.0)
        return (overlap <= self.config.clean_overlap).all(1)

    def _remember(self, tracks: Tracks, rows: Tensor, queries: Tensor) -> None:
        """In place: copying all galleries would cost more than everything else."""
        tracks.gallery[rows, tracks.stored[rows] % self.config.gallery] = queries
        tracks.stored[rows] += 1

    def _joints_after(self, tracks: Tracks, persons: Persons, people: Tensor, rows: Tensor) -> Joints | None:
        if tracks.joints is None or persons.keypoints is None:
            return tracks.joints
        now, before = rest(persons.keypoints[people]), tracks.joints
        if self.config.smooth is not None and self.config.smooth.joints:
            known = tracks.unseen[rows] == 1
            heights = persons.boxes[people, 3] - persons.boxes[people, 1]
            last = Joints(before.places[rows], before.speeds[rows])
            now = smooth(last, now.places, heights, known, self.config.smooth)
        return Joints(before.places.index_copy(0, rows, now.places), before.speeds.index_copy(0, rows, now.speeds))

    def _means_after(self, means: Means, persons: Persons, people: Tensor, rows: Tensor) -> Means:
        added = Means(torch.zeros_like(means.sums), torch.zeros_like(means.weights))
        scores = persons.scores[people]
        added.sums.index_copy_(0, rows, _attributes(persons)[people] * scores[:, None])
        added.weights.index_copy_(0, rows, scores)
        return Means(means.sums + added.sums, means.weights + added.weights)

    # ------------------------------------------------------------------ births

    def _with_births(
        self, tracks: Tracks | None, persons: Persons, queries: Tensor | None, owners: Tensor
    ) -> tuple[Tracks, Tensor]:
        fresh = (owners < 0) & (persons.scores >= self.config.birth_score)
        if fresh.any() and (owners >= 0).any():
            covered = box_similarities(persons.boxes, persons.boxes[owners >= 0]).amax(1)
            fresh &= covered <= self.config.birth_overlap
        people = _where(fresh)
        if tracks is not None and not len(people):
            return tracks, owners
        born = self._born(persons[people], None if queries is None else queries[people])
        count = 0 if tracks is None else len(tracks)
        owners = owners.clone()
        owners[people] = count + torch.arange(len(people))
        return (_joined(tracks, born) if count else born), owners

    def _born(self, persons: Persons, queries: Tensor | None) -> Tracks:
        n, config = len(persons), self.config
        ids = torch.arange(self._next, self._next + n)
        self._next += n
        place = kalman.start(persons.boxes, config.motion)
        width = 0 if queries is None else queries.shape[1]
        gallery = torch.zeros(n, config.gallery, width)
        if queries is not None:
            gallery[:, 0] = queries
        sure = config.confirm_hits == 1 or self.frame == 1
        return Tracks(
            ids=ids,
            motion=place,
            unseen=torch.zeros(n, dtype=torch.long),
            hits=torch.ones(n, dtype=torch.long),
            confirmed=torch.full((n,), sure),
            gallery=gallery,
            stored=torch.full((n,), int(queries is not None)),
            joints=None if persons.keypoints is None else rest(persons.keypoints),
            seen_centers=place.place[:, :2],
            means=Means(_attributes(persons) * persons.scores[:, None], persons.scores),
        )

    # ------------------------------------------------------------------ the answer

    def _answer(self, persons: Persons, owners: Tensor) -> Persons:
        tracks = self._tracks
        known = owners >= 0
        shown = known.clone()
        shown[known] = tracks.confirmed[owners[known]]
        rows = owners[shown]
        persons = (persons if shown.all() else persons[shown]).replace(track_ids=tracks.ids[rows])
        if self.config.smooth is None:
            return persons
        changes = {}
        if self.config.smooth.joints and persons.keypoints is not None:
            changes["keypoints"] = tracks.joints.places[rows]
        if self.config.smooth.attributes:
            gender, age = tracks.means.values[rows].unbind(1)
            changes |= {"gender": gender} if persons.gender is not None else {}
            changes |= {"age": age} if persons.age is not None else {}
        return persons.replace(**changes)


def _attributes(persons: Persons) -> Float[Tensor, "n 2"]:
    """Gender and age; 0 where the model gives none."""
    nothing = torch.zeros(len(persons))
    return torch.stack([nothing if v is None else v.float() for v in (persons.gender, persons.age)], 1)


def _where(mask: Bool[Tensor, " n"]) -> Int[Tensor, " k"]:
    return mask.nonzero()[:, 0]


def _rows(value, rows: Tensor):
    if value is None or isinstance(value, Tensor):
        return None if value is None else value[rows]
    return type(value)(**{f.name: getattr(value, f.name)[rows] for f in fields(value)})


def _flat(value, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of nested rows by dotted name."""
    found: dict[str, Tensor] = {}
    for f in fields(value):
        inner = getattr(value, f.name)
        if isinstance(inner, Tensor):
            found[prefix + f.name] = inner
        elif inner is not None:
            found |= _flat(inner, f"{prefix}{f.name}.")
    return found


def _unflat(kind: type, rows: dict[str, Tensor]):
    """The reverse of `_flat`; parts without any tensor are None."""
    nested = {"motion": Motion, "joints": Joints, "means": Means}
    values = {}
    for f in fields(kind):
        inner = {n.removeprefix(f"{f.name}."): t for n, t in rows.items() if n.startswith(f"{f.name}.")}
        values[f.name] = _unflat(nested[f.name], inner) if inner else rows.get(f.name)
    return kind(**values)


def _joined(first: Tracks, second: Tracks) -> Tracks:
    """The rows of both."""
    return Tracks(**{f.name: _cat(getattr(first, f.name), getattr(second, f.name)) for f in fields(Tracks)})


def _cat(a, b):
    if a is None or isinstance(a, Tensor):
        return None if a is None else torch.cat([a, b])
    return type(a)(**{f.name: torch.cat([getattr(a, f.name), getattr(b, f.name)]) for f in fields(a)})
