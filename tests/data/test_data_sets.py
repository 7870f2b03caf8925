"""Several data sets in one step, people in pairs, and the augmentation of whole pedestrians."""

import numpy as np
import pytest
import torch

from humanquery.core.batch import Meta, Sample
from humanquery.core.errors import AnnotationError, ConfigError, ImageError
from humanquery.core.target import empty_target
from humanquery.data.augment.pedestrians import PedestrianAugmentConfig, augment_pedestrian
from humanquery.data.loading.data_sets import DataSetPart, DataSetsConfig, DataSetsLoader
from humanquery.data.loading.loader import MixConfig, PersonPlan
from humanquery.data.readers.counting import CountingConfig
from humanquery.data.readers.identities import IdentityConfig
from humanquery.media.images import write_image

SMALL = PedestrianAugmentConfig(size=(32, 16), pad=2)


def crops(folder, people=3, pictures=4):
    for person in range(1, people + 1):
        for view in range(pictures):
            path = folder / f"{person:04d}_c{view % 2 + 1}_{view}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, np.full((12, 6, 3), 40 * person + view, np.uint8))
    return IdentityConfig(str(folder))


def two(tmp_path):
    return DataSetsConfig(
        (
            DataSetPart("market", crops(tmp_path / "a"), SMALL, 4, per_person=2),
            DataSetPart("msmt", crops(tmp_path / "b", 5), SMALL, 3),
        )
    )


def seen(loader, start, count):
    stream = loader.batches(start)
    return [next(stream) for _ in range(count)]


def test_data_sets_take_turns_and_name_their_pictures(tmp_path):
    pairs = seen(DataSetsLoader(two(tmp_path)), 0, 4)
    assert [name for name, _ in pairs] == ["market", "msmt", "market", "msmt"]
    assert [len(batch) for _, batch in pairs] == [4, 3, 4, 3]
    assert {t.source for name, batch in pairs if name == "msmt" for t in batch.targets} == {"msmt"}
    assert pairs[0][1].images.shape == (4, 3, 32, 16)


@pytest.mark.parametrize("start", [1, 2, 3])
def test_a_run_that_is_taken_up_anywhere_sees_the_same_batches(tmp_path, start):
    whole = seen(DataSetsLoader(two(tmp_path)), 0, 6)[start:]
    later = seen(DataSetsLoader(two(tmp_path)), start, 6 - start)
    for (a, one), (b, other) in zip(whole, later, strict=True):
        assert a == b and torch.equal(one.images, other.images)


def test_two_ranks_share_every_micro_batch(tmp_path):
    config = two(tmp_path)
    ranks = [seen(DataSetsLoader(config, rank=r, world_size=2), 0, 2) for r in range(2)]
    assert [name for name, _ in ranks[0]] == [name for name, _ in ranks[1]]
    people = [sorted(t.track_ids.item() for t in batch.targets) for _, batch in ranks[0]]
    assert people[0] == sorted(t.track_ids.item() for t in ranks[1][0][1].targets)


def test_pictures_of_one_person_come_in_runs_and_everybody_in_every_epoch(tmp_path):
    plan = PersonPlan(MixConfig.of(crops(tmp_path)), seed=1, per_person=2)
    who = [plan.sources[0].identities[plan.at(i)[1]] for i in range(12)]
    assert who[0::2] == who[1::2] and sorted(who[:6]) == sorted(who[6:]) == [1, 1, 2, 2, 3, 3]
    assert all(plan.at(2 * i) != plan.at(2 * i + 1) for i in range(6))


def test_people_with_fewer_pictures_repeat_them(tmp_path):
    plan = PersonPlan(MixConfig.of(crops(tmp_path, pictures=1)), seed=1, per_person=2)
    assert plan.at(0) == plan.at(1)


def test_grouping_pictures_of_something_else_or_of_one_person_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="1 people, expected two"):
        PersonPlan(MixConfig.of(crops(tmp_path / "one", people=1)), 0, 2)
    several = MixConfig.of(crops(tmp_path / "a"), crops(tmp_path / "b"))
    with pytest.raises(ConfigError, match="grouped by who they show in one source"):
        PersonPlan(several, 0, 2)


def test_a_data_set_that_is_lost_says_which_it_is(tmp_path):
    missing = DataSetPart("crowd", CountingConfig(str(tmp_path / "no")), SMALL, 2)
    with pytest.raises(AnnotationError, match="data set 'crowd': .*no such folder"):
        DataSetsLoader(DataSetsConfig((missing,)))
    config = two(tmp_path)
    loader = DataSetsLoader(config)
    for file in (tmp_path / "b").iterdir():
        file.unlink()
    stream = loader.batches()
    next(stream)
    with pytest.raises(ImageError, match="data set 'msmt': 20 pictures in a row"):
        next(stream)


def test_data_sets_of_one_name_or_none_at_all_are_refused(tmp_path):
    part = DataSetPart("a", crops(tmp_path), SMALL, 2)
    for parts in ((), (part, part)):
        with pytest.raises(ConfigError, match="expected at least one, each name once"):
            DataSetsConfig(parts)


def test_the_identity_names_every_part(tmp_path):
    parts = DataSetsLoader(two(tmp_path)).identity()["data_sets"]
    assert set(parts) == {"market", "msmt"} and parts["market"]["per_person"] == 2


# ------------------------------------------------------------------ augmentation


def picture():
    image = np.arange(12 * 6 * 3, dtype=np.uint8).reshape(12, 6, 3)
    return Sample(image, Meta((12, 6), (12, 6)), empty_target((12, 6)))


def test_a_still_augmentation_stretches_the_picture():
    still = PedestrianAugmentConfig(size=(24, 12), mirror=0.0, pad=0, erase=0.0)
    sample = augment_pedestrian(picture(), still, np.random.default_rng(0))
    assert sample.image.shape == (24, 12, 3) and sample.target.image_size == (24, 12)
    assert sample.meta.to_canvas.points(torch.tensor([[6.0, 12.0]])).tolist() == [[12.0, 24.0]]


def test_the_matrix_says_where_the_picture_went():
    config = PedestrianAugmentConfig(size=(24, 12), mirror=1.0, pad=3, erase=0.0)
    sample = augment_pedestrian(picture(), config, np.random.default_rng(4))
    assert sample.meta.to_canvas.is_mirror
    corner = sample.meta.to_canvas.points(torch.tensor([[6.0, 0.0]]))[0]
    assert (corner.abs() <= 3).all()


def test_erasing_changes_a_part_and_the_same_draws_give_the_same():
    config = PedestrianAugmentConfig(size=(64, 32), mirror=0.0, pad=0, erase=1.0)
    still = augment_pedestrian(
        picture(), PedestrianAugmentConfig((64, 32), 0.0, 0, 0.0), np.random.default_rng(2)
    )
    erased, again = (augment_pedestrian(picture(), config, np.random.default_rng(2)) for _ in "ab")
    changed = (erased.image != still.image).any(-1).mean()
    assert 0.01 < changed <= 0.45 and np.array_equal(erased.image, again.image)
