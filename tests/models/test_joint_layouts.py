"""Joints of one layout from those of another, by name."""

from dataclasses import replace

import torch

from humanquery.core.config import from_plain, to_plain
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.experts.answers import WINDOW, joint_features_width
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.models.hqnet.joint_layouts import JointsByName, weights_by_joint
from tests.models.small import batch, crowd, small_config, small_model

HANDS = Skeleton(
    "hands_and_top",
    ("head_top", "right_wrist", "left_wrist"),
    pairs=((1, 2),),
    limbs=((0, 1),),
    sigmas=(0.06, 0.06, 0.06),
)


def test_known_joints_go_by_name_and_others_start_in_the_middle_of_the_box():
    joints = torch.rand(1, 2, 17, 2)
    scores = torch.rand(1, 2, 17)
    boxes = torch.tensor([[[0.5, 0.4, 0.2, 0.3], [0.1, 0.2, 0.1, 0.1]]])
    own, sure = JointsByName(COCO17, HANDS).references(joints, scores, boxes)
    assert torch.equal(own[0, :, 0], boxes[0, :, :2]) and (sure[..., 0] == 0).all()
    assert torch.equal(own[:, :, 1], joints[:, :, 10]) and torch.equal(sure[..., 2], scores[..., 9])
    same = JointsByName(COCO17, COCO17).references(joints, scores, boxes)
    assert same[0] is joints and same[1] is scores


def test_features_of_a_joint_without_a_map_say_only_what_all_maps_say_there():
    width = joint_features_width(17)

    def around(joints, sides):
        """The joint's number, then its place, everywhere."""
        features = torch.arange(17.0)[:, None].expand(*joints.shape[:2], 17, width).clone()
        features[..., -1] = joints[..., 0]
        return features

    joints = torch.tensor([[[[7.0, 0.0], [8.0, 0.0], [9.0, 0.0]]]])
    found = JointsByName(COCO17, HANDS).features(around)(joints, torch.ones(1, 1, 2))
    assert found.shape == (1, 1, 3, width)
    assert found[0, 0, 1, 0] == 10 and found[0, 0, 2, 0] == 9 and found[0, 0, 1, -1] == 8
    assert (found[0, 0, 0, : 2 * WINDOW**2] == 0).all() and found[0, 0, 0, -1] == 7


def test_weights_of_joints_that_both_layouts_have_are_taken_over():
    torch.manual_seed(0)
    old = small_model()
    new = small_model(replace(small_config(), skeleton=HANDS))
    state, own = old.state_dict(), new.state_dict()
    taken = weights_by_joint(state, own, COCO17, HANDS)
    queries = taken["tasks.keypoints.refinement.joint_queries.weight"]
    before = state["tasks.keypoints.refinement.joint_queries.weight"]
    assert torch.equal(queries[1], before[10]) and torch.equal(queries[2], before[9])
    assert torch.equal(queries[0], own["tasks.keypoints.refinement.joint_queries.weight"][0])
    assert all(tensor.shape == own[name].shape for name, tensor in taken.items())
    assert weights_by_joint(state, state, COCO17, COCO17) == {}


def test_a_model_with_joints_of_its_own_is_rebuilt_from_plain_data_and_predicts():
    config = replace(small_config(), skeleton=HANDS)
    assert from_plain(HQNetConfig, to_plain(config)) == config
    people = small_model(config).eval().predict(batch([crowd()]))[0].persons
    assert people.skeleton == HANDS and people.keypoints.shape[1:] == (3, 2)
