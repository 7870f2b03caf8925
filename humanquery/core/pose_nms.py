"""One pose per person out of many: the parametric pose NMS of AlphaPose, and NMS by OKS with its
soft variant.

AlphaPose (Fang et al., TPAMI 2022), section 3.4. Its eq. 16 eliminates poses whose `d` is at most
eta, although
`d` (eq. 19) grows with similarity; here, as in the release, poses more similar than the threshold
go.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.errors import ConfigError, nearest
from humanquery.core.persons import Persons
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

    The paper's own form is `PAPER`, the numbers released for whole bodies that were learned by
    regression
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
    """so many joints within reach make two poses one person; None: no such rule (the paper has
    none)"""
    reach: float = 0.1
    """of the box's longer side: how far apart joints match and are merged, cut at `MATCH_CAP` and
    `MERGE_CAP`"""
    lowest_score: float = 0.3
    """a person's best joint must have at least this score"""
    squared: bool = False
    """eq. 18 as printed, with squared distances; the release takes plain ones"""
    window: float | None = None
    """scores count (eq. 17) within a window of so much of the box's sides; None: within 1 px, as
    released"""
    merge: bool = True
    """the joints of a person are the score-weighted mean over its poses, as released; else those of
    its best pose"""
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
    """joints match by their share of the confident ones, and joints with a low score have no
    place"""
    released_mask: bool = True
    """as released, scores are compared only where the candidate's joint has a low one (a missing
    negation there)"""
    count_alive: bool = False
    """as released, the share is also divided by the number of poses left, so that crowds keep their
    duplicates"""

    @staticmethod
    def even(num_joints: int) -> "JointWeights":
        """Every joint alike: eq. 17 and 18."""
        ones = np.ones(num_joints, np.float32)
        return JointWeights(ones, ones, ones)

    @staticmethod
    def whole_body(
        skeleton: Skeleton, *, released_mask: bool = True, count_alive: bool = False
    ) -> "JointWeights":
        """Means over body with feet, face, and hands, weighted as released; the groups are the
        skeleton's parts.

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

    def people(self, poses: Persons) -> Persons:
        """Those whom `poses`, which were grouped, come to: the best pose's fields with the merged
        joints, on the device of `poses`."""
        device = poses.boxes.device
        return poses[self.kept.to(device)].replace(
            keypoints=self.keypoints.to(device), keypoint_scores=self.scores.to(device)
        )


def instance_scores(
    joint_scores: Float[Tensor, "n k"], box_scores: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """What AlphaPose's result files rank people by: mean of the joints' scores + box score + 1.25
    times the best joint.

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
    """Poses of one picture, px, grouped into people; the best pose (by mean joint score) takes
    those like it.

    `boxes` are the detector's, xyxy px; `joints` defaults to `JointWeights.even`. Coordinates or
    scores that are not
    finite raise ValueError.
    """
    config = config or PoseNMSConfig()
    places, values, sides = _checked(keypoints, scores, boxes)
    joints = joints or JointWeights.even(places.shape[1])
    values = np.where(values == 0, np.float32(TINY_SCORE), values)
    order = np.argsort(-values.mean(1), kind="stable") if len(values) else np.zeros(0, np.int64)
    xs, ys = (np.ascontiguousarray(places[order, :, axis]) for axis in (0, 1))
    ranked = _Poses(xs, ys, values[order], sides[order], config, joints)
    groups = ranked.groups()
    highest = ranked.scores.max(1, initial=0)
    groups = [group for group in groups if highest[group[0]] >= config.lowest_score]
    xs, ys, merged = ranked.merged(groups)
    shown = merged.max(1, initial=0) >= config.lowest_score
    if config.min_area > 0:
        shown &= 2.25 * np.ptp(xs, axis=1) * np.ptp(ys, axis=1) >= config.min_area
    groups = [group for group, keep in zip(groups, shown, strict=True) if keep]
    return PoseClusters(
        kept=torch.from_numpy(order[[group[0] for group in groups]].astype(np.int64)),
        keypoints=torch.from_numpy(np.stack([xs[shown], ys[shown]], -1)),
        scores=torch.from_numpy(merged[shown]),
        members=tuple(tuple(order[group].tolist()) for group in groups),
    )


