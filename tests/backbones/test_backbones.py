"""Every backbone keeps the same promises."""

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from humanquery.backbones import TimmBackbone, VitBackbone
from humanquery.backbones.neck import ChannelMapper
from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.experts import MoveNetBackbone, build
from tests.paths import DATA, WEIGHTS, needs_data, needs_weights

SMALL = {
    "resnet": TimmBackbone("resnet10t", frozen_stages=1),
    "mobilenet": TimmBackbone("mobilenetv2_100", frozen_stages=2),
    "swin": TimmBackbone(
        "swin_tiny_patch4_window7_224",
        frozen_stages=0,
        options={"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
    ),
    "movenet": MoveNetBackbone(width=0.35),
    "movenet with heads": MoveNetBackbone(width=0.35, heads=True),
    "vit": VitBackbone("vit_tiny_patch16_224", options={"depth": 2, "embed_dim": 48}),
}


@pytest.fixture(params=SMALL, scope="module")
def backbone(request):
    torch.manual_seed(0)
    return build(SMALL[request.param])


@pytest.mark.parametrize("size", [(64, 96), (33, 70), (32, 32)])
def test_maps_have_the_told_channels_and_sides_rounded_up(backbone, size):
    features = backbone.eval()(torch.rand(2, 3, *size))
    assert [f.shape[1] for f in features] == list(backbone.channels)
    assert [tuple(f.shape[-2:]) for f in features] == [
        tuple(-(-s // stride) for s in size) for stride in backbone.strides
    ]


def test_gradients_reach_what_is_not_frozen_and_nothing_else(backbone):
    backbone.train().zero_grad()
    sum(f.square().mean() for f in backbone(torch.rand(2, 3, 64, 64))).backward()
    trained = {n for n, p in backbone.named_parameters() if p.grad is not None}
    assert trained
    assert not trained & {n for n, p in backbone.named_parameters() if not p.requires_grad}


def test_frozen_norms_stay_in_eval_mode_after_train():
    backbone = build(TimmBackbone("resnet10t"))
    backbone.train()
    assert backbone.batch_norms() and not any(m.training for m in backbone.batch_norms())
    assert not any(p.requires_grad for m in backbone.batch_norms() for p in m.parameters())
    free = build(TimmBackbone("resnet10t", frozen_norm=False, frozen_stages=0)).train()
    assert all(m.training for m in free.batch_norms())
    assert all(p.requires_grad for p in free.parameters())


def test_the_papers_resnet_freezes_stem_and_first_stage():
    backbone = build(TimmBackbone("resnet18", frozen_stages=1, frozen_norm=False))
    frozen = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}


def test_unknown_names_and_absent_weights_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="resnot50.*timm.list_models"):
        build(TimmBackbone("resnot50"))
    with pytest.raises(CheckpointError, match="no such file"):
        build(TimmBackbone("resnet10t", weights=str(tmp_path / "none.safetensors")))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="not a readable"):
        build(TimmBackbone("resnet10t", weights=str(broken)))
    other = tmp_path / "other.safetensors"
    save_file({"layer9.weight": torch.zeros(2)}, other)
    with pytest.raises(CheckpointError, match="missing.*unexpected"):
        build(TimmBackbone("resnet10t", weights=str(other)))


def test_pretrained_weights_without_a_hub_offer_a_local_file(monkeypatch):
    import timm

    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no route")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError, match="backbone.weights"):
        build(TimmBackbone("resnet10t", pretrained=True))


def test_local_weights_in_timm_names_are_read(tmp_path):
    source = build(TimmBackbone("resnet10t"))
    save_file(
        {n: t.half() if t.is_floating_point() else t for n, t in source.body.state_dict().items()},
        tmp_path / "w.safetensors",
    )
    copy = build(TimmBackbone("resnet10t", weights=str(tmp_path / "w.safetensors")))
    for name, value in source.body.state_dict().items():
        torch.testing.assert_close(
            copy.body.state_dict()[name].float(), value.float(), atol=2e-3, rtol=2e-3
        )


@needs_weights
def test_torchvisions_mobilenet_lands_layer_by_layer_in_timms():
    """Checked against torchvision's own network."""
    import torchvision

    path = WEIGHTS / "mobilenetv2_imagenet_features.fp16.safetensors"
    theirs = torchvision.models.mobilenet_v2(weights=None)
    with safe_open(path, "pt") as tensors:
        theirs.load_state_dict(
            {n: tensors.get_tensor(n).float() for n in tensors.keys()}, strict=False
        )  # noqa: SIM118
    ours = build(TimmBackbone("mobilenetv2_100", weights=str(path))).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features, x = ours(images), images
        for i, layer in enumerate(theirs.eval().features[:18]):
            x = layer(x)
            if i == 13:
                torch.testing.assert_close(features[2], x, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(features[3], x, atol=1e-4, rtol=1e-3)


@needs_weights
@needs_data
def test_movenets_backbone_finds_people_with_movenets_own_head():
    """The best peak of the centre map of a photo lies in a labelled person."""
    import json

    path = WEIGHTS / "movenet_multipose.fp16.safetensors"
    backbone = build(MoveNetBackbone(weights=str(path), heads=True)).eval()
    assert backbone.channels == (40 + 114, 48 + 384, 96 + 122, 1280 + 90)
    truth = json.loads((DATA / "people" / "val.json").read_text())
    hits = []
    for record in truth["images"][:6]:
        picture = cv2.imread(str(DATA / "people" / "images" / record["file_name"]))[..., ::-1]
        image = cv2.resize(picture, (256, 256))
        tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            peak = backbone(tensor)[0][0, 40 + 24]
        y, x = divmod(int(peak.argmax()), peak.shape[1])
        x, y = (x + 0.5) * 4 / 256 * record["width"], (y + 0.5) * 4 / 256 * record["height"]
        boxes = [a["bbox"] for a in truth["annotations"] if a["image_id"] == record["id"]]
        hits.append(any(b[0] <= x <= b[0] + b[2] and b[1] <= y <= b[1] + b[3] for b in boxes))
    assert sum(hits) >= 5, hits


def test_the_mapper_adds_a_level_from_the_coarsest_map_itself():
    mapper = ChannelMapper((8, 16, 32, 64), 32, groups=8)
    sizes = [(40, 56), (20, 28), (10, 14), (5, 7)]
    out = mapper([torch.rand(2, c, *s) for c, s in zip((8, 16, 32, 64), sizes, strict=True)])
    assert [tuple(o.shape[1:]) for o in out] == [(32, *s) for s in sizes] + [(32, 3, 4)]
    assert tuple(mapper.extra[0].conv.weight.shape) == (32, 64, 3, 3)
    assert len(ChannelMapper((8, 16, 32, 64), 32, groups=8, extra_levels=0).extra) == 0
