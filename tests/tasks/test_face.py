"""Face boxes: one task file beside the others, learned with everything else frozen."""

from dataclasses import replace

import pytest
import torch

from humanquery.core.rows import Labelled
from humanquery.core.system import Ask
from humanquery.engine.optim import freeze_others
from humanquery.models.hqnet.config import ExtraTask
from humanquery.tasks.face import USUAL_SIDES, FaceConfig
from tests.models.small import batch, crowd, nobody, small_config, small_model


def faces(target, *known):
    """A face in the upper part of every box; `known`: whether somebody annotated it."""
    x1, y1, x2, y2 = target.boxes.unbind(1)
    middle, height = (x1 + x2) / 2, y2 - y1
    boxes = torch.stack([middle - 4, y1 + 0.05 * height, middle + 4, y1 + 0.25 * height], 1)
    return target.replace(face_boxes=Labelled(boxes, torch.tensor(known)))


def model():
    return small_model(small_config(face=FaceConfig()))


def only_faces(path):
    return {n: v for n, v in path(batch([faces(crowd(), True, True)])).items() if "face" in n}


def test_the_task_alone_learns_and_leaves_all_else_as_it_was():
    hqnet = model().eval()
    freeze_others(hqnet, ("tasks.face.",))
    before = {n: v.clone() for n, v in hqnet.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in hqnet.parameters() if p.requires_grad], 1e-2)
    totals = []
    for _ in range(8):
        total = sum(only_faces(hqnet).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.95 * totals[0]
    moved = {n for n, v in hqnet.state_dict().items() if not torch.equal(v, before[n])}
    assert moved and all(name.startswith("tasks.face.") for name in moved)


def test_faces_that_nobody_annotated_cost_nothing_and_give_no_gradient():
    hqnet = model()
    for target in (crowd(), faces(crowd(), False, False), nobody()):
        losses = {n: v for n, v in hqnet(batch([target])).items() if "face" in n}
        assert losses and all(v.item() == 0 for v in losses.values())
        sum(losses.values()).backward()
        assert not any(p.grad is not None and p.grad.any() for p in hqnet.tasks.face.parameters())


def test_a_fresh_head_says_the_usual_place_in_the_reference_box():
    hqnet = model()
    from humanquery.tasks.base import Reference

    logit = torch.tensor([[[0.5, 0.5, 0.4, 0.5]]]).logit()
    said = hqnet.tasks.face.read(0, torch.rand(1, 1, 32), Reference(logit), None)
    assert said.boxes_unit[0, 0].tolist() == pytest.approx(
        [0.5, 0.5 - 0.36 * 0.5, USUAL_SIDES[0] * 0.4, USUAL_SIDES[1] * 0.5]
    )


def test_people_have_face_boxes_in_pixels_of_the_picture_and_json_says_them():
    hqnet = model().eval()
    people = hqnet.predict(batch([crowd()]), Ask(max_persons=3))[0].persons
    assert people.face_boxes.shape == (3, 4)
    height, width = people.image_size
    limit = torch.tensor([width, height, width, height])
    assert (people.face_boxes >= 0).all() and (people.face_boxes <= limit).all()
    assert all("face_box" in person for person in people.to_json()["persons"])


def test_who_does_not_ask_for_faces_gets_none():
    hqnet = model().eval()
    asked = Ask(max_persons=3, outputs=frozenset({"gender"}))
    assert hqnet.predict(batch([crowd()]), asked)[0].persons.face_boxes is None


def test_it_is_added_to_a_model_by_the_name_of_its_class():
    plain = small_config()
    added = replace(plain, tasks=replace(plain.tasks, extra=(ExtraTask("FaceTask"),)))
    names = small_model(added).state_dict().keys() - small_model(plain).state_dict().keys()
    assert names and all(name.startswith("tasks.face.heads.") for name in names)
