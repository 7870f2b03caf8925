"""One pose per person out of many: the parametric pose NMS of AlphaPose, and NMS by OKS with its soft variant.

AlphaPose (Fang et al., TPAMI 2022), section 3.4. Its eq. 16 eliminates poses whose `d` is at most eta, although
`d` (eq. 19) grows with similarity; here, as in the release, poses more similar than the threshold go.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from humanquery.core.arrays import Tensor, as_house, as_numpy
from humanquery.core.errors import ConfigError, nearest
from humanquery.core.skeleton import Skeleton

MATCH_CAP = 7.0
"""px: two joints further apart than this never match"""
MERGE_CAP = 15.0
"""px: a joint further from the best pose's is not averaged into it"""
TINY_SCORE = 1e-5
"""stands for a joint score of 0"""


@dataclass(frozen=True)
class PoseNMSConfig:
    """The elimination criterion; the numbers are those released for bodies (heat maps).

    The paper's own form is `PAPER`, the numbers released for whole bodies that were learned by regression
    `WHOLE_BODY` (together with `JointWeights.whole_body`).
    """

    score_scale: float = 1.0
    """sigma_1 of eq. 17: joint scores are compared as tanh(score / score_scale)"""
    distance_scale: float = 2.65
    """sigma_2 of eq. 18, px (px² with `squared`)"""
    location_weight: float = 1.7
    """lambda of eq. 19"""
    similarity: float = 22.48
    """eta of eq. 16: more similar poses are one person"""
    matches: float | None = 5.0
    """so many joints within reach make two poses one person; None: no such rule (the paper has none)"""
    reach: float = 0.1
    """of the box's longer side: how far apart joints match and are merged, cut at `MATCH_CAP` and `MERGE_CAP`"""
    lowest_score: float = 0.3
    """a person's best joint must have at least this score"""
    squared: bool = False
    """eq. 18 as printed, with squared distances; the release takes plain ones"""
    window: float | None = None
    """scores count (eq. 17) within a window of so much of the box's sides; None: within 1 px, as released"""
    merge: bool = True
    """the joints of a person are the score-weighted mean over its poses, as released; else those of its best pose"""
    min_area: float = 0.0
    """px²: people smaller than this are dropped (2.25 times the extent of the joints)"""

    def __post_init__(self):
        for name in ("score_scale", "distance_scale"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"PoseNMSConfig: {name}: got {getattr(self, name)}, expected more than 0"
                )


PAPER = PoseNMSConfig(matches=None, squared=True, window=0.1, merge=False)
WHOLE_BODY = PoseNMSConfig(
    distance_scale=8.0,
    location_weight=1.65,
    similarity=3.6,
    matches=3.0,
    reach=0.15,
    lowest_score=0.01,
)


@dataclass(frozen=True, eq=False)
class JointWeights:
    """How much each of k joints counts in the similarity of two poses."""

    scores: Float[np.ndarray, " k"]
    distances: Float[np.ndarray, " k"]
    reach: Float[np.ndarray, " k"]
    """factor of `PoseNMSConfig.distance_scale` and of the reach"""
    by_share: bool = False
    """joints match by their share of the confident ones, and joints with a low score have no place"""
    released_mask: bool = True
    """as released, scores are compared only where the candidate's joint has a low one (a missing negation there)"""
    count_alive: bool = False
    """as released, the share is also divided by the number of poses left, so that crowds keep their duplicates"""

    @staticmethod
    def even(num_joints: int) -> "JointWeights":
        """Every joint alike: eq. 17 and 18."""
        ones = np.ones(num_joints, np.float32)
        return JointWeights(ones, ones, ones)

    @staticmethod
    def whole_body(
        skeleton: Skeleton, *, released_mask: bool = True, count_alive: bool = False
    ) -> "JointWeights":
        """Means over body with feet, face, and hands, weighted as released; the groups are the skeleton's parts.

        A skeleton without face or hands raises ConfigError.
        """
        parts = skeleton.parts
        missing = [name for name in ("face", "lefthand", "righthand") if name not in parts]
        if missing:
            raise ConfigError(
                f"JointWeights.whole_body: skeleton {skeleton.name!r} has no part {missing[0]!r}; "
                "use JointWeights.even for bodies"
            )
        face = np.zeros(len(skeleton), bool)
        face[slice(*parts["face"])] = True
        hands = np.zeros_like(face)
        for name in ("lefthand", "righthand"):
            hands[slice(*parts[name])] = True
        body = ~(face | hands)

        def per_group(of_body: float, of_face: float, of_hands: float, mean: bool) -> np.ndarray:
            values = np.zeros(len(skeleton), np.float32)
            for group, value in ((body, of_body), (face, of_face), (hands, of_hands)):
                values[group] = value / (group.sum() if mean else 1)
            return values

        return JointWeights(
            scores=per_group(1.0, 1.0, 0.1, True),
            distances=per_group(1.0, 1.0, 1.5, True),
            reach=per_group(1.0, 1.9, 0.55, False),
            by_share=True,
            released_mask=released_mask,
            count_alive=count_alive,
        )


