"""Fine-tuning any HQNet on a COCO file of one's own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from humanquery.core.errors import ConfigError
from humanquery.core.skeleton import Skeleton
from humanquery.data.augment.augment import AugmentConfig
from humanquery.data.loading.loader import MixConfig
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig
from humanquery.engine.optim import OptimConfig, ParamRule
from humanquery.engine.train_config import EngineConfig
from humanquery.models import without_sources
from humanquery.models.hqnet.config import ExtraTask, HQNetConfig, TasksConfig
from humanquery.models.hqnet.hqnet import imported_task
from humanquery.recipes.recipe import DataConfig, PeopleEvaluation, Recipe

LEARN = ("decoder.", "content.", "tasks.")
"""modules that learn; backbone, neck, encoder and query selection stay as they are, so that what
the model knew is not lost on a few pictures"""
LARGEST_CANVAS = 640
"""px of a training canvas's sides"""


def finetune(
    model: HQNetConfig,
    data: str | Path,
    *,
    images: str | Path = "",
    val: str | Path = "",
    val_images: str | Path = "",
    skeleton: str = "",
    tasks: Sequence[str] = (),
    steps: int = 300,
) -> Recipe:
    """The recipe that fine-tunes `model` (the config of a weights file) on a COCO file.

    humanquery finetune --weights hqnet-small --data mine.json --val mine_val.json --out runs/mine

    Data: whatever the file annotates: boxes alone, boxes and masks, joints of any layout (the
    category's `keypoints`, or `skeleton`: a name or a small JSON, docs/fine-tuning.md). Labels that
    it lacks give no loss. `tasks`: classes of tasks of one's own, imported before, which are added
    with fresh heads; their labels are read by the keys of their fields (docs/adding-a-task.md).
    `val`, where given, is scored after the last step. Hardware: one CPU
    core, some minutes for hqnet-small. Scores from 40 photos stand in docs/fine-tuning.md.
    """
    side = -(-min(model.input.short_side, model.input.long_side, LARGEST_CANVAS) // 32) * 32
    specs = tuple(spec for name in tasks for spec in imported_task(name).fields)
    train = CocoSourceConfig(str(data), str(images), skeleton=skeleton, extra=specs)
    opened = CocoSource(train)
    if not len(opened):
        raise ConfigError(f"{data}: no picture to learn from; expected pictures with people")
    if "keypoints" in opened.options.fields:
        model = with_joints(model, opened.skeleton)
    if tasks:
        model = replace(model, tasks=with_tasks(model.tasks, tasks))
    scored = replace(train, annotations=str(val or data), images=str(val_images or images))
    return Recipe(
        model=without_sources(model),
        data=DataConfig(
            train=MixConfig.of(train),
            val=scored,
            augment=AugmentConfig(canvas=(side, side), canvas_scale=(0.7, 1.4)),
            letterbox=model.input,
        ),
        engine=EngineConfig(
            steps=steps,
            batch_size=4,
            optim=OptimConfig(
                lr=1e-4,
                clip=1.0,
                schedule="cosine",
                warmup_steps=min(20, max(1, steps // 10)),
                ema=0.98,
                only=(*LEARN, "priors.") if getattr(model, "priors", ()) else LEARN,
                # the nearer to the pictures, the slower
                groups=(
                    ParamRule("decoder.*", lr=0.2),
                    ParamRule("content.*", lr=0.2),
                    ParamRule("tasks.keypoints.*", lr=2.0),
                ),
            ),
            channels_last=True,
            checkpoint_minutes=3.0,
            tensorboard=False,
        ),
        data_name=Path(data).name,
        data_licence="see the owner of the data",
        evaluations=(PeopleEvaluation(),) if val else (),
    )


def with_tasks(tasks: TasksConfig, names: Sequence[str]) -> TasksConfig:
    """The tasks and these, each once."""
    known = [extra.task for extra in tasks.extra]
    added = tuple(ExtraTask(name) for name in names if name not in known)
    return replace(tasks, extra=(*tasks.extra, *added))


def with_joints(model: HQNetConfig, skeleton: Skeleton) -> HQNetConfig:
    """The config with joints of this layout; by its name where it is a built-in one."""
    try:
        known = Skeleton.named(skeleton.name) == skeleton
    except ConfigError:
        known = False
    return replace(model, skeleton=skeleton.name if known else skeleton)
