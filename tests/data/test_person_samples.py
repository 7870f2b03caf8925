import dataclasses
import itertools

import numpy as np
import pytest
import torch

from humanquery.core.crops import crop_matrix
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.target import Target
from humanquery.data.augment.person_samples import (
    PAPER_SHARES,
    PersonSampleConfig,
    half_body_box,
    mixed_indices,
    only_parts,
    person_sample,
)
from humanquery.data.augment.proposals import (
    MEANS,
    STDS,
    ProposalModel,
    fit_mixture,
    fit_proposals,
    offsets,
    released_proposal,
)

PLAIN = PersonSampleConfig(size=(64, 48), rotation_share=0.0, scale=0.0, mirror_share=0.0)
BOX = np.array([100.0, 50, 160, 170])


def _target(skeleton: Skeleton = COCO17) -> Target:
    k = len(skeleton)
    joints = torch.rand(2, k, 2, generator=torch.Generator().manual_seed(0)) * 100 + 30
    return Target(
        image_size=(200, 300),
        boxes=torch.tensor([[20.0, 20, 140, 140], [30, 30, 130, 130]]),
        ignore=torch.zeros(2, dtype=torch.bool),
        areas=torch.ones(2),
        keypoints=Labelled(joints, torch.ones(2, dtype=torch.bool)),
        visibility=torch.full((2, k), 2),
        skeleton=skeleton,
    )


def test_a_sample_holds_one_person_and_joints_lie_on_their_pixels():
    target = _target()
    picture = np.zeros((200, 300, 3), np.uint8)
    x, y = target.keypoints.value[1, 4].tolist()
    picture[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = 255
    config = PersonSampleConfig(size=(128, 96), mirror_share=1.0, rotation_share=1.0)
    sample = person_sample(picture, target, 1, config, np.random.default_rng(1))
    assert len(sample.target) == 1 and sample.image.shape == (128, 96, 3)
    at = sample.target.keypoints.value[0, COCO17.mirror_order[4]]
    bright = np.argwhere(sample.image[..., 0] > 128)
    assert abs(bright.mean(0) + 0.5 - at.numpy()[::-1]).max() < 1.0


def test_without_augmentation_the_crop_is_the_box():
    sample = person_sample(
        np.zeros((200, 300, 3), np.uint8), _target(), 0, PLAIN, np.random.default_rng(0)
    )
    corner = sample.meta.to_canvas.inverse().points(torch.tensor([0.5, 0.5]))
    assert corner.tolist() == pytest.approx([80 - 75 + 0.5, 80 - 100 + 0.5])


def test_scale_and_rotation_stay_within_their_limits():
    rng, config = np.random.default_rng(0), PersonSampleConfig(size=(64, 48), mirror_share=0.0)
    picture, target = np.zeros((20, 30, 3), np.uint8), _target()
    matrices = [person_sample(picture, target, 0, config, rng).meta.to_canvas for _ in range(200)]
    sizes = np.array([np.sqrt(abs(m.determinant)) for m in matrices]) / (48 / 150)
    angles = np.degrees([np.arctan2(m.d, m.a) for m in matrices])
    assert sizes.min() >= 1 / 1.3 - 1e-6 and sizes.max() <= 1 / 0.7 + 1e-6
    assert abs(angles).max() <= 80 + 1e-6 and 60 < (abs(angles) < 1e-6).sum() < 100


def test_half_bodies_show_the_chosen_joints():
    row = _target()[[0]]
    config = PersonSampleConfig(half_body_share=1.0, upper_share=1.0)
    joints = row.keypoints.value[0, :11].double().numpy()
    box = half_body_box(row, config, np.random.default_rng(0))
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, joints.mean(0))
    np.testing.assert_allclose(box[2:] - box[:2], np.ptp(joints, axis=0))
    lower = half_body_box(
        row, PersonSampleConfig(half_body_share=1.0, upper_share=0.0), np.random.default_rng(0)
    )
    np.testing.assert_allclose(
        (lower[:2] + lower[2:]) / 2, row.keypoints.value[0, 11:].double().mean(0)
    )
    few = row.replace(visibility=torch.tensor([[2] * 8 + [0] * 9]))
    assert half_body_box(few, config, np.random.default_rng(0)) is None


def test_other_parts_are_unlabelled_not_multiplied_away():
    target = _target(Skeleton.named("halpe136"))
    hands = only_parts(target, ["lefthand", "righthand"])
    assert hands.counted_joints.sum(1).tolist() == [42, 42] and target.counted_joints.all()
    with pytest.raises(AnnotationError, match="'coco17' has no part 'face', expected one of body"):
        only_parts(_target(), ["face"])


