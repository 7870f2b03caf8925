"""PATH: pretraining on many data sets, and what is fine-tuned from it (HumanBench)."""

from dataclasses import replace

from humanquery.data.augment.augment import AugmentConfig
from humanquery.data.augment.copy_paste import CopyPasteConfig
from humanquery.data.augment.pedestrians import PedestrianAugmentConfig
from humanquery.data.augment.person_samples import PersonSampleConfig
from humanquery.data.loading.data_sets import DataSetPart, DataSetsConfig
from humanquery.data.readers.counting import CountingConfig
from humanquery.data.readers.identities import IdentityConfig
from humanquery.data.readers.parsing import ParsingConfig
from humanquery.data.readers.pedestrian_attributes import PETA_35, PetaAttributesConfig
from humanquery.data.readers.persons import PersonsConfig
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.path.config import (
    AttributeHeadConfig,
    CountingHeadConfig,
    DataSetConfig,
    IdentityHeadConfig,
    LadderConfig,
    ParsingHeadConfig,
    PathBackbone,
    PathConfig,
    PoseHeadConfig,
)
from humanquery.recipes.path_evaluations import (
    AttributesEvaluation,
    CountingEvaluation,
    JointsEvaluation,
    ParsingEvaluation,
    PathEvaluation,
    RetrievalEvaluation,
)
from humanquery.recipes.recipe import DataConfig, Recipe
from humanquery.recipes.small import data_root

CLOTHES = tuple(
    "null accessories bag belt blazer blouse bodysuit boots bra bracelet cape cardigan clogs coat "
    "dress earrings flats glasses gloves hair hat heels hoodie intimate jacket jeans jumper "
    "leggings loafers necklace panties pants pumps purse ring romper sandals scarf shirt shoes "
    "shorts skin skirt sneakers socks stockings suit sunglasses sweater sweatshirt swimwear "
    "t-shirt tie tights top vest wallet watch wedges".split()
)
"""classes of data/parsing (Clothing Co-Parsing), in the order of its labels"""
PETA_SHARES = (
    0.045, 0.025, 0.838, 0.047, 0.239, 0.875, 0.111, 0.065, 0.056, 0.032, 0.209, 0.026, 0.121,
    0.284, 0.013, 0.885, 0.113, 0.309, 0.055, 0.049, 0.492, 0.214, 0.033, 0.344, 0.289, 0.259,
    0.201, 0.248, 0.279, 0.051, 0.627, 0.279, 0.066, 0.019, 0.618,
)  # fmt: skip
"""of positives in data/peta's train part (`AttributeSource.positive_share`)"""
PEOPLE = 62
"""in data/reid's train part"""
SMALL = PathBackbone("vit_tiny_patch16_224", grid=(8, 8))


def _crops(size: tuple[int, int], erase: float = 0.0) -> PedestrianAugmentConfig:
    return PedestrianAugmentConfig(size=size, pad=6, erase=erase)


def small_parts() -> dict[str, tuple[DataSetConfig, DataSetPart, PathEvaluation]]:
    """What data/ holds for PATH on a small machine: head, training part and evaluation by name.

    Half of HumanBench's picture sizes, and weights that bring the losses to the same size
    (HumanBench's weights belong to its own sizes and batches).
    """
    root = data_root()
    people, reid, parsing = (f"{root}/{name}" for name in ("people", "reid/data", "parsing"))
    crop, tall = (128, 96), (128, 64)
    canvas = (160, 160)
    val = f"{reid}/val/all_imgs"
    listed = {"images": f"{parsing}/images", "labels": f"{parsing}/labels"}
    clothes = ParsingConfig(**listed, listed=f"{parsing}/parsing.json", split="train")
    scenes = AugmentConfig(
        canvas=canvas, canvas_scale=(0.8, 1.6), copy_paste=CopyPasteConfig(chance=0.0)
    )
    counting = f"{root}/counting/crowd_princenarula_mini38/ShanghaiTech/part_B"
    return {
        "pose": (
            DataSetConfig("pose", PoseHeadConfig(width=64), weight=300.0),
            DataSetPart(
                "pose",
                PersonsConfig(f"{people}/train.json", layout="coco", least_joints=6, smallest=64.0),
                PersonSampleConfig(size=crop),
                16,
            ),
            JointsEvaluation(
                "pose",
                source=PersonsConfig(
                    f"{people}/val.json", layout="coco", least_joints=6, smallest=64.0
                ),
                size=crop,
            ),
        ),
        "attributes": (
            DataSetConfig(
                "attributes", AttributeHeadConfig(tuple(PETA_35), PETA_SHARES), weight=0.1
            ),
            DataSetPart("attributes", PetaAttributesConfig(f"{root}/peta"), _crops(crop), 16),
            AttributesEvaluation(
                "attributes", source=PetaAttributesConfig(f"{root}/peta", "val"), size=crop
            ),
        ),
        "reid": (
            DataSetConfig("reid", IdentityHeadConfig(PEOPLE), weight=0.5),
            DataSetPart(
                "reid",
                IdentityConfig(f"{reid}/train", "folders", name="reid"),
                _crops(tall, 0.5),
                16,
                per_person=4,
            ),
            RetrievalEvaluation(
                "reid",
                query=IdentityConfig(val, "folders", (1,)),
                gallery=IdentityConfig(val, "folders", (2,)),
                size=tall,
            ),
        ),
        "parsing": (
            DataSetConfig("parsing", ParsingHeadConfig(CLOTHES, 64), weight=1.0),
            DataSetPart("parsing", clothes, scenes, 4),
            ParsingEvaluation(
                "parsing",
                source=replace(clothes, split="val"),
                letterbox=LetterboxConfig(canvas=canvas),
                limit=60,
            ),
        ),
        "counting": (
            DataSetConfig("counting", CountingHeadConfig(64), weight=1.0),
            DataSetPart("counting", CountingConfig(f"{counting}/train_data"), scenes, 4),
            CountingEvaluation(
                "counting",
                source=CountingConfig(f"{counting}/test_data"),
                letterbox=LetterboxConfig(canvas=canvas),
            ),
        ),
    }


