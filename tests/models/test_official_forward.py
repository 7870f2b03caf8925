"""Every recorded array of the official model's forward pass."""

import numpy as np
import pytest
import torch

from humanquery.models.hqnet.trunk import top_tokens
from humanquery.nn.encodings import inverse_sigmoid
from humanquery.tasks.base import PROPOSALS
from tests.models import oracle
from tests.paths import needs_oracle

pytestmark = needs_oracle


@pytest.fixture(scope="module")
def found() -> dict[str, np.ndarray]:
    """The same arrays from our model, under the oracle's names."""
    model, batch = oracle.tiny_model(), oracle.input_a()
    kept: dict[str, list] = {}

    def keep(name):
        return lambda _module, _inputs, output: kept.setdefault(name, []).append(output)

    model.backbone.register_forward_hook(keep("backbone"))
    model.neck.register_forward_hook(keep("neck"))
    model.encoder.layers[0].attention.register_forward_hook(
        lambda m, i, o: kept.setdefault("enc_attn", []).append((i, o))
    )
    for i, layer in enumerate(model.encoder.layers):
        layer.register_forward_hook(keep(f"enc{i}"))
    model.decoder.position.register_forward_hook(keep("position"))
    model.decoder.layers[0].self_norm.register_forward_pre_hook(
        lambda m, i: kept.setdefault("selfattn", []).append(i[0])
    )
    model.decoder.layers[0].cross_norm.register_forward_pre_hook(
        lambda m, i: kept.setdefault("crossattn", []).append(i[0])
    )
    for i, layer in enumerate(model.decoder.layers):
        layer.feedforward_norm.register_forward_hook(keep(f"raw{i}"))

    with torch.no_grad():
        encoded = model.encode(batch)
        prepared = model.prepare(encoded)
        features, _ = model.selection(encoded)
        outputs = model.read_queries(encoded, prepared, every_stage=True)
        last, box = outputs.layers[-1], model.tasks["box"]
        order = last["person"].logit[0].sigmoid().topk(20).indices
        joints = last["keypoints"].joints_unit[:, order]
        unheard = torch.ones(1, 20, 2), torch.zeros(1, 20, model.config.transformer.dim)
        points, states = model.tasks["keypoints"].refinement(joints, encoded, *unheard)
        moved = box.heads[-2](kept["raw1"][0]) + inverse_sigmoid(outputs.references[-1])

    def per_layer(read):
        return torch.stack([read(layer) for layer in outputs.layers])

    def masks(prediction):
        return prediction.logits(torch.arange(prediction.embeddings.shape[1])[None])

    top = outputs.proposals
    arrays = {f"backbone_c{i + 2}": level for i, level in enumerate(kept["backbone"][0])}
    arrays |= {f"neck_p{i}": level for i, level in enumerate(kept["neck"][0])}
    start = 0
    for i, (h, w) in enumerate(encoded.shapes):
        span = slice(start, start + h * w)
        start += h * w
        arrays[f"padding_mask_l{i}"] = encoded.padding[:, span].unflatten(1, (h, w))
        encoding = encoded.position[:, span] - model.encoder.level_embeds[i]
        arrays[f"pos_embed_l{i}"] = encoding.transpose(1, 2).unflatten(2, (h, w))
    arrays |= {
        "enc_layer0": kept["enc0"][0],
        "memory": encoded.memory,
        "enc_output_memory": features,
        "enc_cls_all": model.tasks["person"].heads[PROPOSALS](features),
        "enc_reg_all": box.heads[PROPOSALS](features),
        "topk_indices": outputs.selected,
        "topk_cls_logits": top["person"].logit[..., None],
        "topk_boxes": top["box"].boxes_unit,
        "topk_kpts": top["keypoints"].joints_unit.flatten(2),
        "topk_kpt_cls_logits": top["keypoint_confidence"].logit[..., None],
        "topk_attr_logits": torch.cat([-top["gender"].logit[..., None], top["age"].logits], -1),
        "topk_mask_logits": masks(top["mask"]),
        "mask_features": prepared["mask"].cells,
        "dec_hs": torch.stack(outputs.queries),
        "dec_refs": torch.stack([*outputs.references, moved.sigmoid()]),
        "dec_query_pos": torch.stack(kept["position"]),
        "dec_layer0_raw": kept["raw0"][0],
        "dec_layer1_raw": kept["raw1"][0],
        "dec_layer0_selfattn": kept["selfattn"][0],
        "dec_layer0_crossattn": kept["crossattn"][0],
        "cls_logits": per_layer(lambda p: p["person"].logit[..., None]),
        "boxes": per_layer(lambda p: p["box"].boxes_unit),
        "kpts": per_layer(lambda p: p["keypoints"].joints_unit.flatten(2)),
        "kpt_cls_logits": per_layer(lambda p: p["keypoint_confidence"].logit[..., None]),
        "gender_logits": per_layer(lambda p: -p["gender"].logit[..., None]),
        "age_logits": per_layer(lambda p: p["age"].logits),
        "mask_logits": per_layer(lambda p: masks(p["mask"])),
        "final_query_idx": order[None],
        "refine_input_kpts": joints.flatten(2),
        "refine_output_kpts": torch.stack(points, 1),
        "refine_hs": torch.stack(states, 1),
    }
    (attention_input, attention_output) = kept["enc_attn"][0]
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in kept["neck"][0][1:]], 1)
    arrays["enc_layer0_attn"] = tokens + attention_output
    return {name: value.detach().numpy() for name, value in arrays.items()}