def test_released_proposals_are_normal_offsets_or_parts_of_the_box():
    drawn = [
        released_proposal(BOX, (2000, 3000), np.random.default_rng(seed)) for seed in range(3000)
    ]
    part = np.array([np.random.default_rng(seed).random() > 0.85 for seed in range(3000)])
    moved = offsets(np.repeat(BOX[None], 3000, 0), np.array(drawn))
    np.testing.assert_allclose(moved[~part].mean(0), MEANS, atol=0.01)
    np.testing.assert_allclose(moved[~part].std(0), STDS, atol=0.01)
    inside = moved[part] * [60, 120, 60, 120]
    assert (inside[:, :2] >= 0).all() and (inside[:, 2:] <= 1 + 1e-9).all()


def test_a_sample_is_cut_by_the_proposal_where_proposals_are_asked_for():
    def propose(box, size, rng):
        assert box.tolist() == [20, 20, 140, 140] and size == (200, 300)
        return BOX

    picture, rng = np.zeros((200, 300, 3), np.uint8), np.random.default_rng(0)
    config = dataclasses.replace(PLAIN, proposals=True)
    moved = person_sample(picture, _target(), 0, config, rng, propose)
    assert moved.meta.to_canvas == crop_matrix(BOX.tolist(), (64, 48))
    still = person_sample(picture, _target(), 0, PLAIN, rng, propose)
    assert still.meta.to_canvas == crop_matrix([20, 20, 140, 140], (64, 48))


def test_proposals_stay_in_the_picture_and_keep_two_pixels():
    rng = np.random.default_rng(0)
    boxes = np.array(
        [released_proposal(np.array([0.0, 0, 4, 4]), (20, 30), rng) for _ in range(300)]
    )
    assert (boxes[:, 2:] - boxes[:, :2] > 0).all() and boxes.min() >= 0


def test_fitted_proposals_follow_what_the_detector_did(tmp_path):
    rng = np.random.default_rng(0)
    corner = rng.uniform(50, 100, (600, 2))
    faces = np.concatenate([corner, corner + 20], 1)
    whole = faces + np.array([-20.0, -5, 20, 100]) + rng.normal(0, 1, faces.shape)
    model = fit_proposals({"face": (faces, whole)}, rng, components=2)
    model.save(tmp_path / "proposals.json")
    assert ProposalModel.load(tmp_path / "proposals.json") == model
    drawn = np.array([model.proposal(faces[0], "face", rng) for _ in range(400)])
    np.testing.assert_allclose((drawn - faces[0]).mean(0), [-20, -5, 20, 100], atol=0.5)
    np.testing.assert_allclose((drawn - faces[0]).std(0), np.ones(4), atol=0.3)


def test_a_mixture_finds_two_separate_groups():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(-1, 0.1, (300, 2)), rng.normal(1, 0.1, (100, 2))])
    mixture = fit_mixture(points, 2, rng)
    low, high = np.argsort([mean[0] for mean in mixture.means])
    assert mixture.weights[low] == pytest.approx(0.75, abs=0.01)
    assert mixture.means[high] == pytest.approx((1, 1), abs=0.05)


def test_bad_boxes_parts_and_files_are_named(tmp_path):
    with pytest.raises(AnnotationError, match="true box 0 .* has no area"):
        offsets(np.zeros((1, 4)), np.zeros((1, 4)))
    with pytest.raises(
        AnnotationError, match="2 pairs of boxes for 1 Gaussians, expected at least 3"
    ):
        fit_mixture(np.zeros((2, 2)), 1, np.random.default_rng(0))
    with pytest.raises(AnnotationError, match="no distribution for part 'hand'"):
        ProposalModel({}).proposal(BOX, "hand", np.random.default_rng(0))
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(AnnotationError, match="bad.json: no file of proposal distributions"):
        ProposalModel.load(tmp_path / "bad.json")


def test_every_batch_holds_the_shares_and_every_item_comes_before_one_repeats():
    batches = list(
        itertools.islice(
            mixed_indices([10, 12, 4, 3], PAPER_SHARES, 12, np.random.default_rng(0)), 30
        )
    )
    for batch in batches:
        assert np.bincount(batch[:, 0], minlength=4).tolist() == [4, 4, 2, 2]
    rows = np.concatenate(batches)
    first = rows[rows[:, 0] == 1, 1][:12]
    assert sorted(first.tolist()) == list(range(12))


def test_shares_that_do_not_divide_a_batch_hold_on_average():
    batches = itertools.islice(
        mixed_indices([5, 5, 5, 5], PAPER_SHARES, 32, np.random.default_rng(0)), 200
    )
    counts = np.array([np.bincount(batch[:, 0], minlength=4) for batch in batches])
    assert (counts.sum(1) == 32).all() and counts.min(0).tolist() == [10, 10, 5, 5]
    assert abs(counts.mean(0) / 32 - PAPER_SHARES).max() < 0.01


def test_bad_shares_are_named():
    with pytest.raises(ConfigError, match="sum to 0.5, expected 1"):
        mixed_indices([3], [0.5], 4, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="data sets of .3, 0. items"):
        mixed_indices([3, 0], [0.5, 0.5], 4, np.random.default_rng(0))
