"""The paper's three models on COCO-UniHuman (Table 2)."""

from dataclasses import replace

from humanquery.backbones import TimmBackbone, VitBackbone
from humanquery.data.loading.loader import MixConfig
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.recipes.recipe import DataConfig, Recipe

TRAIN_PICTURES = 64_115  # of COCO train2017 with people
EPOCH = TRAIN_PICTURES // 16


def hqnet_r50() -> Recipe:
    """HQNet with ResNet-50 as released: 100 epochs on COCO-UniHuman, batch 16.

    torchrun --nproc-per-node 16 -m humanquery train --recipe hqnet_r50 --out runs/r50

    Data: COCO 2017 pictures under data/coco/{train,val}2017 and
    coco_unihuman_{train,val}_v1.json under data/coco-unihuman (docs/datasets.md). Hardware: 16
    GPUs of at least 24 GB, one picture each. Expected, people without Small (paper, Table 2):
    box AP 74.9, mask AP 65.8, keypoint AP 69.3, age AP 56.0, gender AP 53.8. Not trained by this
    project.
    """
    root = "data/coco-unihuman"
    return Recipe(
        model=HQNetConfig(backbone=TimmBackbone("resnet50", pretrained=True)),
        data=DataConfig(
            train=MixConfig.of(
                CocoSourceConfig(
                    f"{root}/coco_unihuman_train_v1.json", "data/coco/train2017", keep_empty=False
                )
            ),
            val=CocoSourceConfig(f"{root}/coco_unihuman_val_v1.json", "data/coco/val2017"),
        ),
        engine=EngineConfig(
            steps=100 * EPOCH,
            batch_size=1,
            num_workers=4,
            evaluate_every=10 * EPOCH,
            find_unused_parameters=True,
        ),
        data_name="COCO-UniHuman v1 train",
        data_licence="annotations: see COCO-UniHuman; pictures: Flickr terms",
    )


def hqnet_swin_l() -> Recipe:
    """HQNet with Swin-L, otherwise as hqnet_r50.

    torchrun --nproc-per-node 16 -m humanquery train --recipe hqnet_swin_l --out runs/swin_l

    Data as hqnet_r50. Hardware: 16 GPUs of 40 GB or more. Expected, people without Small (paper,
    Table 2): box AP 77.3, mask AP 68.1, keypoint AP 72.6, age AP 57.9, gender AP 56.2. Not
    trained by this project.
    """
    recipe = hqnet_r50()
    backbone = TimmBackbone(
        "swin_large_patch4_window12_384",
        pretrained=True,
        frozen_stages=0,
        options={"drop_path_rate": 0.2},
    )
    return replace(recipe, model=replace(recipe.model, backbone=backbone))


def hqnet_vit_l() -> Recipe:
    """HQNet with ViT-L and a simple feature pyramid, otherwise as hqnet_r50.

    torchrun --nproc-per-node 16 -m humanquery train --recipe hqnet_vit_l \
        --set engine.precision=bf16 --out runs/vit_l

    Data as hqnet_r50. Hardware: 16 GPUs of 80 GB. Expected, people without Small (paper, Table
    2): box AP 78.0, mask AP 68.6, keypoint AP 75.3, age AP 58.0, gender AP 58.0. Not trained by
    this project; the paper does not name the ViT's pretraining, timm's default weights are
    taken.
    """
    recipe = hqnet_r50()
    return replace(
        recipe,
        model=replace(recipe.model, backbone=VitBackbone("vit_large_patch16_224", pretrained=True)),
    )
