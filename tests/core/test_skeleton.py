import json

import pytest
import torch

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.skeleton import (
    _TABLES,
    COCO17,
    OTHER_SIGMA,
    Skeleton,
    convert_joints,
)
from tests.paths import DATA, needs_data


@pytest.mark.parametrize("name", sorted(_TABLES))
def test_every_table_is_symmetric(name):
    skeleton = Skeleton.named(name)
    order = skeleton.mirror_order
    assert [order[i] for i in order] == list(range(len(skeleton)))
    paired = {joint for pair in skeleton.pairs for joint in pair}
    for joint in range(len(skeleton)):
        assert skeleton.index(skeleton.joints[joint]) == joint
        if skeleton.side(joint) != "middle":
            assert joint in paired, skeleton.joints[joint]
            swapped = {"left": "right", "right": "left"}[skeleton.side(joint)]
            assert skeleton.side(order[joint]) == swapped
    assert all(0 <= a < b <= len(skeleton) for a, b in skeleton.parts.values())


@needs_data
def test_the_tables_are_those_of_the_specification():
    path = DATA.parent / "specs" / "keypoints.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the data")
    tables = {
        name: t for name, t in json.loads(path.read_text()).items() if not name.startswith("_")
    }
    ours_alone = {"halpe68", "face68", "hand21"}  # parts of halpe136
    assert set(tables) == set(_TABLES) - ours_alone
    for name, table in tables.items():
        ours = Skeleton.named(name)
        assert list(ours.joints) == table["names"]
        assert list(ours.sigmas) == (table["sigmas"] or [])
        assert [list(pair) for pair in ours.pairs] == table["flip_pairs"]
        assert [list(limb) for limb in ours.limbs] == table["skeleton"]


def test_conversion_goes_by_name():
    crowdpose = Skeleton.named("crowdpose14")
    joints, valid = torch.rand(2, 17, 2), torch.ones(2, 17, dtype=torch.bool)
    valid[0, COCO17.index("left_knee")] = False
    converted, known = convert_joints(joints, valid, COCO17, crowdpose)
    for name in crowdpose.joints:
        to = crowdpose.index(name)
        if name in COCO17.joints and not (name == "left_knee"):
            assert (
                torch.equal(converted[:, to], joints[:, COCO17.index(name)]) and known[:, to].all()
            )
    assert known[:, crowdpose.index("left_knee")].tolist() == [False, True]
    assert converted[0, crowdpose.index("left_knee")].tolist() == [0.0, 0.0]
    assert (
        not known[:, crowdpose.index("neck")].any()
        and not converted[:, crowdpose.index("neck")].any()
    )


def test_conversion_of_nobody_and_to_itself():
    joints, valid = torch.rand(3, 17, 2), torch.rand(3, 17) > -1
    assert torch.equal(convert_joints(joints, valid, COCO17, COCO17)[0], joints)
    assert convert_joints(joints[:0], valid[:0], COCO17, Skeleton.named("halpe26"))[0].shape == (
        0,
        26,
        2,
    )


def test_sides_come_from_names():
    assert [COCO17.side(i) for i in (0, 5, 6)] == ["middle", "left", "right"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigmas": (0.1,)}, "1 sigmas for 3 joints; give one per joint"),
        ({"joints": ("a", "a", "b")}, "joint names repeat"),
        ({"pairs": ((0, 3),)}, r"pair \(0, 3\) must join two different joints of 3"),
        ({"pairs": ((1, 1),)}, r"pair \(1, 1\) must join two different joints"),
        ({"limbs": ((-1, 2),)}, r"limb \(-1, 2\) must join"),
        ({"pairs": ((0, 1), (1, 2))}, "a joint stands in two flip pairs"),
    ],
)
def test_bad_skeletons_are_named(fields, message):
    good = {"name": "mine", "joints": ("a", "b", "c"), "pairs": (), "limbs": ()}
    Skeleton(**good)
    with pytest.raises(ConfigError, match="skeleton 'mine': .*" + message):
        Skeleton(**(good | fields))


def test_unknown_names_offer_the_nearest():
    with pytest.raises(ConfigError, match="unknown skeleton 'coco_17'. Did you mean 'coco17'"):
        Skeleton.named("coco_17")
    with pytest.raises(ConfigError, match="no joint 'left_sholder'. Did you mean 'left_shoulder'"):
        COCO17.index("left_sholder")


