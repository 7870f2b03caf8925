import numpy as np

from humanquery.tracking import motion as kalman
from humanquery.tracking.motion import MotionConfig

CONFIG = MotionConfig()


class FullFilter:
    """The textbook filter of (cx, cy, w, h) and its speeds with whole 8×8 matrices."""

    def __init__(self, z):
        self.x = np.concatenate([z, np.zeros(4)])
        s = self.sides()
        self.P = np.diag(np.concatenate([(2 * s / 20) ** 2, (10 * s / 160) ** 2]))

    def sides(self):
        return np.array([self.x[2], self.x[3], self.x[2], self.x[3]])

    def predict(self):
        s, F = self.sides(), np.eye(8)
        F[:4, 4:] = np.eye(4)
        self.x = F @ self.x
        self.P = F @ self.P @ F.T + np.diag(np.concatenate([(s / 20) ** 2, (s / 160) ** 2]))

    def innovation(self):
        return self.P[:4, :4] + np.diag((self.sides() / 20) ** 2)

    def distance(self, z):
        missed = z - self.x[:4]
        return missed @ np.linalg.inv(self.innovation()) @ missed

    def update(self, z):
        gain = self.P[:, :4] @ np.linalg.inv(self.innovation())
        self.x = self.x + gain @ (z - self.x[:4])
        self.P = self.P - gain @ self.P[:4]


def places(z):
    """cx, cy, w, h"""
    return np.array(z, np.float32)


def test_the_filter_equals_the_textbook_one_with_whole_matrices():
    rng = np.random.default_rng(0)
    seen = [
        np.array([[100 + 3 * t, 200 - t, 40, 100], [300, 100 + 2 * t, 60, 150 + t]])
        for t in range(12)
    ]
    seen = [z + rng.normal(0, 1, z.shape) for z in seen]
    theirs = [FullFilter(z) for z in seen[0]]
    ours = kalman.start(places(seen[0]), CONFIG)
    for z in seen[1:]:
        ours = kalman.predict(ours, CONFIG)
        for one in theirs:
            one.predict()
        expected = np.array([[one.distance(other) for other in z] for one in theirs])
        np.testing.assert_allclose(kalman.distances(ours, places(z), CONFIG), expected, rtol=1e-3)
        ours = kalman.correct(ours, places(z), CONFIG)
        for one, place in zip(theirs, z, strict=True):
            one.update(place)
        np.testing.assert_allclose(ours.place, [one.x[:4] for one in theirs], rtol=1e-4)
        np.testing.assert_allclose(ours.speed, [one.x[4:] for one in theirs], atol=1e-3)


def test_a_steady_walk_is_predicted():
    track = kalman.start(places([[0, 0, 40, 100]]), CONFIG)
    for t in range(1, 40):
        track = kalman.correct(kalman.predict(track, CONFIG), places([[5 * t, 0, 40, 100]]), CONFIG)
    ahead = kalman.predict(track, CONFIG)
    np.testing.assert_allclose(ahead.place[0], [200, 0, 40, 100], atol=0.5)


def test_doubt_grows_while_nobody_is_seen_and_shrinks_when_somebody_is():
    track = kalman.start(places([[50, 50, 40, 100]]), CONFIG)
    later = kalman.predict(kalman.predict(track, CONFIG), CONFIG)
    assert (later.spread[:, 0] > track.spread[:, 0]).all()
    seen = kalman.correct(later, places([[50, 50, 40, 100]]), CONFIG)
    assert (seen.spread[:, 0] < later.spread[:, 0]).all()


def test_a_shrinking_track_never_vanishes():
    track = kalman.start(places([[50, 50, 40, 100]]), CONFIG)
    track = kalman.correct(kalman.predict(track, CONFIG), places([[50, 50, 20, 50]]), CONFIG)
    for _ in range(200):
        track = kalman.predict(track, CONFIG)
    assert (track.place[:, 2:] >= 1).all() and np.isfinite(track.place).all()