def _checked(keypoints, scores, boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    places, values, corners = (_numpy(v).astype(np.float32) for v in (keypoints, scores, boxes))
    for name, numbers in (("keypoints", places), ("scores", values), ("boxes", corners)):
        wrong = ~np.isfinite(numbers).all(tuple(range(1, numbers.ndim)))
        if wrong.any():
            raise ValueError(
                f"pose_nms: {name} of pose {int(np.argmax(wrong))} hold NaN or infinity; "
                "leave such poses out"
            )
    return places, values, corners[:, 2:] - corners[:, :2]


Pairs = tuple[
    Int[np.ndarray, " p"], Int[np.ndarray, " p"], Bool[np.ndarray, " p"], Float[np.ndarray, " p"]
]
"""the better and the worse pose of each pair, whether they are similar, how many joints match"""


def _greedy(
    count: int,
    compare: Callable[[np.ndarray, np.ndarray], Pairs],
    limit: float | int = float("inf"),
    by_alive: bool = False,
) -> list[list[int]]:
    """Rows of each person, its best pose first; poses come by falling score.

    `compare` may leave out pairs that are different people. A pose goes with a better one that is
    similar or has `limit` matches (`by_alive`: times the number of poses that are left).
    """
    alive, groups, at, block = np.ones(count, bool), [], 0, 4
    while at < count:
        # a few picks at first: duplicates of the best poses are gone before they are compared
        picks = np.flatnonzero(alive[at : at + block]) + at
        rest = np.flatnonzero(alive[at:]) + at
        one, other = np.nonzero(picks[:, None] < rest)
        first, later, similar, matches = compare(picks[one], rest[other])
        start = np.searchsorted(first, [*picks.tolist(), count]).tolist()
        later, similar, matches = later.tolist(), similar.tolist(), matches.tolist()
        for i, begin, end in zip(picks.tolist(), start, start[1:], strict=False):
            if not alive[i]:
                continue
            least = limit * int(alive.sum()) if by_alive else limit
            group = [i]
            for pair in range(begin, end):
                if alive[later[pair]] and (similar[pair] or matches[pair] >= least):
                    group.append(later[pair])
            alive[group] = False
            groups.append(group)
        at, block = at + block, block * 2
    return groups


def _squared(xs: np.ndarray, ys: np.ndarray, first: np.ndarray, later: np.ndarray) -> np.ndarray:
    """px² between the joints of each pair; one axis at a time is five times as fast as pairs of
    numbers."""
    dx, dy = xs.take(first, 0), ys.take(first, 0)
    dx -= xs.take(later, 0)
    dy -= ys.take(later, 0)
    dx *= dx
    dy *= dy
    dx += dy
    return dx


@dataclass(frozen=True, eq=False)
class _Poses:
    """Poses by falling score."""

    xs: Float[np.ndarray, "n k"]
    ys: Float[np.ndarray, "n k"]
    scores: Float[np.ndarray, "n k"]
    sides: Float[np.ndarray, "n 2"]
    config: PoseNMSConfig
    joints: JointWeights

    def groups(self) -> list[list[int]]:
        if not len(self.xs):
            return []
        far = self._furthest()
        x1, x2, y1, y2 = (
            self.xs.min(1) - far,
            self.xs.max(1),
            self.ys.min(1) - far,
            self.ys.max(1),
        )
        c, weights = self.config, self.joints
        low = self.scores < c.lowest_score
        tanh = np.tanh(self.scores / np.float32(c.score_scale))
        agrees, places = tanh * weights.scores, np.broadcast_to(weights.distances, tanh.shape)
        if weights.by_share:
            agrees = np.where(low if weights.released_mask else ~low, agrees, np.float32(0))
            places = np.where(low, np.float32(0), places)

        def compare(first: np.ndarray, later: np.ndarray) -> Pairs:
            meet = (x1[first] <= x2[later]) & (x1[later] <= x2[first])
            meet &= (y1[first] <= y2[later]) & (y1[later] <= y2[first])
            first, later = first[meet], later[meet]
            squared = _squared(self.xs, self.ys, first, later)
            close = squared.min(1) <= far * far
            first, later, squared = first[close], later[close], squared[close]
            similarity = self._score_term(first, later, squared, tanh, agrees)  # eq. 19
            similarity += c.location_weight * self._place_term(squared, places[later])
            return first, later, similarity > c.similarity, self._matches(first, squared)

        limit = float("inf") if c.matches is None else c.matches
        return _greedy(len(self.xs), compare, limit, weights.count_alive)

    def _furthest(self) -> float:
        """px. If all joints of two poses are further apart, the poses are neither similar enough
        nor do any match."""
        c, reach = self.config, float(self.joints.reach.max())
        window = 1.0 if c.window is None else float(self.sides.max()) * c.window
        most = c.location_weight * float(self.joints.distances.sum()) / max(c.similarity, 1e-9)
        alike = c.distance_scale * reach * max(float(np.log(max(most, 1.0))), 0.0)
        return max(window, alike**0.5 if c.squared else alike, MATCH_CAP * reach)

    def _score_term(self, first, later, squared, tanh, agrees) -> Float[np.ndarray, " p"]:
        """Eq. 17."""
        window = self.config.window
        if window is None:
            inside = squared <= 1.0
        else:
            reach = self.sides[first] * (window / 2)
            inside = np.abs(self.xs[first] - self.xs[later]) <= reach[:, :1]
            inside &= np.abs(self.ys[first] - self.ys[later]) <= reach[:, 1:]
        pair, joint = np.nonzero(inside)  # few joints are that close
        terms = tanh[first[pair], joint] * agrees[later[pair], joint]
        # bincount of nothing counts in whole numbers
        return np.bincount(pair, terms, len(first)).astype(np.float32)

    def _place_term(self, squared, weights) -> Float[np.ndarray, " p"]:
        """Eq. 18; in the release with plain distances."""
        distance = squared if self.config.squared else np.sqrt(squared)
        scale = -1 / (self.config.distance_scale * self.joints.reach)
        return np.einsum("pk,pk->p", np.exp(distance * scale.astype(np.float32)), weights)

    def _matches(self, first, squared) -> Float[np.ndarray, " p"]:
        if self.config.matches is None:
            return np.zeros(len(first), np.float32)
        within = np.minimum(self._reach(), MATCH_CAP).astype(np.float32)[first]
        limits = within[:, None] ** 2 * self.joints.reach**2
        matches = np.count_nonzero(squared <= limits, axis=1).astype(np.float32)
        if not self.joints.by_share:
            return matches
        confident = np.count_nonzero(self.scores > self.config.lowest_score / 2, axis=1)[first]
        share = matches * squared.shape[1] / (4 * np.maximum(confident, 1))
        return np.where(confident > 0, share, 0)

    def _reach(self) -> Float[np.ndarray, " n"]:
        return self.config.reach * self.sides.max(1, initial=0)

    def merged(self, groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and scores of each person's joints: over the poses near the best one, positions
        weighted by score, score sum s² / sum s."""
        best = np.array([group[0] for group in groups], np.int64)
        xs, ys, scores = self.xs[best], self.ys[best], self.scores[best]
        several = np.array([i for i, group in enumerate(groups) if len(group) > 1], np.int64)
        if not self.config.merge or not len(several):
            return xs, ys, scores
        sizes = [len(groups[i]) for i in several]
        leader = np.repeat(best[several], sizes)
        member = np.concatenate([groups[i] for i in several])
        within = np.minimum(self._reach(), MERGE_CAP).astype(np.float32)[leader]
        near = _squared(self.xs, self.ys, leader, member) <= within[:, None] ** 2
        near |= (member == leader)[:, None]
        weight = np.where(near, self.scores[member], np.float32(0))
        # relative to the best pose: sums of whole coordinates would lose a hundredth of a px
        dx, dy = self.xs[member] - self.xs[leader], self.ys[member] - self.ys[leader]
        starts = np.cumsum([0, *sizes[:-1]])
        total, across, down, squares = (
            np.add.reduceat(v, starts) for v in (weight, weight * dx, weight * dy, weight**2)
        )
        xs[several] += across / total
        ys[several] += down / total
        scores[several] = squares / total
        return xs, ys, scores


def oks_nms(
    keypoints: Float[Tensor, "n k 2"],
    scores: Float[Tensor, " n"],
    areas: Float[Tensor, " n"],
    sigmas: Float[Tensor, " k"],
    threshold: float = 0.9,
) -> Int[Tensor, " m"]:
    """Rows of the poses that no better one covers with an OKS above `threshold`, best first.

    All joints count, and the scale of a pair is the mean of both `areas` (px²; the release takes
    those of the crops).
    """
    order = np.argsort(-_numpy(scores), kind="stable")
    poses = _Scaled.of(keypoints, areas, sigmas, order)
    k = poses.xs.shape[1]
    # a pose with more than (1 - threshold) k / 0.95 joints that each add less than 0.05 is no
    # duplicate: a few joints tell, without an exponential
    enough = min(int(max(1 - threshold, 0) * k / 0.95) + 1, k)
    some = np.linspace(0, k - 1, min(enough + 2, k)).astype(np.int64)
    coarse = _Scaled(poses.xs[:, some], poses.ys[:, some], poses.areas, poses.variances[some])

    def compare(first: np.ndarray, later: np.ndarray) -> Pairs:
        open_ = (coarse.exponents(first, later) > 3.0).sum(1) < enough + (enough == k)
        first, later = first[open_], later[open_]
        covered = np.exp(-poses.exponents(first, later)).mean(1) > threshold
        return first, later, covered, np.zeros(len(first), np.float32)

    heads = [group[0] for group in _greedy(len(order), compare)]
    return torch.from_numpy(order[np.array(heads, np.int64)].astype(np.int64))


def soft_oks_nms(
    keypoints: Float[Tensor, "n k 2"],
    scores: Float[Tensor, " n"],
    areas: Float[Tensor, " n"],
    sigmas: Float[Tensor, " k"],
    threshold: float = 0.9,
    most: int = 20,
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Rows of at most `most` poses and their lowered scores, best first.

    Each pose taken multiplies the scores of those left by exp(-OKS² / threshold) (soft NMS with a
    Gaussian, Bodla et
    al. 2017).
    """
    left = _numpy(scores).astype(np.float32).copy()
    poses = _Scaled.of(keypoints, areas, sigmas, np.arange(len(left)))
    kept, values = [], []
    rows = np.arange(len(left))
    while len(rows) and len(kept) < most:
        at = int(np.argmax(left[rows]))
        best = rows[at]
        kept.append(int(best))
        values.append(float(left[best]))
        rows = np.delete(rows, at)
        overlap = np.exp(-poses.exponents(np.full(len(rows), best), rows)).mean(1)
        left[rows] *= np.exp(-(overlap**2) / threshold)
    return torch.from_numpy(np.array(kept, np.int64)), torch.from_numpy(
        np.array(values, np.float32)
    )


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


@dataclass(frozen=True, eq=False)
class _Scaled:
    xs: Float[np.ndarray, "n k"]
    ys: Float[np.ndarray, "n k"]
    areas: Float[np.ndarray, " n"]
    variances: Float[np.ndarray, " k"]

    @staticmethod
    def of(keypoints: Tensor, areas: Tensor, sigmas: Tensor, order: np.ndarray) -> "_Scaled":
        places, areas = (_numpy(v).astype(np.float32)[order] for v in (keypoints, areas))
        xs, ys = (np.ascontiguousarray(places[..., axis]) for axis in (0, 1))
        return _Scaled(xs, ys, areas, (2 * _numpy(sigmas).astype(np.float32)) ** 2)

    def exponents(self, first, later) -> Float[np.ndarray, "p k"]:
        """d² / (2 area (2 sigma)²) of the joints of each pair."""
        squared = _squared(self.xs, self.ys, first, later)
        area = self.areas[first] + self.areas[later] + np.float32(1e-12)
        squared *= (1 / area)[:, None]
        squared *= 1 / self.variances
        return squared


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
    """The criterion with the highest `evaluate` (e.g. AP on a validation set), by the paper's
    alternating search.

    Each round searches one pair of parameters after the other on a grid around their values (times
    `factors`), the
    others fixed, until a round improves nothing; of equal values the earlier stays. Each criterion
    is evaluated once.
    """
    best = start or PoseNMSConfig()
    names = set(PoseNMSConfig.__dataclass_fields__)
    for name in itertools.chain(*pairs):
        if name not in names or not isinstance(getattr(best, name), float):
            raise ConfigError(
                f"fit_pose_nms: {name!r} is no number of PoseNMSConfig.{nearest(name, names)}"
            )
    tried: dict[PoseNMSConfig, float] = {best: evaluate(best)}
    rounds = 0
    while rounds < max_rounds:
        before, rounds = best, rounds + 1
        for pair in pairs:
            for candidate in _grid(best, {name: factors for name in pair}):
                if candidate not in tried:
                    tried[candidate] = evaluate(candidate)
                if tried[candidate] > tried[best]:
                    best = candidate
        if best == before:
            break
    return PoseNMSFit(best, tried[best], rounds, tuple(tried.items()))


def _grid(around: PoseNMSConfig, factors: Mapping[str, Sequence[float]]) -> list[PoseNMSConfig]:
    """Those with the fewest changes first, so that equal values change as little as possible."""
    choices = sorted(
        itertools.product(*factors.values()), key=lambda chosen: sum(f != 1 for f in chosen)
    )
    return [
        replace(around, **{n: getattr(around, n) * f for n, f in zip(factors, chosen, strict=True)})
        for chosen in choices
    ]
