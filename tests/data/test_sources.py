from itertools import islice

import torch

from humanquery.core.config import from_plain, to_plain
from humanquery.data.augment.augment import AugmentConfig
from humanquery.data.augment.copy_paste import CopyPasteConfig
from humanquery.data.loading.loader import MixConfig, TrainLoader
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig
from humanquery.data.readers.coco_writer import write_coco
from humanquery.data.readers.sources import SourceConfig, open_source
from humanquery.data.scenes.scenes import easy_scenes


def test_generated_people_train_and_become_a_file(tmp_path):
    config = easy_scenes(count=6, size=96)
    assert from_plain(SourceConfig, to_plain(config)) == config
    source = open_source(config)
    augmentation = AugmentConfig(canvas=(96, 96), copy_paste=CopyPasteConfig(chance=0.5))
    batches = list(islice(TrainLoader(MixConfig.of(config), augmentation, 3).batches(), 3))
    assert all(batch.images.shape == (3, 3, 96, 96) for batch in batches)
    write_coco(tmp_path / "truth.json", (source[i] for i in range(6)), images=tmp_path / "images")
    again = CocoSource(CocoSourceConfig(str(tmp_path / "truth.json")))
    for i in range(6):
        ours, theirs = source[i].target, again[i].target
        assert torch.allclose(ours.boxes, theirs.boxes, atol=1e-3) and torch.equal(
            ours.masks.value, theirs.masks.value
        )
        assert torch.equal(ours.gender.value, theirs.gender.value) and torch.equal(
            ours.age.value, theirs.age.value
        )
        assert torch.equal(ours.visibility, theirs.visibility)
