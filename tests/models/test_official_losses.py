"""Losses, assignments and gradients of the official model, fed with its own random draws."""

import json

import numpy as np
import pytest
import torch

from humanquery.models.hqnet import criterion
from humanquery.models.hqnet.convert import our_name
from humanquery.tasks.base import Draws, Truth
from tests.models import oracle
from tests.paths import ORACLE, needs_oracle

pytestmark = needs_oracle
CASES = [(case, dn) for case in ("same", "pad") for dn in ("nodn", "dn")]

NAMES = {
    "class": "cls",
    "box_l1": "bbox",
    "box_giou": "iou",
    "keypoint_class": "kpt_cls",
    "keypoint_l1": "kpt",
    "keypoint_oks": "oks",
    "mask_bce": "mask",
    "mask_dice": "dice",
    "gender": "attr_gender",
    "age": "attr_age",
}
COSTS = {
    "person": ("cls_cost",),
    "keypoint_confidence": ("kpt_cls_cost",),
    "box": ("reg_cost", "iou_cost"),
    "keypoints": ("kpt_cost", "oks_cost"),
    "mask": ("mask_cost", "dice_cost"),
}


def official_name(ours: str, layers: int = 2) -> str:
    """Our name of a loss, as the official log calls it."""
    if ours == "keypoint_heatmap":
        return "loss_hm"
    if ours.startswith("refine"):
        return f"d{ours[6]}.loss_{'kpt' if ours.endswith('l1') else 'oks'}_refine"
    denoising = ours.startswith("denoising.")
    stage, loss = ours.removeprefix("denoising.").split(".")
    if stage == "proposals":
        return f"interm_loss_{NAMES[loss]}"
    index = int(stage.removeprefix("layer"))
    return (
        ("" if index == layers - 1 else f"d{index}.")
        + ("dn_" if denoising else "")
        + f"loss_{NAMES[loss]}"
    )


def draws_of(case: str, dn: str) -> Draws:
    """The recorded random numbers under our names."""
    given = {}
    for key, value in oracle.arrays(f"loss_tiny_{case}_nodn.npz").items():
        if key.startswith("rand/"):
            _, stage, what = key.split("/")
            ours = "proposals" if stage == "enc" else stage.replace("dec", "layer")
            given[f"{ours}/{what}"] = torch.from_numpy(value)
    if dn == "dn":
        stored = oracle.arrays(f"loss_tiny_{case}_dn.npz")
        # stored after the official code had added 1 to the far halves and applied the signs in
        # place
        part = torch.from_numpy(stored["rand/dn/box_part"]).abs()
        part = (
            part.unflatten(0, (int(stored["dn/pad_size_groups"][1]), 2, -1))
            - torch.tensor([0.0, 1.0])[:, None, None]
        )
        part = part.flatten(0, 2)
        given["denoising/sign"] = torch.from_numpy(stored["rand/dn/box_sign01"])
        given["denoising/part"] = part
    return Draws(given=given)


@pytest.fixture(scope="module", params=CASES, ids=lambda p: "-".join(p))
def run(request):
    case, dn = request.param
    model, batch = oracle.tiny_model(), oracle.loss_batch(case)
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    if dn == "nodn":
        model._noise = lambda batch, draws: None
    losses = model(batch, draws_of(case, dn))
    sum(losses.values()).backward()
    reference = json.loads((ORACLE / f"loss_tiny_{case}_{dn}.json").read_text())
    return model, losses, reference, case, dn


def test_every_named_loss_equals_the_official_one(run):
    _, losses, reference, _, _ = run
    ours = {official_name(name): float(value) for name, value in losses.items()}
    assert ours.keys() == reference["losses"].keys()
    for name, value in reference["losses"].items():
        assert ours[name] == pytest.approx(value, rel=1e-5), name
    assert sum(ours.values()) == pytest.approx(reference["total"], rel=1e-5)


