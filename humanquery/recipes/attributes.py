"""Gender and age first, on known boxes: a backbone and a region head that HQNet takes over."""

from pathlib import Path

import torch
from torch import nn

from humanquery.backbones import TimmBackbone
from humanquery.core.batch import Batch
from humanquery.core.errors import CheckpointError
from humanquery.core.target import Target
from humanquery.data.augment.person_crops import RegionAugmentConfig, RegionsConfig
from humanquery.data.loading.loader import EvalLoader, MixConfig, MixPart
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.crops import FacesConfig, PetaConfig
from humanquery.data.readers.sources import SourceConfig, open_source
from humanquery.engine.checkpoint import load_state, read_weights
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.evaluation.attribute_accuracy import RegionReport, RegionScores, score_regions
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models import rebuild
from humanquery.models.attributes.config import AttributesConfig
from humanquery.models.attributes.system import Attributes
from humanquery.recipes.recipe import DataConfig, Recipe, RegionsEvaluation, ValPart
from humanquery.recipes.small import VIEWS, data_root


def attributes_small() -> Recipe:
    """MobileNetV2 (ImageNet) and a region head learn apparent gender and age of people in given
    boxes.

    humanquery train --recipe attributes_small \
        --set model.backbone.weights=PATH/mobilenetv2.safetensors --out runs/attributes

    Without `--set` timm fetches the first weights. Data: people/, peta/ and faces/
    (docs/datasets.md) under HUMANQUERY_DATA. Hardware: one CPU core with bf16 for about two
    hours. The scores it reached stand in EXPERIMENTS.md.
    """
    root = data_root()
    people = {"depicted": "ignore", "fragments": "ignore"}
    # crops have no surroundings to show: what is not person would be grey
    photos = RegionAugmentConfig(canvas=(320, 240), scale=(0.3, 1.0), erase=0.25)
    crops = RegionAugmentConfig(scale=(0.5, 1.0), close=0.08, erase=0.25)
    return Recipe(
        model=AttributesConfig(
            backbone=TimmBackbone(
                "mobilenetv2_100", pretrained=True, frozen_stages=2, frozen_norm=False
            ),
            regions=VIEWS,
        ),
        data=DataConfig(
            train=MixConfig(
                (
                    MixPart(
                        RegionsConfig(CocoSourceConfig(f"{root}/people/train.json", **people)), 0.36
                    ),
                    MixPart(
                        RegionsConfig(CocoSourceConfig(f"{root}/people/train_more.json", **people)),
                        0.24,
                    ),
                    MixPart(RegionsConfig(PetaConfig(f"{root}/peta")), 0.25, crops),
                    MixPart(RegionsConfig(FacesConfig(f"{root}/faces")), 0.15, crops),
                )
            ),
            val=CocoSourceConfig(f"{root}/people/val.json", fields=("gender", "age")),
            augment=photos,
            letterbox=LetterboxConfig(832, 832),  # as HQNet's zoomed view shows them
            also_val=(
                ValPart("peta", PetaConfig(f"{root}/peta", "val"), LetterboxConfig(128, 192)),
                ValPart("faces", FacesConfig(f"{root}/faces", "val"), LetterboxConfig(128, 128)),
            ),
        ),
        engine=EngineConfig(
            steps=8000,
            batch_size=32,
            num_workers=1,
            optim=OptimConfig(
                lr=1e-3,
                weight_decay=5e-2,
                backbone_multiplier=0.5,
                clip=5.0,
                exempt_norms_and_biases=True,
                schedule="cosine",
                warmup_steps=200,
                ema=0.998,
            ),
            precision="bf16",
            channels_last=True,
            log_every=20,
            evaluate_every=0,
            checkpoint_minutes=3.0,
        ),
        data_name="people/ train and train_more (COCO val2017 and train2017 pictures), peta/ "
        "train, faces/ train",
        data_licence="impressions of gender and age and peta/: research only; faces/: "
        "non-commercial research",
        evaluations=(RegionsEvaluation(),),
    )


def evaluate_regions(
    system: nn.Module, data: DataConfig, *, batch_size: int = 8, bf16: bool = False
) -> RegionReport:
    """Scores of a system on the true boxes of `data.val` (the part `people`) and of every
    further part."""
    return RegionsEvaluation(batch_size).run(system, data, bf16=bf16)


def load_attributes(weights: str | Path | None) -> Attributes:
    """The attribute model of a weights file, in eval mode; a file of another model raises
    CheckpointError."""
    if not weights:
        raise CheckpointError(
            "no attribute model is shipped: name a weights file that attributes_small has trained"
        )
    read = read_weights(weights)
    system = rebuild(read.config)
    if not isinstance(system, Attributes):
        raise CheckpointError(
            f"{weights}: holds {type(system).__name__}, expected an attribute model "
            f"(attributes_small)"
        )
    load_state(system, read.state)
    return system.eval()


def score_source(
    system: nn.Module, source: SourceConfig, letterbox: LetterboxConfig, batch_size: int = 8
) -> RegionScores:
    """Scores of the system's predictions in the true boxes of a source. Pictures on a canvas as
    `letterbox` configures."""
    device = next(system.parameters()).device
    loader = EvalLoader(open_source(source), letterbox, batch_size, divisor=32)

    def pairs():
        for batch, truths in loader:
            found = [one.persons for one in system.predict(_with_boxes(batch, truths).to(device))]
            yield from zip(truths, (people.to("cpu") for people in found), strict=True)

    return score_regions(pairs())


def _with_boxes(batch: Batch, truths: list[Target]) -> Batch:
    """The batch with everybody's box on the canvas (no row is dropped, so that rows stay the
    truth's)."""
    targets = [
        Target(
            image_size=meta.canvas_size,
            boxes=meta.to_canvas.boxes(truth.boxes),
            ignore=truth.ignore,
            areas=torch.ones(len(truth)),
        )
        for meta, truth in zip(batch.metas, truths, strict=True)
    ]
    return Batch(batch.images, batch.padding, batch.metas, targets)
