import math

import numpy as np
import pytest
import torch

from humanquery.core.oks import oks
from humanquery.core.skeleton import COCO17

SIGMAS = torch.tensor(COCO17.sigmas, dtype=torch.float64)


def _people(count: int, seed: int):
    draw = np.random.default_rng(seed)
    joints = torch.from_numpy(draw.uniform(0, 100, (count, 17, 2)))
    visible = torch.from_numpy(draw.integers(0, 3, (count, 17)))
    visible[:, 0] = 2
    return joints, visible, torch.from_numpy(draw.uniform(500, 5000, count))


def test_one_joint_by_hand():
    found, true = torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0]]])
    value = oks(
        found, true, torch.tensor([100.0]), torch.tensor([0.1]), torch.ones(1, 1, dtype=torch.bool)
    )
    assert value.item() == pytest.approx(math.exp(-25 / (2 * 100 * 0.04)))


def test_a_perfect_person_scores_one_and_nobody_counted_scores_zero():
    joints, visible, area = _people(3, 0)
    assert oks(joints, joints, area, SIGMAS, visible > 0).tolist() == [1.0] * 3
    assert oks(joints, joints, area, SIGMAS, visible > 5).tolist() == [0.0] * 3
    assert oks(joints[:0], joints[:0], area[:0], SIGMAS, visible[:0] > 0).shape == (0,)


def test_every_pair_equals_pycocotools():
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    true, visible, area = _people(4, 1)
    found = _people(5, 2)[0] * 0.2 + true[0] * 0.8
    true = torch.where((visible > 0)[..., None], true, 0.0)
    triples = torch.cat([true, visible[..., None]], -1).flatten(1)
    truth = COCO()
    annotations = [
        {
            "id": i + 1,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [0, 0, 50, 50],
            "area": float(area[i]),
        }
        | {"keypoints": triples[i].tolist(), "num_keypoints": int((visible[i] > 0).sum())}
        for i in range(4)
    ]
    truth.dataset = {
        "info": {},
        "images": [{"id": 1}],
        "annotations": annotations,
        "categories": [{"id": 1}],
    }
    truth.createIndex()
    rows = [
        {"image_id": 1, "category_id": 1, "score": 1 - i / 10}
        | {"keypoints": torch.cat([found[i], torch.ones(17, 1)], -1).flatten().tolist()}
        for i in range(5)
    ]
    judge = COCOeval(truth, truth.loadRes(rows), "keypoints")
    judge._prepare()
    expected = judge.computeOks(1, 1)
    ours = oks(found[:, None], true[None], area, SIGMAS, visible > 0)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9)


def test_the_exponent_can_be_cut():
    far = torch.full((1, 1, 2), 1e4)
    args = (
        torch.zeros(1, 1, 2),
        torch.tensor([1.0]),
        torch.tensor([0.1]),
        torch.ones(1, 1, dtype=torch.bool),
    )
    assert oks(far, *args).item() == 0.0
    assert oks(far, *args, max_exponent=2.0).item() == pytest.approx(math.exp(-2))


def test_a_person_without_area_gives_finite_gradients():
    found = torch.rand(1, 17, 2, requires_grad=True)
    counted = torch.ones(1, 17, dtype=torch.bool)
    oks(found, torch.zeros(1, 17, 2), torch.zeros(1), SIGMAS.float(), counted).sum().backward()
    assert torch.isfinite(found.grad).all()
