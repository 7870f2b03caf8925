import logging
import multiprocessing
import os
import signal
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import ConfigError, ImageError
from humanquery.data.augment.augment import AugmentConfig, plain
from humanquery.data.augment.copy_paste import CopyPasteConfig
from humanquery.data.loading.loader import (
    BLOCK,
    EvalLoader,
    MixConfig,
    MixPart,
    MixPlan,
    TrainLoader,
    eval_batches,
)
from humanquery.data.loading.transport import pack, unpack
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig
from humanquery.data.readers.crops import MosaicConfig, PetaConfig
from humanquery.media.letterbox import LetterboxConfig
from tests.data.coco_files import person, write_file
from tests.data.real_part import part_of
from tests.data.test_crops import crop_folder
from tests.paths import needs_data

SMALL = AugmentConfig(
    short_sides=(32, 40), long_side=80, crop=None, copy_paste=CopyPasteConfig(chance=0.3)
)


@pytest.fixture
def coco(tmp_path):
    people = [person(i + 1, image_id=i + 1, box=(5 + i, 5, 20, 30)) for i in range(7)]
    return CocoSourceConfig(write_file(tmp_path, people, pictures=7))


def same(a, b):
    return (
        torch.equal(a.images, b.images)
        and a.metas == b.metas
        and all(torch.equal(s.boxes, t.boxes) for s, t in zip(a.targets, b.targets, strict=True))
    )


