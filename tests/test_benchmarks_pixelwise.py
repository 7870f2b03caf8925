"""The pieces of benchmarks/pixelwise.py and benchmarks/pixelwise_ablations.py."""

import pytest
import torch

from benchmarks.pixelwise import FEATURES, cost, heads, made_up_person
from benchmarks.pixelwise_ablations import PAPER, TABLES, Variant, best_oks, row, show
from humanquery.core.config import override
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from humanquery.core.target import empty_target
from humanquery.recipes import find


def test_every_variant_of_the_papers_tables_is_a_config_that_can_be():
    for table, rows in TABLES.items():
        assert len(PAPER[table]) == len(rows)
        for variant in rows.values():
            model = override(find("pixelwise_w32"), variant.settings()).model
            assert model.instance.label == variant.label
            assert model.keypoints.query_encoding == variant.encoded


def test_tables_share_the_papers_own_model_and_no_other_variant_has_its_folder():
    assert all(Variant() in rows.values() for rows in TABLES.values())
    variants = {variant for rows in TABLES.values() for variant in rows.values()}
    assert len({variant.name for variant in variants}) == len(variants)
    assert Variant("disc", quality=True).name == "disc-N9-query-qeb"


def test_a_pose_is_compared_with_the_person_it_is_most_like():
    true = made_up_person(96)
    joints = true.keypoints.value
    found = Persons(
        image_size=(96, 96),
        boxes=torch.tensor([[0.0, 0, 96, 96]]).expand(2, -1),
        scores=torch.tensor([0.9, 0.1]),
        keypoints=torch.cat([joints, joints + 1000]),
        skeleton=COCO17,
    )
    assert best_oks(found, true).tolist() == [1.0, 0.0]
    assert best_oks(found, empty_target((96, 96), COCO17)).tolist() == [0.0, 0.0]


def test_the_table_shows_mean_and_half_range_beside_the_papers_number():
    runs = [{"keypoints/ap": ap, "keypoints/ap50": 0.5, "rank": 0.25} for ap in (0.2, 0.4)]
    line = show("queries", {"Auto": row(runs)}).splitlines()[-1]
    assert line == "| Auto | 0.300 ± 0.100 | 0.500 ± 0.000 | 0.250 ± 0.000 | 0.688 |"


def test_heads_side_by_side_say_what_the_loop_says():
    batched, looped = heads("cpu")
    maps = torch.randn(1, FEATURES, 6, 5)
    with torch.no_grad():
        for one, other in zip(batched(maps), looped(maps), strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["predict", "learn"])
def test_costs_are_measured(part):
    assert cost(part, 64, "cpu").keys() == {"seconds", "peak_mb"}
