import dataclasses

import pytest
import torch

from humanquery.core.affine import Affine2D
from humanquery.core.config import from_plain, override, to_plain
from humanquery.core.errors import ConfigError, TrackingError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.tracking import SmoothConfig, TrackBook, TrackConfig, Tracker
from tests.tracking.people import SIZE, ids, walkers

MOTION_ONLY = TrackConfig(appearance=False)
NOBODY = walkers([], [])


@pytest.mark.parametrize("config", [TrackConfig(), MOTION_ONLY], ids=["queries", "motion only"])
def test_walkers_keep_their_ids_in_whatever_order_they_come(config):
    book = TrackBook(config)
    for t in range(30):
        centers, looks = [(100 + 4 * t, 100), (500 - 4 * t, 300), (300, 200 + t)], [0, 1, 2]
        order = [(t + k) % 3 for k in range(3)]
        found = book.update(walkers([centers[k] for k in order], [looks[k] for k in order]))
        if t == 0:
            known = dict(zip(order, ids(found), strict=True))
        assert dict(zip(order, ids(found), strict=True)) == known
    assert sorted(known.values()) == [1, 2, 3]


def test_all_fields_and_the_order_of_people_are_kept_and_what_was_handed_in_is_not_changed():
    book, people = TrackBook(), walkers([(100, 100), (300, 300)], [0, 1])
    found = book.update(people)
    assert people.track_ids is None and found.track_ids.dtype == torch.int64
    for name, _, value in people.filled():
        assert torch.equal(getattr(found, name), value), name


def test_people_who_meet_and_part_are_told_apart_by_their_queries():
    """They stop beside each other, change places unseen, and walk on: motion knows nothing of
    that."""
    last = {}
    for config in (TrackConfig(), MOTION_ONLY):
        book = TrackBook(config)
        for x in [*range(230, 290, 3), *[290] * 10]:
            start = ids(book.update(walkers([(x, 200), (600 - x, 200)], [0, 1])))
        for _ in range(3):
            book.update(NOBODY)
        for x in range(310, 370, 5):
            found = book.update(walkers([(x, 200), (600 - x, 200)], [0, 1]))
        last[config.appearance] = ids(found)
    assert start == [1, 2]
    assert last == {True: [1, 2], False: [2, 1]}


def test_a_lost_person_is_known_again_within_the_patience_and_new_after_it():
    for gone, expected in ((10, [1]), (40, [2])):
        book = TrackBook(TrackConfig(patience=30, confirm_hits=1))
        for _ in range(5):
            book.update(walkers([(200, 200)], [3]))
        for _ in range(gone):
            assert ids(book.update(NOBODY)) == []
        assert ids(book.update(walkers([(205, 200)], [3]))) == expected
        assert book.confirmed_ids == expected


def test_somebody_new_is_believed_after_some_frames_and_a_flicker_never():
    book = TrackBook(TrackConfig(confirm_hits=3))
    book.update(NOBODY)
    assert [ids(book.update(walkers([(200, 200)], [0]))) for _ in range(4)] == [[], [], [1], [1]]
    assert ids(book.update(walkers([(200, 200), (500, 300)], [0, 1]))) == [1]  # seen once
    for _ in range(3):
        assert ids(book.update(walkers([(200, 200)], [0]))) == [1]
    assert book.confirmed_ids == [1]


def test_the_unsure_continue_a_track_but_start_none():
    book = TrackBook()
    book.update(walkers([(200, 200)], [0]))
    found = book.update(walkers([(201, 200), (500, 300)], [0, 1], scores=[0.3, 0.3]))
    assert ids(found) == [1] and len(found) == 1
    assert ids(book.update(walkers([(202, 200)], [0], scores=[0.1]))) == []  # below keep_score
    assert ids(book.update(walkers([(203, 200)], [0]))) == [1]


def test_a_double_of_somebody_tracked_starts_no_track():
    book = TrackBook(TrackConfig(confirm_hits=1))
    book.update(walkers([(200, 200)], [0]))
    found = book.update(walkers([(201, 200), (203, 202)], [0, 1]))
    assert ids(found) == [1]