def test_feet_of_coco_wholebody_go_to_halpe_by_name_and_not_by_position():
    """COCO-WholeBody lists the left foot, then the right one; Halpe alternates. Copying six numbers
    as
    they stand puts four of them on the wrong joint."""
    source, destination = Skeleton.named("coco_wholebody133"), Skeleton.named("halpe136")
    marks = torch.arange(133.0)[None, :, None].expand(1, 133, 2)
    converted, known = convert_joints(
        marks, torch.ones(1, 133, dtype=torch.bool), source, destination
    )
    assert converted[0, 20:26, 0].tolist() == [17, 20, 18, 21, 19, 22]
    assert known[0].logical_not().nonzero()[:, 0].tolist() == [17, 18, 19], (
        "head, neck, hip have no source"
    )
    assert converted[0, 26:, 0].tolist() == list(range(23, 133))


@needs_data
def test_whole_bodies_convert_as_the_specification_lists():
    path = DATA.parent / "specs" / "keypoints.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the data")
    pairs = json.loads(path.read_text())["_maps"]["coco_wholebody133_to_halpe136"]["pairs"]
    marks = torch.arange(133.0)[None, :, None].expand(1, 133, 2)
    converted, _ = convert_joints(
        marks,
        torch.ones(1, 133, dtype=torch.bool),
        Skeleton.named("coco_wholebody133"),
        Skeleton.named("halpe136"),
    )
    assert [[int(converted[0, to, 0]), to] for _, to in pairs] == pairs


@pytest.mark.parametrize(("name", "span"), [("face68", slice(26, 94)), ("hand21", slice(94, 115))])
def test_faces_and_hands_alone_are_parts_of_the_whole_body(name, span):
    part, whole = Skeleton.named(name), Skeleton.named("halpe136")
    assert [f"left_{j}" if name == "hand21" else j for j in part.joints] == list(whole.joints[span])
    assert part.sigmas == whole.sigmas[span]
    touched = {joint for limb in part.limbs for joint in limb}
    assert name != "hand21" or touched == set(range(21))


HAND = ["Left Tip", "Right Tip", "wrist"]


def _write(folder, **content):
    path = folder / "hand.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_a_small_file_gives_a_skeleton_with_pairs_and_sigmas_filled_in(tmp_path):
    path = _write(tmp_path, names=HAND, edges=[[0, 2], ["right_tip", "wrist"]])
    skeleton = Skeleton.of(path)
    assert skeleton.joints == ("left_tip", "right_tip", "wrist") and skeleton.name == "hand"
    assert skeleton.pairs == ((0, 1),) and skeleton.limbs == ((0, 2), (1, 2))
    assert skeleton.sigmas == (OTHER_SIGMA,) * 3
    full = _write(tmp_path, name="h", names=HAND, flip_pairs=[], sigmas=[0.1, 0.1, 0.2])
    assert Skeleton.of(full) == Skeleton("h", skeleton.joints, (), (), (0.1, 0.1, 0.2))


def test_joints_that_coco_has_get_cocos_sigmas_and_its_own_order_is_coco17(tmp_path):
    path = _write(tmp_path, names=["nose", "tail"])
    assert Skeleton.of(path).sigmas == (COCO17.sigmas[0], OTHER_SIGMA)
    category = {"name": "person", "keypoints": [j.replace("_", " ") for j in COCO17.joints]}
    assert Skeleton.from_category(category) is COCO17


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "hand.json: 'names' is null, expected joint names"),
        ({"names": []}, "'names' is empty"),
        ({"names": ["a", "A"]}, "joint names repeat"),
        ({"names": ["a", "b"], "edges": [[0, 5]]}, "'edges' is 5, expected a whole number"),
        ({"names": ["a", "b"], "edges": [[0]]}, "'edges' holds .0., expected pairs of two"),
        ({"names": ["a", "b"], "sigmas": [1.0]}, "1 sigmas for 2 joints"),
        ({"names": ["a", 3]}, "'names' is 3, expected text"),
    ],
)
def test_a_wrong_skeleton_file_says_where_and_what(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        Skeleton.from_file(_write(tmp_path, **content))
