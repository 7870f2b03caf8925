"""Inputs and weights of the official model's recorded arrays (see the README beside them)."""

import importlib.util
import json
from functools import cache
from types import ModuleType

import numpy as np
import torch

from humanquery.core.batch import Batch, Meta
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target
from humanquery.models.hqnet.convert import from_official, infer_config, with_release_quirks
from humanquery.models.hqnet.hqnet import HQNet
from tests.models.official_resnet import OfficialResNet
from tests.paths import ORACLE


@cache
def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"oracle_{name}", ORACLE / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(ORACLE / name) as stored:
        return {key: stored[key] for key in stored.files}


def official_state(model: str = "tiny", seed: int = 0) -> dict[str, torch.Tensor]:
    keys = json.loads((ORACLE / f"state_dict_keys_{model}.json").read_text())["keys"]
    filled = module("det_weights").fill_state_dict({k["key"]: k["shape"] for k in keys}, seed)
    return {name: torch.from_numpy(value) for name, value in filled.items()}


def tiny_model(num_points: int = 1024) -> HQNet:
    """The reduced model of the oracle, with the release's behaviour where the arrays need it."""
    from dataclasses import replace

    state = official_state()
    config = with_release_quirks(infer_config(state))
    mask = replace(config.tasks.mask, num_points=num_points)
    config = replace(config, tasks=replace(config.tasks, mask=mask), num_persons=20)
    return from_official(state, backbone=OfficialResNet(8), config=config)


def batch_of(images: list[np.ndarray], targets: list[Target] | None = None) -> Batch:
    """Normalised float pictures, zero-padded right and bottom to a common canvas."""
    height, width = (max(i.shape[d] for i in images) for d in (1, 2))
    canvas = torch.zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for i, image in enumerate(images):
        _, h, w = image.shape
        canvas[i, :, :h, :w] = torch.from_numpy(image)
        padding[i, :h, :w] = False
    metas = [Meta(image_size=i.shape[1:], canvas_size=i.shape[1:]) for i in images]
    return Batch(canvas, padding, metas, targets)


def input_a() -> Batch:
    return batch_of([module("det_weights").normal_image("A", (1, 3, 320, 256))[0]])


def true_people(case: str) -> list[Target]:
    """The fabricated truth; its joints are already continuous coordinates."""
    return [_target(picture) for picture in module("fake_gt").make(case)]


def _target(picture: dict) -> Target:
    n = len(picture["boxes"])
    joints = torch.from_numpy(picture["keypoints"]).reshape(n, 17, 3)
    gender, age = torch.from_numpy(picture["attributes"]).unbind(1)
    known = torch.ones(n, dtype=torch.bool)
    return Target(
        image_size=tuple(int(s) for s in picture["hw"]),
        boxes=torch.from_numpy(picture["boxes"]),
        ignore=~known,
        areas=torch.from_numpy(picture["areas"]),
        keypoints=Labelled(joints[..., :2].contiguous(), known),
        visibility=joints[..., 2].long(),
        masks=Labelled(torch.from_numpy(picture["masks"]).bool(), known),
        gender=Labelled(gender.clamp(min=0).float(), gender >= 0),
        age=Labelled(age.clamp(min=0).float()[:, None].repeat(1, 2), age >= 0),
        skeleton=COCO17,
    )


def loss_batch(case: str) -> Batch:
    targets = true_people(case)
    image = module("det_weights").normal_image
    return batch_of(
        [image(f"L/{case}/{i}", (3, *t.image_size)) for i, t in enumerate(targets)], targets
    )