def test_a_query_that_fits_brings_back_whom_the_filter_no_longer_expects_if_the_places_overlap():
    """Hidden to the waist for some frames, then whole again: for the filter another size, for
    the query the same person."""
    book = TrackBook()
    whole = walkers([(200, 200)], [0])
    half = whole.replace(boxes=torch.tensor([[180.0, 205.0, 220.0, 250.0]]))
    for _ in range(8):
        book.update(half)
    for _ in range(3):
        book.update(NOBODY)
    assert ids(book.update(whole)) == [1]
    stranger = TrackBook()
    for _ in range(8):
        stranger.update(half)
    for _ in range(3):
        stranger.update(NOBODY)
    assert ids(stranger.update(walkers([(200, 200)], [1]))) == []


def test_after_a_gap_the_walk_between_is_made_up_for():
    """Somebody stands, is hidden, and is back further on: the speed is that of the way, not that
    of standing."""
    book = TrackBook(TrackConfig(patience=60))
    for _ in range(10):
        book.update(walkers([(200, 200)], [0]))
    for _ in range(9):
        book.update(NOBODY)
    book.update(walkers([(220, 200)], [0]))
    assert book._tracks.speed[0, 0] == pytest.approx(2, abs=0.7)


def test_queries_are_not_learned_while_people_cover_each_other():
    book = TrackBook(TrackConfig(confirm_hits=1, clean_overlap=0.2))
    book.update(walkers([(200, 200), (230, 200)], [0, 1]))  # IoU 0.14
    before = book._tracks.stored.tolist()
    book.update(walkers([(203, 200), (227, 200)], [0, 1]))  # IoU 0.25
    assert book._tracks.stored.tolist() == before
    book.update(walkers([(200, 200), (230, 200)], [0, 1]))
    assert book._tracks.stored.tolist() == [n + 1 for n in before]


def test_a_lost_track_keeps_its_size():
    book = TrackBook(TrackConfig(confirm_hits=1))
    people = walkers([(200, 200)], [0])
    for t in range(5):
        grown = people.boxes + torch.tensor([[-2.0, -4.0, 2.0, 4.0]]) * t
        book.update(people.replace(boxes=grown))
    book.update(NOBODY)
    size = book._tracks.place[0, 2:].copy()
    for _ in range(20):
        book.update(NOBODY)
    assert (book._tracks.place[0, 2:] == size).all()


def test_people_with_other_fields_than_before_are_refused_and_leave_the_book_as_it_was():
    book, people = TrackBook(TrackConfig(confirm_hits=1)), walkers([(200, 200)], [0])
    book.update(people)
    h36m = Skeleton.named("h36m17")  # as many joints, in another order
    others = {
        r"people with 0 joints \(none \.\.\.\), those before with 17 joints \(nose": people.replace(
            keypoints=None, keypoint_scores=None
        ),
        r"17 joints of h36m17 .* before with 17 joints \(nose.*convert_joints": people.replace(
            skeleton=h36m
        ),
        "embeddings of 5 numbers, those before of 8.*one tracker per model": people.replace(
            embeddings=torch.ones(1, 5)
        ),
    }
    for message, given in others.items():
        for asked in (book, TrackBook.resumed(book.state(), book.config)):
            with pytest.raises(TrackingError, match="frame 2: .*" + message):
                asked.update(given)
            assert asked.frame == 1
    assert ids(book.update(people)) == [1]
    book.update(NOBODY.replace(image_size=(48, 64)))  # of nobody nothing is compared


@pytest.mark.parametrize("config", [TrackConfig(), MOTION_ONLY], ids=["queries", "motion only"])
def test_a_picture_of_another_size_is_the_same_view_and_everybody_is_followed_into_it(config):
    book = TrackBook(config)
    for t in range(6):
        people = walkers([(100 + 4 * t, 100), (500 - 4 * t, 300)], [0, 1])
        if t >= 3:
            people = people.warp(Affine2D.scaling(2.0, 0.5), (240, 1280))
        assert ids(book.update(people)) == [1, 2]
    assert book._tracks.place[0].tolist() == pytest.approx([240, 50, 80, 50], abs=2)
    assert book._tracks.speed[0, 0] == pytest.approx(8, abs=1.5)


