"""The model that comes with the library."""

import pytest
import torch

from humanquery import load
from humanquery.core.boxes import iou
from humanquery.core.errors import CheckpointError
from humanquery.predict.base import shipped_weights


@pytest.fixture(scope="module")
def people():
    data = pytest.importorskip("skimage.data", reason="the photo comes with scikit-image")
    return load(device="cpu").predict(data.astronaut())


def test_it_finds_the_astronaut_once_and_knows_her_outline(people):
    assert len(people) == 1
    assert float(iou(people.boxes, torch.tensor([[18.0, 12.0, 400.0, 512.0]]))) > 0.7
    mask = people.masks[0]
    assert mask[200, 220] and mask[330, 150]  # face and suit
    assert not mask[60, 460] and not mask[420, 480]  # rocket and background


def test_it_gives_every_field(people):
    assert people.keypoints.shape == (1, 17, 2)
    assert 0 <= float(people.gender) <= 1 and 1 <= float(people.age) <= 85
    assert people.embeddings.shape[1] == 128


def test_the_fast_one_has_the_same_weights_looks_for_joints_at_one_size_and_finds_her_too(people):
    data = pytest.importorskip("skimage.data", reason="the photo comes with scikit-image")
    fast, usual = load("hqnet-small-fast", device="cpu"), load(device="cpu")
    assert [
        part.pose_scales
        for part in fast.system.config.backbone.parts
        if hasattr(part, "pose_scales")
    ] == [(1.0,)]
    same = fast.system.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in usual.system.state_dict().items())
    (found,) = fast.predict(data.astronaut()).boxes
    assert float(iou(found[None], people.boxes)) > 0.95


def test_a_name_that_is_nearly_right_is_guessed():
    with pytest.raises(CheckpointError, match="Did you mean 'hqnet-small-fast'"):
        load("hqnet-small-fasst")


def test_its_card_tells_data_licences_scores_and_threshold():
    card = load(device="cpu").card
    assert {"data", "licences", "intended_use", "scores", "score_threshold", "training"} <= set(
        card
    )
    assert all(path.stat().st_size < 45e6 for path in shipped_weights().values())
    assert not [change for change in card["changes"] if "/" in change.partition("=")[2]]