def test_every_gradient_norm_equals_the_official_one(run):
    model, _, reference, _, dn = run
    ours = {name: p.grad for name, p in model.named_parameters()}
    compared = 0
    for official, norm in reference["grad_l2_norm"].items():
        grad = ours[our_name(official)]
        if norm is None:
            assert grad is None or not grad.any(), (
                f"{official} gets a gradient here, none officially"
            )
            continue
        assert grad is not None, f"{official} gets no gradient here"
        assert float(grad.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-6), official
        compared += 1
    assert compared > 250


@pytest.mark.parametrize("case", ["same", "pad"])
def test_matching_costs_and_assignments_equal_the_official_ones(case):
    model, batch = oracle.tiny_model(), oracle.loss_batch(case)
    reference = oracle.arrays(f"loss_tiny_{case}_nodn.npz")
    draws = draws_of(case, "nodn")
    with torch.no_grad():
        encoded = model.encode(batch)
        outputs = model.read_queries(encoded, model.prepare(encoded), every_stage=True)
    truths = [Truth.of(t, t.image_size) for t in batch.targets]
    matches = criterion.match(model.tasks, model.config.matching, outputs, truths, draws)
    for (tag, predictions), matched in zip(criterion.stages_of(outputs), matches, strict=True):
        stage = "enc" if tag == "proposals" else tag.replace("layer", "dec")
        for picture, truth in enumerate(truths):
            for task, names in COSTS.items():
                cost = model.tasks[task].cost(predictions[task], picture, truth, draws, tag).numpy()
                expected = sum(reference[f"cost/{stage}/img{picture}/{name}"] for name in names)
                np.testing.assert_allclose(
                    cost,
                    expected,
                    atol=2e-5 * max(1, np.abs(expected).max()),
                    err_msg=f"{stage} {task}",
                )
            here = matched.pictures == picture
            assigned = np.zeros(model.config.num_queries, dtype=int)
            assigned[matched.queries[here].numpy()] = matched.people[here].numpy() + 1
            np.testing.assert_array_equal(
                assigned, reference[f"assign/{stage}/img{picture}"], err_msg=f"{stage} {picture}"
            )


@pytest.mark.parametrize("case", ["same", "pad"])
def test_denoising_queries_equal_the_official_ones(case):
    model, batch = oracle.tiny_model(), oracle.loss_batch(case)
    reference = oracle.arrays(f"loss_tiny_{case}_dn.npz")
    noised = model._noise(batch, draws_of(case, "dn"))
    np.testing.assert_allclose(
        noised.content.detach().numpy(), reference["dn/label_query"], atol=1e-6
    )
    np.testing.assert_allclose(
        noised.boxes_logit.numpy(), reference["dn/bbox_query_unact"], atol=1e-4
    )
    shape = reference["dn/attn_mask_shape"]
    blocked = np.unpackbits(reference["dn/attn_mask"], axis=1)[: shape[0], : shape[1]].astype(bool)
    np.testing.assert_array_equal(noised.blocked.numpy(), blocked)


@pytest.mark.parametrize("case", ["same", "pad"])
def test_train_mode_predictions_equal_the_official_ones(case):
    model, batch = oracle.tiny_model(), oracle.loss_batch(case)
    reference = oracle.arrays(f"loss_tiny_{case}_dn.npz")
    noised = model._noise(batch, draws_of(case, "dn"))
    with torch.no_grad():
        encoded = model.encode(batch)
        outputs = model.read_queries(
            encoded, model.prepare(encoded), every_stage=True, noised=noised
        )
        heat = model.tasks["keypoints"].heatmap(encoded)
    front = len(noised)
    for i, layer in enumerate(outputs.layers):
        found = {
            "boxes": layer["box"].boxes_unit,
            "kpts": layer["keypoints"].joints_unit.flatten(2),
        }
        found["cls_logits"] = layer["person"].logit[..., None]
        for name, value in found.items():
            expected = reference[f"out/{name}"][i][:, front:]
            np.testing.assert_allclose(
                value.numpy(), expected, atol=1e-4 * np.abs(expected).max(), err_msg=name
            )
    expected = reference["out/hm_logits"]
    np.testing.assert_allclose(heat.numpy(), expected, atol=1e-4 * np.abs(expected).max())