def test_every_picture_comes_once_per_epoch_in_new_orders(coco):
    plan = MixPlan(MixConfig.of(coco), seed=3)
    epochs = [[plan.at(e * 7 + i)[1] for i in range(7)] for e in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert plan.at(9) == MixPlan(MixConfig.of(coco), seed=3).at(9)


def test_sources_are_mixed_by_weight_and_each_epoch_wise(coco, tmp_path):
    crops = PetaConfig(crop_folder(tmp_path / "crops"))
    plan = MixPlan(MixConfig((MixPart(coco, 3.0), MixPart(crops, 1.0))), seed=0)
    places = [plan.at(k) for k in range(2 * BLOCK)]
    assert Counter(s for s, _ in places) == {0: 1500, 1: 500}
    of_crops = [i for s, i in places if s == 1]
    assert all(sorted(of_crops[i : i + 3]) == [0, 1, 2] for i in range(0, 498, 3))


def test_a_run_that_is_taken_up_again_sees_the_same_batches(coco):
    loader = TrainLoader(MixConfig.of(coco), SMALL, 2, seed=1)
    whole = list(islice(loader.batches(0), 5))
    resumed = list(islice(TrainLoader(MixConfig.of(coco), SMALL, 2, seed=1).batches(3), 2))
    assert same(whole[3], resumed[0]) and same(whole[4], resumed[1])
    assert not same(whole[0], next(TrainLoader(MixConfig.of(coco), SMALL, 2, seed=2).batches(0)))


def test_workers_change_nothing(coco):
    alone = list(islice(TrainLoader(MixConfig.of(coco), SMALL, 2).batches(1), 4))
    helped = list(islice(TrainLoader(MixConfig.of(coco), SMALL, 2, num_workers=2).batches(1), 4))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_ranks_share_the_batch_of_one_process(coco):
    one = next(TrainLoader(MixConfig.of(coco), SMALL, 4).batches(2))
    ranks = [
        next(TrainLoader(MixConfig.of(coco), SMALL, 2, rank=r, world_size=2).batches(2))
        for r in range(2)
    ]
    assert [one.metas[k] for k in (0, 2)] == ranks[0].metas and [
        one.metas[k] for k in (1, 3)
    ] == ranks[1].metas


def test_batches_are_padded_to_the_divisor(coco):
    batch = next(TrainLoader(MixConfig.of(coco), SMALL, 3, divisor=32).batches())
    assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
    for i, meta in enumerate(batch.metas):
        assert (~batch.padding[i]).sum() == meta.canvas_size[0] * meta.canvas_size[1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_picture_is_named_once_and_replaced(coco, tmp_path, caplog, num_workers):
    (tmp_path / "images/4.png").write_bytes(b"broken")
    still = replace(plain(SMALL), copy_paste=CopyPasteConfig())
    loader = TrainLoader(MixConfig.of(coco), still, 7, num_workers=num_workers)
    with caplog.at_level(logging.WARNING):
        batches = list(islice(loader.batches(), 3))
    assert Counter(m.image_id for m in batches[0].metas) == {1: 1, 2: 1, 3: 1, 5: 2, 6: 1, 7: 1}
    assert loader.unreadable.total() == 3
    assert caplog.text.count("4.png: not a picture") == 1


def test_a_folder_of_broken_pictures_stops_the_run(coco, tmp_path):
    for i in range(7):
        (tmp_path / f"images/{i + 1}.png").unlink()
    with pytest.raises(
        ImageError, match=r"in a row cannot be read.*no such file.*Is the images folder right"
    ):
        next(TrainLoader(MixConfig.of(coco), SMALL, 1).batches())


def test_sources_that_give_nothing_are_refused(tmp_path, coco):
    empty = CocoSourceConfig(write_file(tmp_path / "e", [], pictures=0))
    with pytest.raises(ConfigError, match="has no sample"):
        MixPlan(MixConfig.of(empty), 0)
    with pytest.raises(ConfigError, match="parts is empty"):
        MixPlan(MixConfig(()), 0)
    with pytest.raises(ConfigError, match="a weight is 0.0"):
        MixPlan(MixConfig((MixPart(coco, 0.0),)), 0)


def test_data_sets_with_different_labels_share_a_batch(coco, tmp_path):
    mosaic = MosaicConfig((PetaConfig(crop_folder(tmp_path / "crops")),), canvas=(48, 64))
    batches = islice(TrainLoader(MixConfig.of(coco, mosaic), SMALL, 8).batches(), 2)
    kinds = {(t.masks is None, t.gender is None) for batch in batches for t in batch.targets}
    assert kinds == {(True, False), (False, True)}


def test_a_mix_survives_plain_data(coco):
    mix = MixConfig((MixPart(coco, 2.0, SMALL),))
    assert from_plain(MixConfig, to_plain(mix)) == mix


def test_evaluation_sees_every_picture_once_in_order(coco):
    source = CocoSource(coco)
    config = LetterboxConfig(24, 100)
    seen = list(eval_batches(source, config, 3))
    assert [m.image_id for batch, _ in seen for m in batch.metas] == [1, 2, 3, 4, 5, 6, 7]
    assert len(EvalLoader(source, config, 3)) == len(seen) == 3
    assert seen[0][0].targets is None and seen[0][0].images.shape == (3, 3, 24, 32)
    for batch, truths in seen:
        for meta, truth in zip(batch.metas, truths, strict=True):
            assert torch.equal(truth.boxes, source[meta.image_id - 1].target.boxes)
    shards = [
        [
            m.image_id
            for b, _ in EvalLoader(source, config, 2, rank=r, world_size=2)
            for m in b.metas
        ]
        for r in (0, 1)
    ]
    assert shards == [[1, 3, 5, 7], [2, 4, 6]]
    batch, _ = next(eval_batches(source, config, 2, with_targets=True, num_workers=1))
    assert torch.equal(batch.targets[1].boxes, source[1].target.boxes / 2)


def test_evaluation_does_not_skip_broken_pictures(coco, tmp_path):
    (tmp_path / "images/2.png").unlink()
    with pytest.raises(ImageError, match=r"2\.png"):
        list(eval_batches(CocoSource(coco), LetterboxConfig(24, 100)))


def test_what_is_packed_comes_back_from_one_block():
    value = {
        "a": torch.arange(5),
        "b": [torch.zeros(0, 3), torch.ones(2, 3, dtype=torch.bool)],
        "c": np.float32(2),
        "d": "x",
    }
    structure, block = pack(value)
    again = unpack(structure, block)
    assert (
        torch.equal(again["a"], value["a"])
        and again["b"][0].shape == (0, 3)
        and torch.equal(again["b"][1], value["b"][1])
    )
    assert again["c"] == 2 and again["d"] == "x" and block.dtype == torch.uint8
    assert unpack(*pack("nothing")) == "nothing"


@needs_data
def test_real_pictures_stream(tmp_path):
    mix = MixConfig.of(CocoSourceConfig(str(part_of("train", tmp_path, every=40))))
    config = AugmentConfig(canvas=(192, 192), copy_paste=CopyPasteConfig(chance=0.5))
    batch = next(TrainLoader(mix, config, 8).batches(5))
    assert batch.images.shape == (8, 3, 192, 192) and len(batch.targets) == 8
    assert sum(len(target) for target in batch.targets) > 8


def test_ctrl_c_does_not_end_the_workers_since_the_run_decides_when_to_stop(coco):
    stream = TrainLoader(MixConfig.of(coco), SMALL, 2, num_workers=1).batches()
    next(stream)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)
    for _ in range(5):  # more than were ready
        next(stream)
    assert worker.is_alive()