def path_on(names: tuple[str, ...], *, projector: bool = True, steps: int = 2000) -> Recipe:
    """A recipe of these of `small_parts`, one micro-batch of each in every step."""
    parts = small_parts()
    data_sets, train, evaluations = zip(*(parts[name] for name in names), strict=True)
    return Recipe(
        model=PathConfig(
            data_sets,
            SMALL,
            LadderConfig(reduction=4) if projector else None,
        ),
        data=DataConfig(train=DataSetsConfig(train), val=train[0].source),
        engine=EngineConfig(
            steps=steps,
            accumulate=len(names),
            optim=OptimConfig(
                lr=1e-3,
                weight_decay=0.05,
                exempt_norms_and_biases=True,
                backbone_multiplier=1.0,
                layer_decay=0.75,
                clip=1.0,
                schedule="cosine",
                warmup_steps=max(1, steps // 20),
            ),
            # heads of the other data sets take no part in a micro-batch
            find_unused_parameters=True,
            checkpoint_minutes=3.0,
            tensorboard=False,
        ),
        data_name=", ".join(names) + " of data/",
        data_licence="PETA, PKU-Reid, ShanghaiTech: research only; COCO annotations CC BY 4.0; "
        "Clothing Co-Parsing Apache-2.0",
        evaluations=evaluations,
    )


def path_small() -> Recipe:
    """A ViT-Tiny learns pose, attributes, re-ID and parsing together, from fresh weights.

    humanquery train --recipe path_small --out runs/path

    Data: people/, peta/, reid/, parsing/ (docs/datasets.md) under HUMANQUERY_DATA. Hardware: a few
    hours on two CPU cores, minutes on a GPU. What a short run of it reached stands in
    EXPERIMENTS.md.
    """
    return path_on(("pose", "attributes", "reid", "parsing"))


def path_reid() -> Recipe:
    """Fine-tunes a PATH model on data/reid.

    humanquery finetune --weights runs/path/model.safetensors --protocol partial \\
        --data path_reid --out runs/reid

    Also as `humanquery train --recipe path_reid`, from fresh weights. Data: reid/. Hardware: two
    CPU cores. Scores: EXPERIMENTS.md.
    """
    return path_on(("reid",), projector=False, steps=300)


def path_attributes() -> Recipe:
    """Fine-tunes a PATH model on data/peta.

    humanquery finetune --weights runs/path/model.safetensors --protocol head \\
        --data path_attributes --out runs/attributes

    Also as `humanquery train --recipe path_attributes`. Data: peta/. Hardware: two CPU cores.
    Scores: EXPERIMENTS.md.
    """
    return path_on(("attributes",), projector=False, steps=300)


def path_parsing() -> Recipe:
    """Fine-tunes a PATH model on data/parsing.

    humanquery finetune --weights runs/path/model.safetensors --protocol full \\
        --data path_parsing --out runs/parsing

    Also as `humanquery train --recipe path_parsing`. Data: parsing/. Hardware: two CPU cores.
    Scores: EXPERIMENTS.md.
    """
    return path_on(("parsing",), projector=False, steps=300)


def path_counting() -> Recipe:
    """Fine-tunes a PATH model on counting, a task that it has not been pretrained on.

    humanquery finetune --weights runs/path/model.safetensors --protocol partial \\
        --data path_counting --out runs/counting

    Also as `humanquery train --recipe path_counting`. Data: counting/ (30 pictures; a check of the
    way, not of quality). Hardware: two CPU cores. Scores: EXPERIMENTS.md.
    """
    return path_on(("counting",), projector=False, steps=300)