@dataclass(frozen=True, eq=False)
class PoseClusters:
    """The people that are left, best first."""

    kept: Int[Tensor, " m"]
    """row of each person's best pose among those that came in; its box is the person's"""
    keypoints: Float[Tensor, "m k 2"]
    scores: Float[Tensor, "m k"]
    members: tuple[tuple[int, ...], ...]
    """rows of all poses of each person, the best one first"""

    def __len__(self) -> int:
        return len(self.members)


def instance_scores(
    joint_scores: Float[Tensor, "n k"], box_scores: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """What AlphaPose's result files rank people by: mean of the joints' scores + box score + 1.25 times the best joint.

    Not a probability: it reaches 3.25.
    """
    return joint_scores.mean(-1) + box_scores + 1.25 * joint_scores.amax(-1)


def pose_nms(
    keypoints: Float[Tensor, "n k 2"],
    scores: Float[Tensor, "n k"],
    boxes: Float[Tensor, "n 4"],
    config: PoseNMSConfig | None = None,
    joints: JointWeights | None = None,
) -> PoseClusters:
    """Poses of one picture, px, grouped into people; the best pose (by mean joint score) takes those like it.

    `boxes` are the detector's, xyxy px; `joints` defaults to `JointWeights.even`. Coordinates or scores that are not
    finite raise ValueError.
    """
    config = config or PoseNMSConfig()
    places, values, sides = _checked(keypoints, scores, boxes)
    joints = joints or JointWeights.even(places.shape[1])
    values = np.where(values == 0, np.float32(TINY_SCORE), values)
    order = np.argsort(-values.mean(1), kind="stable") if len(values) else np.zeros(0, np.int64)
    ranked = _Poses(places[order], values[order], sides[order], config, joints)
    groups = [group for group in ranked.groups() if ranked.scores[group[0]].max() >= config.lowest_score]
    merged_places, merged_scores = ranked.merged(groups)
    extent = np.ptp(merged_places, axis=1) if len(groups) else np.zeros((0, 2))
    shown = (merged_scores.max(1, initial=0) >= config.lowest_score) & (
        2.25 * extent.prod(1) >= config.min_area
    )
    groups = [group for group, keep in zip(groups, shown, strict=True) if keep]
    return PoseClusters(
        kept=as_house(order[[group[0] for group in groups]].astype(np.int64)),
        keypoints=as_house(merged_places[shown]),
        scores=as_house(merged_scores[shown]),
        members=tuple(tuple(order[group].tolist()) for group in groups),
    )


def _checked(keypoints, scores, boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    places, values, corners = (as_numpy(v).astype(np.float32) for v in (keypoints, scores, boxes))
    for name, numbers in (("keypoints", places), ("scores", values), ("boxes", corners)):
        wrong = ~np.isfinite(numbers.reshape(len(numbers), -1)).all(1)
        if wrong.any():
            raise ValueError(
                f"pose_nms: {name} of pose {int(np.argmax(wrong))} hold NaN or infinity; leave such poses out"
            )
    return places, values, corners[:, 2:] - corners[:, :2]


@dataclass(frozen=True, eq=False)
class _Poses:
    """Poses by falling score."""

    places: Float[np.ndarray, "n k 2"]
    scores: Float[np.ndarray, "n k"]
    sides: Float[np.ndarray, "n 2"]
    config: PoseNMSConfig
    joints: JointWeights

    def groups(self) -> list[list[int]]:
        """Rows of each person, the best pose first."""
        first, later = self._near_pairs()
        similar, matches = self._compare(first, later)
        start = np.searchsorted(first, np.arange(len(self.places) + 1)).tolist()
        # plain numbers: the loop below sees each pair at most once and is faster than arrays of this size
        later, similar, matches = later.tolist(), similar.tolist(), matches.tolist()
        limit = float("inf") if self.config.matches is None else self.config.matches
        alive, left, found = [True] * len(self.places), len(self.places), []
        for i in range(len(self.places)):
            if not alive[i]:
                continue
            least = limit * left if self.joints.count_alive else limit
            group = [i]
            for pair in range(start[i], start[i + 1]):
                if alive[later[pair]] and (similar[pair] or matches[pair] >= least):
                    group.append(later[pair])
            for member in group:
                alive[member] = False
            left -= len(group)
            found.append(group)
        return found

    def _near_pairs(self) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
        """Every two poses that can be one person at all: their extents come within `_furthest` px of each other."""
        if not len(self.places):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        far = self._furthest()
        low, high = self.places.min(1) - far, self.places.max(1)
        meet = (low[:, None] <= high[None]).all(-1)
        return np.nonzero(np.triu(meet & meet.T, 1))

    def _furthest(self) -> float:
        """px. If all joints of two poses are further apart, the poses are neither similar enough nor do any match."""
        c, reach = self.config, float(self.joints.reach.max())
        window = 1.0 if c.window is None else float(self.sides.max()) * c.window
        most = c.location_weight * float(self.joints.distances.sum()) / max(c.similarity, 1e-9)
        alike = c.distance_scale * reach * max(float(np.log(max(most, 1.0))), 0.0)
        return max(window, alike**0.5 if c.squared else alike, MATCH_CAP * reach)

    def _compare(self, first, later) -> tuple[Bool[np.ndarray, " p"], Float[np.ndarray, " p"]]:
        """Whether the second pose of each pair is similar enough to the first to go, and how many joints match."""
        c, joints = self.config, self.joints
        apart = self.places[first] - self.places[later]
        distance = np.einsum("pkd,pkd->pk", apart, apart)
        plain = np.sqrt(distance)
        inside = plain <= 1.0
        if c.window is not None:
            inside = (np.abs(apart) <= self.sides[first, None] * (c.window / 2)).all(-1)
        tanh = np.tanh(self.scores / np.float32(c.score_scale))
        agree = np.where(inside, tanh[first] * tanh[later], np.float32(0))  # eq. 17
        near = np.exp((distance if c.squared else plain) / (-c.distance_scale * joints.reach))  # eq. 18
        if joints.by_share:
            low = self.scores[later] < c.lowest_score
            agree = np.where(low if joints.released_mask else ~low, agree, np.float32(0))
            near = np.where(low, np.float32(0), near)
        similarity = agree @ joints.scores + c.location_weight * (near @ joints.distances)  # eq. 19
        within = np.minimum(self._reach(), MATCH_CAP)[first]
        matches = (plain <= within[:, None] * joints.reach).sum(1).astype(np.float32)
        if joints.by_share:
            confident = (self.scores > c.lowest_score / 2).sum(1)[first]
            matches = np.where(confident > 0, matches * plain.shape[1] / (4 * np.maximum(confident, 1)), 0)
        return similarity > c.similarity, matches

    def _reach(self) -> Float[np.ndarray, " n"]:
        return self.config.reach * self.sides.max(1, initial=0)

    def merged(self, groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Joints and their scores: over the poses near the best one, positions weighted by score, score sum s²/sum s."""
        best = np.array([group[0] for group in groups], np.int64)
        if not self.config.merge or not groups:
            return self.places[best], self.scores[best]
        sizes = [len(group) for group in groups]
        leader = np.repeat(best, sizes)
        member = np.concatenate(groups)
        apart = self.places[member] - self.places[leader]
        within = np.minimum(self._reach(), MERGE_CAP)[leader]
        near = np.einsum("pkd,pkd->pk", apart, apart) <= within[:, None] ** 2
        near |= (member == leader)[:, None]
        weight = np.where(near, self.scores[member], np.float32(0))
        starts = np.cumsum([0, *sizes[:-1]])
        total = np.add.reduceat(weight, starts)
        offset = np.add.reduceat(weight[..., None] * apart, starts) / total[..., None]
        return self.places[best] + offset, np.add.reduceat(weight**2, starts) / total


def oks_nms(
    keypoints: Float[Tensor, "n k 2"],
    scores: Float[Tensor, " n"],
    areas: Float[Tensor, " n"],
    sigmas: Float[Tensor, " k"],
    threshold: float = 0.9,
) -> Int[Tensor, " m"]:
    """Rows of the poses that no better one covers with an OKS above `threshold`, best first.

    All joints count, and the scale of a pair is the mean of both `areas` (px²; the release takes those of the crops).
    """
    order = np.argsort(-as_numpy(scores), kind="stable")
    poses = _Scaled.of(keypoints, areas, sigmas, order)
    first, later = np.nonzero(np.triu(np.ones((len(order), len(order)), bool), 1))
    # poses fail on a few joints: those that must be far on more than (1 - threshold) k of them are sorted out early
    k = poses.places.shape[1]
    some = np.linspace(0, k - 1, min(k, int(2 * max(1 - threshold, 0) * k) + 4)).astype(np.int64)
    lost = (1 - poses.similarity(first, later, some)).sum(1)
    open_ = lost <= (1 - threshold) * k + 1e-3
    first, later = first[open_], later[open_]
    covered = poses.similarity(first, later).mean(1) > threshold
    alive = [True] * len(order)
    for i, j in zip(first[covered].tolist(), later[covered].tolist(), strict=True):
        if alive[i]:  # pairs come by falling score of their first pose, so its fate is known
            alive[j] = False
    return as_house(order[np.array(alive, bool)].astype(np.int64))


def soft_oks_nms(
    keypoints: Float[Tensor, "n k 2"],
    scores: Float[Tensor, " n"],
    areas: Float[Tensor, " n"],
    sigmas: Float[Tensor, " k"],
    threshold: float = 0.9,
    most: int = 20,
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Rows of at most `most` poses and their lowered scores, best first.

    Each pose taken multiplies the scores of those left by exp(-OKS² / threshold) (soft NMS with a Gaussian, Bodla et
    al. 2017).
    """
    left = as_numpy(scores).astype(np.float32).copy()
    poses = _Scaled.of(keypoints, areas, sigmas, np.arange(len(left)))
    kept, values = [], []
    rows = np.arange(len(left))
    while len(rows) and len(kept) < most:
        at = int(np.argmax(left[rows]))
        best = rows[at]
        kept.append(int(best))
        values.append(float(left[best]))
        rows = np.delete(rows, at)
        overlap = poses.similarity(np.full(len(rows), best), rows).mean(1)
        left[rows] *= np.exp(-(overlap**2) / threshold)
    return as_house(np.array(kept, np.int64)), as_house(np.array(values, np.float32))


@dataclass(frozen=True, eq=False)
class _Scaled:
    places: Float[np.ndarray, "n k 2"]
    areas: Float[np.ndarray, " n"]
    variances: Float[np.ndarray, " k"]

    @staticmethod
    def of(keypoints: Tensor, areas: Tensor, sigmas: Tensor, order: np.ndarray) -> "_Scaled":
        places, areas = (as_numpy(v).astype(np.float32)[order] for v in (keypoints, areas))
        return _Scaled(places, areas, (2 * as_numpy(sigmas).astype(np.float32)) ** 2)

    def similarity(self, first, later, some=slice(None)) -> Float[np.ndarray, "p j"]:
        """What each joint (of `some`) adds to the OKS of each pair, times the number of joints."""
        places = self.places[:, some]
        apart = places[first] - places[later]
        area = (self.areas[first] + self.areas[later]) / 2 + np.float32(1e-12)
        squared = np.einsum("pkd,pkd->pk", apart, apart)
        return np.exp(squared / (-2 * area[:, None] * self.variances[some]))


FITTED_PAIRS = (("score_scale", "distance_scale"), ("location_weight", "similarity"))
"""the four parameters of eq. 16 to 19, searched two at a time"""


@dataclass(frozen=True)
class PoseNMSFit:
    config: PoseNMSConfig
    value: float
    """what `evaluate` gave for `config`"""
    rounds: int
    tried: tuple[tuple[PoseNMSConfig, float], ...]
    """everything that was evaluated, in order"""


def fit_pose_nms(
    evaluate: Callable[[PoseNMSConfig], float],
    start: PoseNMSConfig | None = None,
    factors: Sequence[float] = (0.5, 0.7, 1.0, 1.4, 2.0),
    pairs: Sequence[Sequence[str]] = FITTED_PAIRS,
    max_rounds: int = 10,
) -> PoseNMSFit:
    """The criterion with the highest `evaluate` (e.g. AP on a validation set), by the paper's alternating search.

    Each round searches one pair of parameters after the other on a grid around their values (times `factors`), the
    others fixed, until a round improves nothing; of equal values the earlier stays. Each criterion is evaluated once.
    """
    best = start or PoseNMSConfig()
    names = set(PoseNMSConfig.__dataclass_fields__)
    for name in itertools.chain(*pairs):
        if name not in names or not isinstance(getattr(best, name), float):
            raise ConfigError(f"fit_pose_nms: {name!r} is no number of PoseNMSConfig.{nearest(name, names)}")
    tried: dict[PoseNMSConfig, float] = {best: evaluate(best)}
    for done in range(1, max_rounds + 1):
        before = best
        for pair in pairs:
            for candidate in _grid(best, {name: factors for name in pair}):
                if candidate not in tried:
                    tried[candidate] = evaluate(candidate)
                if tried[candidate] > tried[best]:
                    best = candidate
        if best == before:
            break
    return PoseNMSFit(best, tried[best], done, tuple(tried.items()))


def _grid(around: PoseNMSConfig, factors: Mapping[str, Sequence[float]]) -> list[PoseNMSConfig]:
    choices = [[getattr(around, name) * factor for factor in values] for name, values in factors.items()]
    return [replace(around, **dict(zip(factors, values, strict=True))) for values in itertools.product(*choices)]
