"""The second look at masks, trained alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from humanquery.backbones import TimmBackbone
from humanquery.commands.second_look import SecondLookConfig, cut_people, learn, mirrored, run
from humanquery.core.errors import ConfigError
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.engine.checkpoint import read_weights, save_weights
from humanquery.engine.optim import OptimConfig
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.predict.predictor import Predictor
from humanquery.tasks.mask import MaskConfig
from humanquery.tasks.mask_refinement import MaskRefinement, MaskRefinementConfig
from tests.models.small import small_config

SMALL = MaskRefinementConfig(grid=8, width=8, layers=1)


def model(refinement: MaskRefinementConfig | None = SMALL) -> HQNet:
    torch.manual_seed(0)
    config = small_config(mask=MaskConfig(num_points=64, in_boxes=True, refinement=refinement))
    backbone = TimmBackbone(
        "test_resnet", options={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}
    )
    return HQNet(replace(config, backbone=backbone, input=LetterboxConfig(96, 96))).eval()


def photos(folder, box=(20, 10, 40, 70)) -> Path:
    """Two photos of one person each, drawn as a filled box."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (folder / "images").mkdir(exist_ok=True)
    for i in (1, 2):
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(
            folder / "images" / f"{i}.png"
        )
        images.append({"id": i, "file_name": f"{i}.png", "width": 96, "height": 96})
        x, y, w, h = box
        outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations.append(
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": list(box),
                "area": w * h,
                "iscrowd": 0,
                "segmentation": outline,
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    path = folder / "people.json"
    path.write_text(json.dumps(content))
    return path


def annotations_of(*given) -> str:
    return str(photos(*given))


def a_box_it_finds(folder) -> tuple[int, int, int, int]:
    """What the untrained model says is a person, so that somebody is found."""
    source = CocoSourceConfig(annotations_of(folder)).build()
    x1, y1, x2, y2 = (
        Predictor(model()).predict(source[0].image, score=0.0).boxes[0].round().int().tolist()
    )
    return x1, y1, max(x2 - x1, 8), max(y2 - y1, 8)


def test_people_are_cut_out_with_their_true_masks_and_mirrored_photos_likewise(tmp_path):
    source = CocoSourceConfig(
        annotations_of(tmp_path, a_box_it_finds(tmp_path)), fields=("masks",)
    ).build()
    cut = cut_people(model(), source[0])
    assert (
        cut["maps"].shape == (1, 64, 4, 4)
        and cut["logits"].shape == (1, 1, 8, 8)
        and cut["masks"].shape == (1, 64)
    )
    assert (
        0.3 < float(cut["masks"].float().mean()) / 255 <= 1
    )  # a box that fills most of its window
    other = mirrored(source[0])
    assert np.array_equal(other.image, source[0].image[:, ::-1])
    assert torch.equal(other.target.masks.value, source[0].target.masks.value.flip(-1))


def test_nobody_drawn_or_found_gives_nothing(tmp_path):
    sample = CocoSourceConfig(annotations_of(tmp_path, (0, 0, 3, 3))).build()[0]
    assert cut_people(model(), sample) is None
    assert cut_people(model(), replace(sample, target=sample.target.replace(masks=None))) is None


def quick(**fields) -> OptimConfig:
    return replace(SecondLookConfig().optim, **fields)


def test_it_learns_and_ends_with_averaged_weights(tmp_path):
    torch.manual_seed(0)
    refinement = MaskRefinement(SMALL, 4)
    left = torch.zeros(8, 8)
    left[:, :4] = 1.0
    true = torch.stack([left, 1 - left] * 20)
    logits = (1 - 2 * true)[:, None] * 0.5  # the wrong half
    people = {
        "maps": torch.zeros(40, 8, 4, 4).half(),
        "logits": logits.half(),
        "masks": (true * 255).flatten(1).byte(),
    }
    assert _iou(refinement, people) == 0
    config = SecondLookConfig(epochs=60, batch_size=20, optim=quick(lr=1e-2, ema=0.9))
    learn(refinement, people, tmp_path, config)
    assert _iou(refinement, people) > 0.9


def _iou(refinement, people) -> float:
    found = (
        refinement.eval().refined(people["maps"].float(), people["logits"].float()).flatten(1) > 0
    )
    true = people["masks"] > 127
    return float(((found & true).sum(1) / (found | true).sum(1)).mean())


def test_a_run_changes_the_second_look_only_and_goes_on_where_it_was(tmp_path, capsys):
    data = photos(tmp_path, a_box_it_finds(tmp_path))
    weights = save_weights(tmp_path / "model.safetensors", model())
    out = tmp_path / "out"
    written = run(weights, data, out, SecondLookConfig(epochs=4, batch_size=2))
    before, after = read_weights(weights).state, read_weights(written).state
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("tasks.mask.refinement.") for name in changed)
    assert read_weights(written).card["second_look"]["weights"] == "model.safetensors"
    assert "photo 2/2: " in capsys.readouterr().out
    run(weights, data, out, SecondLookConfig(epochs=4, batch_size=2))
    assert "photo" not in capsys.readouterr().out
    run(written, data, out, SecondLookConfig(epochs=4, batch_size=2))
    assert "photo 2/2: " in capsys.readouterr().out  # other weights: nothing of the first is taken


def test_a_model_without_a_second_look_and_data_without_masks_say_so(tmp_path):
    plain = save_weights(tmp_path / "plain.safetensors", model(None))
    with pytest.raises(ConfigError, match="takes no second look at masks"):
        run(plain, photos(tmp_path), tmp_path / "a", SecondLookConfig())
    weights = save_weights(tmp_path / "model.safetensors", model())
    with pytest.raises(ConfigError, match="nobody with a drawn mask was found"):
        run(weights, photos(tmp_path, (0, 0, 3, 3)), tmp_path / "b", SecondLookConfig())
