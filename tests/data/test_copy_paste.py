from dataclasses import replace

import numpy as np
import torch

from humanquery.core.target import empty_target
from humanquery.data.augment.augment import AugmentConfig, augment
from humanquery.data.augment.copy_paste import CopyPasteConfig, hide, paste_people
from tests.data.scene import scene


def test_what_is_covered_shrinks_and_hides_its_joints():
    target = scene().target
    cover = torch.zeros(96, 128, dtype=torch.bool)
    cover[:, :25] = True  # half of the first person, nothing of the others
    hidden = hide(target, cover, 0.1)
    assert hidden.annotation_ids.tolist()[:3] == [10, 11, 12]
    assert hidden.boxes[0].tolist() == [25, 12, 40, 90] and hidden.areas[0] == 1170
    assert torch.equal(hidden.boxes[1:3], target.boxes[1:3]) and torch.equal(
        hidden.areas[1:3], target.areas[1:3]
    )
    left = target.keypoints.value[0, :, 0] < 25
    assert (hidden.visibility[0][left] < 2).all()
    assert torch.equal(hidden.visibility[0] > 0, target.visibility[0] > 0)
    assert torch.equal(hidden.visibility[1], target.visibility[1])
    assert not (hidden.masks.value & cover).any()


def test_persons_hidden_nearly_whole_are_taken_out_or_ignored():
    target = scene().target
    cover = torch.zeros(96, 128, dtype=torch.bool)
    cover[:89, 9:41] = True
    assert 10 not in hide(target, cover, 0.15).annotation_ids.tolist()
    unmasked = target.replace(masks=None)
    found = hide(unmasked, cover, 0.15)
    assert found.annotation_ids.tolist() == [10, 11, 12, 13] and found.ignore.tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_pasted_people_stand_in_front():
    base, donor = scene(), scene(seed=3, image_id=2)
    ids = donor.target.annotation_ids + 100
    donor = replace(
        donor, image=np.full_like(donor.image, 255), target=donor.target.replace(annotation_ids=ids)
    )
    base = replace(base, image=np.zeros_like(base.image))
    pasted = 0
    for seed in range(20):
        found = paste_people(base, donor, CopyPasteConfig(people=2), np.random.default_rng(seed))
        masks = found.target.masks.value
        bright = torch.from_numpy(found.image[..., 0] > 200)
        front = torch.zeros_like(bright)
        new = int((found.target.annotation_ids >= 100).sum())
        pasted += new
        for i in range(new):
            front |= masks[i]
        assert not (bright & ~front).any()
        assert (front & ~bright).float().mean() < 0.06  # the soft edge
        assert not (masks[new:] & front).any()
    assert pasted > 10


def test_labels_of_the_sample_decide_which_labels_there_are():
    base, donor = scene(), scene(seed=3)
    plain = replace(base, target=base.target.replace(gender=None, face_boxes=None))
    poor = replace(
        donor, target=donor.target.replace(age=None, keypoints=None, visibility=None, skeleton=None)
    )
    rng = np.random.default_rng(1)
    found = paste_people(plain, poor, CopyPasteConfig(), rng).target
    assert found.gender is None and found.face_boxes is None
    assert not found.age.valid[0] and not found.keypoints.valid[0]
    assert found.skeleton is base.target.skeleton and len(found) > 1


def test_a_donor_without_masks_or_people_changes_nothing():
    base = scene()
    for target in (base.target.replace(masks=None), empty_target((96, 128)), None):
        assert (
            paste_people(
                base, replace(base, target=target), CopyPasteConfig(), np.random.default_rng(0)
            )
            is base
        )


def test_people_can_be_pasted_onto_a_picture_of_nobody():
    empty = replace(scene(), target=empty_target((96, 128), scene().target.skeleton))
    found = augment(
        empty, AugmentConfig(canvas=(96, 128)), np.random.default_rng(2), donor=scene(seed=4)
    )
    assert len(found.target.people()) >= 1 and found.target.masks.valid.all()
