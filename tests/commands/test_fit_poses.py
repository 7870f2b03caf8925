"""Numbers of the pose NMS and of PGPG, fitted on labelled pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from humanquery.cli import app
from humanquery.commands.fit_pose_nms import LabelledPoses, fit, read, write
from humanquery.commands.fit_proposals import fit as fit_boxes
from humanquery.commands.fit_proposals import matched, part_boxes
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.persons import Persons
from humanquery.core.pose_nms import PoseNMSConfig
from humanquery.core.skeleton import COCO17
from humanquery.data.augment.proposals import ProposalModel
from humanquery.data.readers.persons import PersonsConfig, PersonSource
from humanquery.engine.checkpoint import save_state_dict
from humanquery.models.topdown.config import LiteHRNetConfig, TopDownConfig
from humanquery.models.topdown.system import TopDown

K = len(COCO17)


def poses(places: list[float], scores: list[float]) -> Persons:
    """The same pose moved right by each of `places` px."""
    rng = np.random.default_rng(0)
    base = torch.tensor(rng.uniform(20, 80, (K, 2))).float()
    joints = torch.stack([base + torch.tensor([shift, 0.0]) for shift in places])
    return Persons(
        image_size=(100, 200),
        boxes=torch.tensor([[20.0, 20, 80, 80]]).repeat(len(places), 1),
        scores=torch.tensor(scores),
        keypoints=joints,
        keypoint_scores=torch.tensor(scores)[:, None].expand(-1, K).clone(),
        skeleton=COCO17,
    )


def labelled(found: Persons, real: list[int]) -> LabelledPoses:
    """The truth: the poses in rows `real`."""
    truth = []
    for row in real:
        flat = torch.cat([found.keypoints[row].double() - 0.5, torch.full((K, 1), 2.0)], 1)
        joints = flat.flatten().tolist()
        truth.append({"image_id": 1, "keypoints": joints, "bbox": [20, 20, 60, 60], "area": 3600.0})
    return LabelledPoses([{"id": 1, "height": 100, "width": 200}], truth, [found])


def test_fitting_finds_numbers_that_join_the_double_which_the_start_leaves(tmp_path):
    # the double of the first person outranks the second one
    people = labelled(poses([0.0, 6.0, 100.0], [0.8, 0.79, 0.4]), [0, 2])
    start = PoseNMSConfig(matches=None, merge=False, similarity=5.0)
    before = people.score(start)
    fitted = fit(people, start, max_rounds=2)
    assert before < 0.9 and fitted.value == pytest.approx(1.0, abs=0.01)
    write(fitted, before, tmp_path / "nms.json")
    assert read(tmp_path / "nms.json") == fitted.config


def test_joining_everybody_scores_less_than_joining_nobody():
    both = labelled(poses([0.0, 100.0], [0.8, 0.8]), [0, 1])
    apart = both.score(PoseNMSConfig(merge=False))
    joined = both.score(PoseNMSConfig(merge=False, similarity=-1.0, distance_scale=1e5))
    assert apart == pytest.approx(1.0, abs=0.01) and joined < 0.6


def test_a_file_that_is_no_pose_nms_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(AnnotationError, match="has no 'pose_nms'; expected the numbers"):
        read(path)
    path.write_text(json.dumps({"pose_nms": {"similarty": 1}}))
    with pytest.raises(ConfigError, match="similarty"):
        read(path)


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures with one labelled person each and a file of boxes about them."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    images, people, boxes = [], [], []
    for i in range(1, 13):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(
            tmp_path / f"images/{i}.png"
        )
        images.append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 80})
        joints = np.concatenate([rng.uniform(15, 45, (K, 2)), np.full((K, 1), 2.0)], 1)
        box = [12, 12, 36, 36]
        person = {"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": 900, "iscrowd": 0}
        people.append(person | {"keypoints": joints.ravel().tolist(), "num_keypoints": K})
        moved = (np.array(box) + rng.uniform(-3, 3, 4)).tolist()
        boxes.append({"image_id": i, "bbox": moved, "score": 0.9, "category_id": 1})
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO17.joints), "skeleton": []}]
    whole = {"images": images, "annotations": people, "categories": categories}
    (tmp_path / "people.json").write_text(json.dumps(whole))
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path


def run(*arguments) -> str:
    ran = CliRunner().invoke(app, [str(each) for each in arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_the_verb_fits_proposals_that_training_reads(folder):
    out = folder / "proposals.json"
    said = run(
        "data", "fit-proposals", folder / "people.json", "--boxes", folder / "boxes.json",
        "--out", out, "--components", 2,
    )  # fmt: skip
    assert "person: 12 people" in said
    model = ProposalModel.load(out)
    rng = np.random.default_rng(0)
    drawn = np.stack([model.proposal(np.array([10.0, 10, 50, 50]), "person", rng) for _ in "1234"])
    assert np.abs(drawn - [10, 10, 50, 50]).max() < 15


def test_people_without_a_box_near_them_are_left_out(folder):
    source = PersonSource(PersonsConfig(str(folder / "people.json"), layout="coco"))
    target = source.target(0)
    assert part_boxes(target, 0)["person"].tolist() == [12, 12, 48, 48]
    far = Persons(
        image_size=(60, 80), boxes=torch.tensor([[60.0, 0, 80, 20]]), scores=torch.ones(1)
    )
    nobody = Persons.empty((60, 80))
    assert matched([([target], far), ([target], nobody)]) == {}
    with pytest.raises(AnnotationError, match="nobody matched .* at least 9"):
        fit_boxes({}, np.random.default_rng(0), 3)


def test_the_verb_fits_the_pose_nms_of_a_model(folder):
    config = TopDownConfig(
        skeleton="coco17",
        network=LiteHRNetConfig(width=8, modules=(1, 1, 1)),
        input_size=(64, 32),
        joints_by="heatmap",
        flip_test=False,
    )
    weights = folder / "body.safetensors"
    save_state_dict(weights, TopDown(config).state_dict(), config, {"name": "body"})
    said = run(
        "fit", "pose-nms", "--data", folder / "people.json", "--weights", weights,
        "--boxes", folder / "boxes.json", "--out", folder / "nms.json", "--limit", 3,
    )  # fmt: skip
    assert "on 3 pictures" in said
    assert isinstance(read(folder / "nms.json"), PoseNMSConfig)