EXACT = (
    "padding_mask_l0",
    "padding_mask_l1",
    "padding_mask_l2",
    "padding_mask_l3",
    "topk_indices",
    "final_query_idx",
)
POSTPROCESSED = ("img0", "img_", "ori_", "scale_factor", "simple_test", "input", "enc_layer1")


def test_every_recorded_array_of_the_forward_pass_is_met(found):
    check = oracle.module("compare").Oracle(str(oracle.ORACLE), "eval_tiny_A.npz", rtol=1e-4)
    names = [n for n in check.m if not n.startswith(POSTPROCESSED)]
    assert set(names) == set(found), (
        "an array of the oracle is not compared, or one of ours has no counterpart"
    )
    results = {name: check.check(name, found[name]) for name in names}
    assert all(results.values()), check.report()


def test_top_tokens_and_kept_queries_are_exactly_the_official_ones(found):
    for name in ("topk_indices", "final_query_idx"):
        np.testing.assert_array_equal(found[name], oracle.arrays("eval_tiny_A.npz")[name])


def test_top_tokens_takes_all_where_a_picture_has_fewer_tokens_than_queries():
    assert top_tokens(torch.tensor([[0.1, 0.3, 0.2]]), 10).tolist() == [[1, 2, 0]]


def test_predicted_people_equal_the_official_rows():
    reference = oracle.arrays("eval_tiny_A.npz")
    model, batch = oracle.tiny_model(), oracle.input_a()
    people = model.predict(batch)[0].persons
    rows = reference["img0_det_rows"]
    np.testing.assert_allclose(people.boxes.numpy(), rows[:, :4], atol=1e-4 * 320)
    np.testing.assert_allclose(people.scores.numpy(), rows[:, 4], atol=1e-4)
    # the official flag is 1 for label 0 (male); ours is the probability of label 1 (female)
    np.testing.assert_array_equal(people.gender.numpy() < 0.5, rows[:, 5] == 1)
    np.testing.assert_allclose(people.age.numpy(), rows[:, 6], atol=1e-4 * 84)
    np.testing.assert_allclose(people.keypoint_scores[:, 0].numpy(), rows[:, -1], atol=1e-4)
    np.testing.assert_allclose(
        people.keypoints.numpy(), reference["img0_det_kpts_official"][..., :2], atol=1e-4 * 320
    )
    np.testing.assert_allclose(
        people.mask_scores.numpy(), reference["img0_mask_boxes_scores"][:, 4], atol=1e-4
    )
    h, w = reference["img0_masks_shape"][1:]
    masks = (
        np.unpackbits(reference["img0_masks_packed"], axis=1)[:, : h * w]
        .reshape(-1, h, w)
        .astype(bool)
    )
    wrong = (people.masks.numpy()[: len(masks)] != masks).sum((1, 2))
    assert wrong.max() <= 20, f"mask pixels that differ per person: {wrong}"