@pytest.mark.parametrize("name", ["boxes", "scores", "keypoints", "embeddings", "age"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_with_frame_field_and_person(name, value):
    book, people = TrackBook(), walkers([(100, 100), (300, 300)], [0, 1])
    book.update(people)
    before = book.state()
    broken = getattr(people, name).clone()
    broken[1] = value
    with pytest.raises(TrackingError) as refused:
        book.update(people.replace(**{name: broken}))
    message = str(refused.value)
    assert f"frame 2: 1 of 2 people have {name} that are not finite (person 1: [" in message
    assert str(value) in message and "Leave them out" in message
    assert all(torch.equal(values, before[key]) for key, values in book.state().items())
    assert ids(book.update(people)) == [1, 2]


def test_a_frame_without_embeddings_is_followed_by_motion_and_the_queries_count_again_after_it():
    book = TrackBook(TrackConfig(confirm_hits=1))
    for t in range(3):
        book.update(walkers([(200 + t, 200)], [0]))
    bare = walkers([(203, 200), (500, 300)], [0, 1]).replace(embeddings=None)
    assert ids(book.update(bare)) == [1, 2]  # the second is born without a query
    book = TrackBook.resumed(book.state(), book.config)
    assert ids(book.update(walkers([(204, 200), (501, 300)], [0, 1]))) == [1, 2]
    for _ in range(4):
        book.update(NOBODY)
    swapped = walkers([(501, 300), (204, 200)], [1, 0])
    assert ids(book.update(swapped)) == [2, 1]
    alone = TrackBook(TrackConfig(confirm_hits=1, patience=0))
    alone.update(walkers([(200, 200)], [0]))
    alone.update(NOBODY)  # nobody is known any more, but that there are queries is
    assert ids(alone.update(bare)) == [2, 3]


def test_a_track_born_without_a_query_is_found_again_by_its_place():
    book = TrackBook(TrackConfig(confirm_hits=1))
    book.update(walkers([(100, 100)], [0]))
    for _ in range(3):
        book.update(walkers([(100, 100), (400, 300)], [0, 1]).replace(embeddings=None))
    for _ in range(3):
        book.update(walkers([(100, 100)], [0]))
    assert ids(book.update(walkers([(100, 100), (400, 300)], [0, 1]))) == [1, 2]


def test_a_state_is_not_taken_up_with_another_gallery():
    book = TrackBook()
    book.update(walkers([(200, 200)], [0]))
    with pytest.raises(TrackingError, match="keeps 10 queries per track, TrackConfig.gallery is 4"):
        TrackBook.resumed(book.state(), TrackConfig(gallery=4))


def test_a_book_is_a_tracker_and_reads_states_of_older_versions():
    book = TrackBook(TrackConfig(confirm_hits=1))
    assert isinstance(book, Tracker)
    book.update(walkers([(200, 200)], [0]))
    old = {
        name: values
        for name, values in book.state().items()
        if name not in ("image_size", "num_joints", "joint_names", "width")
    }
    again = TrackBook.resumed(old, book.config)
    assert ids(again.update(walkers([(202, 200)], [0]))) == [1]


def test_two_books_do_not_notice_each_other():
    one, two = TrackBook(), TrackBook()
    assert ids(one.update(walkers([(100, 100), (300, 300)], [0, 1]))) == [1, 2]
    assert ids(two.update(walkers([(300, 300)], [1]))) == [1]
    assert ids(one.update(walkers([(300, 300)], [1]))) == [2]


def test_an_id_is_never_given_twice():
    book, seen = TrackBook(TrackConfig(confirm_hits=1, patience=0)), []
    for t in range(20):
        seen += ids(book.update(walkers([(50 + 25 * (t % 3) * 8, 200)], [t % 8])))
        book.update(NOBODY)
    assert len(seen) == len(set(seen)) == 20


def test_hundreds_of_empty_frames_and_hundreds_of_people_are_no_problem():
    book = TrackBook(TrackConfig(confirm_hits=1))
    for _ in range(300):
        assert len(book.update(NOBODY)) == 0
    state = book.state()
    assert sum(value.numel() for value in state.values()) < 100  # nothing is kept of them
    crowd = [(30.0 + 45 * (k % 14), 60.0 + 25 * (k // 14)) for k in range(200)]
    people = walkers(crowd, [0] * 200)
    assert len(set(ids(book.update(people)))) == 200
    assert len(book.update(people)) == 200


def test_people_without_queries_need_motion_only():
    bare = Persons(
        image_size=SIZE, boxes=torch.tensor([[10.0, 10.0, 50.0, 90.0]]), scores=torch.tensor([0.9])
    )
    with pytest.raises(TrackingError, match="frame 1: 1 people without embeddings.*=False"):
        TrackBook().update(bare)
    assert ids(TrackBook(MOTION_ONLY).update(bare)) == [1]


def test_joints_are_smoothed_and_attributes_settle():
    generator = torch.Generator().manual_seed(0)
    calm, plain = TrackBook(TrackConfig(smooth=SmoothConfig())), TrackBook()
    still = walkers([(200, 200)], [0])
    places, ages = [], []
    for t in range(60):
        shaken = still.keypoints + torch.randn(1, 17, 2, generator=generator) * 3
        people = still.replace(
            keypoints=shaken,
            age=torch.tensor([30.0 + 20 * (t % 2)]),
            gender=torch.tensor([1.0 if t % 3 else 0.0]),
        )
        found = calm.update(people)
        places.append(found.keypoints)
        ages.append(float(found.age))
        assert torch.equal(plain.update(people).keypoints, shaken)
    moves = torch.cat(places[20:]).diff(dim=0).norm(dim=-1).mean()
    assert float(moves) < 2  # the shaking itself moves joints by 5 px a frame
    assert abs(ages[-1] - 40) < 0.5 and abs(ages[-1] - ages[-2]) < 0.5
    assert float(found.gender) == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize("frames", [0, 1, 7])
def test_a_resumed_book_goes_on_as_if_nothing_had_happened(frames):
    config = TrackConfig(smooth=SmoothConfig())
    clip = [
        walkers([(100 + 5 * t, 200), (400 - 5 * t, 210), (300, 300)], [0, 1, 2]) for t in range(15)
    ]
    whole, first = TrackBook(config), TrackBook(config)
    for people in clip[:frames]:
        whole.update(people)
        first.update(people)
    second = TrackBook.resumed(first.state(), config)
    for people in clip[frames:]:
        ours, theirs = second.update(people), whole.update(people)
        assert ids(ours) == ids(theirs) and torch.equal(ours.keypoints, theirs.keypoints)
    without_joints = TrackBook(MOTION_ONLY)
    without_joints.update(clip[0].replace(keypoints=None, keypoint_scores=None))
    again = TrackBook.resumed(without_joints.state(), MOTION_ONLY)
    assert ids(again.update(clip[1].replace(keypoints=None, keypoint_scores=None))) == [1, 2, 3]


def test_a_config_survives_plain_data_and_impossible_numbers_are_named():
    config = TrackConfig(smooth=SmoothConfig(frame_rate=25.0), patience=9)
    assert from_plain(TrackConfig, to_plain(config)) == config
    assert override(TrackConfig(), ["motion.gate=5.0", "appearance=false"]).motion.gate == 5.0
    for field, value in (
        ("birth_score", 1.5),
        ("gallery", 0),
        ("patience", -1),
        ("min_similarity", -0.1),
    ):
        with pytest.raises(ConfigError, match=f"TrackConfig.{field}: {value}"):
            dataclasses.replace(config, **{field: value})
