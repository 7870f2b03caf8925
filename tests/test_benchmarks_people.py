"""The pieces of benchmarks/people.py and benchmarks/baselines.py."""

import numpy as np
import pytest
import torch

from benchmarks.baselines import (
    Answer,
    MoveNet,
    Rtmdet,
    WholePicture,
    answered,
    box_lengths,
    commonest,
    decode_movenet,
    in_picture,
    peaks,
    snapped,
)
from benchmarks.people import (
    OnGrey,
    Picked,
    Remembering,
    columns,
    crop_scores,
    fixed_sample,
    judge_commonest,
    person_of_crop,
    score_reliability,
    suppression_effect,
    table,
    without_duplicates,
)
from humanquery.core.affine import Affine2D
from humanquery.core.batch import Batch, Meta, Sample
from humanquery.core.errors import CheckpointError
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.system import Ask, Picture
from humanquery.core.target import Target
from humanquery.evaluation.coco_ap import evaluate_predictions
from humanquery.experts import MoveNetBackbone, build
from humanquery.experts.movenet import MoveNetPoses
from humanquery.media.images import read_image
from humanquery.media.letterbox import LetterboxConfig, letterbox_fixed
from tests.paths import DATA, WEIGHTS, needs_data, needs_weights

SIZE = (100, 100)


def people(boxes, scores, **fields) -> Persons:
    boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
    return Persons(
        image_size=SIZE, boxes=boxes, scores=torch.tensor(scores, dtype=torch.float), **fields
    )


def truth(boxes, ignore=None, gender=None, age=None) -> Target:
    boxes, n = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4), len(boxes)
    everybody = torch.ones(n, dtype=torch.bool)
    return Target(
        image_size=SIZE,
        boxes=boxes,
        ignore=torch.tensor(ignore or [False] * n),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        gender=None if gender is None else Labelled(torch.tensor(gender), everybody),
        age=None if age is None else Labelled(torch.tensor(age), everybody),
    )


def test_a_person_painted_into_movenets_maps_is_read_back():
    row, column = 10, 20
    centers, votes, joints, offsets = (torch.zeros(1, count, 24, 32) for count in (1, 34, 17, 34))
    lengths = torch.zeros(4, 24, 32)
    centers[0, 0, row, column] = 0.75
    lengths[:, row, column] = torch.tensor([8.0, 4.0, 0.25, 0.5])  # high, wide, down, right
    votes[0, :, row, column] = torch.tensor([-3.0, 1.0]).repeat(17)  # three up, one right
    joints[0, :, row - 3, column + 2] = 0.5  # the heat is one cell further right
    offsets[0, 0::2, row - 3, column + 2] = 0.75
    offsets[0, 1::2, row - 3, column + 2] = 0.125
    found = decode_movenet(MoveNetPoses(centers, votes, joints, offsets), lengths, 30)
    assert found.scores[0].item() == 0.75
    assert found.boxes[0].tolist() == [20.5 - 2, 10.25 - 4, 20.5 + 2, 10.25 + 4]
    assert found.joints.shape[1:] == (17, 2)
    assert found.joints[0].unique(dim=0).tolist() == [[column + 2.125, row - 3 + 0.75]]
    assert found.joint_scores[0].tolist() == [0.5] * 17


@needs_weights
def test_movenet_finds_in_a_batch_what_it_finds_in_each_picture():
    torch.manual_seed(0)
    finder = MoveNet(WEIGHTS / "movenet_multipose.fp16.safetensors", people=3)
    images, padding = torch.rand(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    metas = [Meta((64, 96), (64, 96))] * 2
    together = finder.predict(Batch(images, padding, metas))
    for i in range(2):
        alone = finder.predict(Batch(images[i : i + 1], padding[:1], metas[:1]))[0].persons
        for name in ("boxes", "scores", "keypoints"):
            found = getattr(together[i].persons, name)
            torch.testing.assert_close(found, getattr(alone, name), atol=1e-3, rtol=1e-3)
    assert not torch.equal(together[0].persons.scores, together[1].persons.scores)


def test_movenets_box_lengths_are_what_its_heads_say():
    torch.manual_seed(0)
    backbone, images = (
        build(MoveNetBackbone(width=0.35, heads=True)).eval(),
        torch.rand(1, 3, 64, 96),
    )
    told = {}
    for name in ("box_scale", "box_offset"):
        backbone.people.heads[name].register_forward_hook(
            lambda _, __, out, name=name: told.update({name: out})
        )
    lengths = box_lengths(backbone.answer(images).features[0])
    torch.testing.assert_close(lengths, torch.cat([told["box_scale"], told["box_offset"]], 1))


def test_peaks_are_cells_that_no_neighbour_exceeds_best_first():
    heat = torch.zeros(6, 7)
    heat[1, 1], heat[1, 2], heat[4, 5] = 0.5, 0.4, 0.9  # the second stands beside the first
    values, rows, columns_ = peaks(heat, 2)
    assert values.tolist() == pytest.approx([0.9, 0.5])
    assert rows.tolist() == [4, 1] and columns_.tolist() == [5, 1]
    assert len(peaks(torch.zeros(1, 2), 30)[0]) == 2  # no more than there are cells


def test_a_joint_takes_weak_heat_nearby_before_strong_heat_far_away():
    heat = torch.zeros(1, 5, 40)
    heat[0, 2, 4], heat[0, 2, 35] = 0.3, 0.9
    joints, scores = snapped(
        torch.tensor([[[5.0, 2.0]], [[30.0, 2.0]]]), heat, torch.zeros(1, 2, 5, 40)
    )
    assert joints[:, 0].tolist() == [[4, 2], [35, 2]]
    assert scores[:, 0].tolist() == pytest.approx([0.3, 0.9])
    assert snapped(torch.zeros(0, 1, 2), heat, torch.zeros(1, 2, 5, 40))[0].shape == (0, 1, 2)


def test_boxes_go_back_to_the_picture_and_are_cut_there():
    meta = Meta((100, 200), (50, 100), Affine2D.scaling(0.5))
    assert in_picture(torch.tensor([[-5.0, 10.0, 40.0, 60.0]]), meta).tolist() == [[0, 20, 80, 100]]


def test_the_commonest_answer_is_the_one_that_is_right_most_often():
    told = [
        truth([[0, 0, 9, 9]] * 2, gender=[1.0, 1.0], age=[[30.0, 30.0], [20.0, 30.0]]),
        truth(
            [[0, 0, 9, 9]] * 2, [False, True], gender=[0.0, 0.0], age=[[70.0, 70.0], [70.0, 70.0]]
        ),
    ]
    answer = commonest(told)
    assert answer.gender == 1
    assert abs(answer.age - 25) < 10 and abs(answer.age - 30) < 10
    assert commonest([truth([[0, 0, 9, 9]] * 2, age=[[31.0, 45.0], [40.0, 50.0]])]) == Answer(
        0.0, 43.0
    )
    same = answered(people([[0, 0, 9, 9]] * 2, [0.5, 0.4]), answer)
    assert same.gender.tolist() == [1, 1] and same.age.tolist() == [answer.age] * 2
    whole = WholePicture(answer).predict(_batch())[0].persons
    assert whole.boxes.tolist() == [[0, 0, *SIZE]] and whole.gender.tolist() == [1]


def test_the_row_of_the_commonest_answer_has_the_boxes_of_another():
    of_train = {"people": Answer(0.0, 25.0), "peta": Answer(1.0, 28.0), "faces": Answer(0.0, 40.0)}
    told = truth([[10, 10, 50, 50]] * 1, gender=[0.0], age=[[30.0, 30.0]])
    row = judge_commonest(
        of_train, [told], [people([[10, 10, 50, 50]], [0.9])], {"peta": [crop(), crop(gender=0.0)]}
    )
    names = ("box AP", "gender AP", "Age-10 AP", "gender right", "age in ten")
    assert [row["columns"][name] for name in names] == pytest.approx([1.0] * 5)
    assert row["peta"]["gender_right"] == 0.5 and row["peta"]["age_right"] == 1


class Fixed:
    """Finds the same people everywhere."""

    def __init__(self, found: Persons):
        self.found = found

    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        return [Picture(self.found)] * len(batch)


def _batch() -> Batch:
    return Batch(
        torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.bool), [Meta(SIZE, (32, 32))]
    )


def test_who_is_remembered_has_no_pixels():
    finder = Remembering(
        Fixed(people([[0, 0, 9, 9]], [0.5], masks=torch.zeros(1, *SIZE, dtype=torch.bool)))
    )
    assert finder.predict(_batch())[0].persons.masks is not None
    assert finder.found[0].masks is None and len(finder.found) == 1


def test_a_fixed_sample_is_spread_over_all_and_never_longer():
    assert fixed_sample(11, 3) == [0, 5, 10]
    assert fixed_sample(4, 600) == [0, 1, 2, 3]
    assert fixed_sample(0, 5) == []


def crop(side=(40, 20), gender=1.0, age=(16.0, 30.0)) -> Sample:
    target = Target(
        image_size=side,
        boxes=torch.tensor([[0.0, 0.0, side[1], side[0]]]),
        ignore=torch.zeros(1, dtype=torch.bool),
        areas=torch.tensor([float(side[0] * side[1])]),
        gender=Labelled(torch.tensor([gender]), torch.tensor([True])),
        age=Labelled(torch.tensor([age]), torch.tensor([True])),
    )
    return Sample(np.full((*side, 3), 200, np.uint8), Meta(side, side), target)


def test_a_crop_stands_in_the_middle_of_a_grey_canvas():
    sample = OnGrey([crop()])[0]
    assert sample.image.shape == (52, 26, 3)
    x1, y1, x2, y2 = (int(v) for v in sample.target.boxes[0])
    assert (x1, y1, x2, y2) == (3, 6, 23, 46)
    assert (sample.image[y1:y2, x1:x2] == 200).all()
    outside = sample.image.copy()
    outside[y1:y2, x1:x2] = 114
    assert (outside == 114).all()


def test_the_person_of_a_crop_overlaps_it_well_and_is_believed():
    crop_box = torch.tensor([10.0, 10.0, 50.0, 90.0])
    found = people([[0, 0, 5, 5], [10, 10, 50, 50], [10, 10, 50, 88]], [0.99, 0.6, 0.5])
    assert person_of_crop(found, crop_box) == 2
    assert person_of_crop(people([[0, 0, 5, 5]], [0.9]), crop_box) is None
    assert person_of_crop(people([[10, 10, 50, 90]], [0.01]), crop_box) is None
    assert person_of_crop(people([], []), crop_box) is None


def test_a_crop_in_which_nobody_is_found_counts_as_wrong():
    crops = [crop(), crop(gender=0.0), crop(), crop(age=(31.0, 45.0))]

    class Finder:
        def __init__(self):
            self.seen = 0

        def predict(self, batch, ask=Ask()):
            self.seen += 1
            size = batch.metas[0].image_size
            whole = torch.tensor([[0.0, 0.0, size[1], size[0]]])
            found = Persons(
                image_size=size,
                boxes=whole,
                scores=torch.tensor([0.9]),
                gender=torch.tensor([0.8]),
                age=torch.tensor([30.4]),
            )
            return [Picture(found if self.seen != 3 else found[[]])]

    scores = crop_scores(Finder(), crops, LetterboxConfig(64, 64))
    assert scores["crops"] == 4 and scores["found"] == 0.75
    assert scores["gender_right"] == pytest.approx(0.5)  # one is male, one is not found
    assert scores["age_right"] == pytest.approx(
        0.5
    )  # 30.4 years are 30: in 16 to 30, not in 31 to 45
    assert scores["age_mean_error"] == pytest.approx(1 / 3)


def test_a_finder_without_attributes_has_no_scores_on_crops():
    assert (
        crop_scores(Fixed(people([[0, 0, 9, 9]], [0.5])), [crop()], LetterboxConfig(64, 64)) == {}
    )


def test_score_reliability_counts_one_hit_per_person_and_skips_ignored_regions():
    box, region = [10, 10, 50, 50], [60, 60, 90, 90]
    found = people([box, box, region, [0, 60, 20, 80]], [0.95, 0.91, 0.55, 0.15])
    bins = score_reliability([truth([box, region], [False, True])], [found])
    assert [b["people"] for b in bins] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert bins[9]["share_right"] == 0.5 and bins[9]["mean_score"] == pytest.approx(0.93)
    assert bins[1]["share_right"] == 0 and bins[0]["share_right"] is None


def test_duplicates_cost_box_ap_that_suppression_gives_back():
    box, other = [10, 10, 50, 50], [60, 10, 90, 50]
    found = people([box, [10, 10, 50, 51], other], [0.9, 0.8, 0.7])
    assert without_duplicates(found).scores.tolist() == pytest.approx([0.9, 0.7])
    effect = suppression_effect([truth([box, other])], [found])
    assert effect["box_ap"] < 0.9 and effect["box_ap_after_nms"] == pytest.approx(1.0)
    assert effect["dropped_share"] == pytest.approx(1 / 3)


def test_the_table_shows_a_dash_for_what_a_system_does_not_give():
    report = evaluate_predictions([(truth([[10, 10, 50, 50]]), people([[10, 10, 50, 50]], [0.9]))])
    row = {
        "name": "A",
        "parameters": 1234,
        "file_mb": 2.5,
        "seconds_per_picture": 0.25,
        "columns": columns(report),
    }
    lines = {line[:20].strip(): line[20:].split() for line in table([row]).splitlines()}
    assert (
        lines["box AP"] == ["100.0"]
        and lines["mask AP"] == ["-"]
        and lines["peta gender_right"] == ["-"]
    )
    assert lines["parameters"] == ["1,234"] and lines["seconds_per_picture"] == ["0.250"]


def test_a_missing_baseline_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="none.onnx: no such file"):
        Rtmdet(tmp_path / "none.onnx")
    with pytest.raises(CheckpointError, match="none.safetensors: no such file"):
        MoveNet(tmp_path / "none.safetensors")


def test_picked_samples_come_in_the_order_of_their_numbers():
    samples = Picked(["a", "b", "c"], [2, 0])
    assert len(samples) == 2 and [samples[i] for i in range(2)] == ["c", "a"]


@needs_weights
@needs_data
def test_rtmdets_file_and_rebuilt_module_find_the_same_people():
    import json

    pytest.importorskip("onnxruntime")
    record = json.loads((DATA / "people" / "val.json").read_text())["images"][0]
    picture = read_image(DATA / "people" / "images" / record["file_name"])
    batch = Batch.collate([Sample(*letterbox_fixed(picture, (320, 320)))])
    theirs, ours = (
        Rtmdet(WEIGHTS / f"rtmdet_nano_person{end}").predict(batch)[0].persons.above(0.3)
        for end in (".onnx", ".fp16.safetensors")
    )
    assert len(theirs) == len(ours) > 0
    torch.testing.assert_close(theirs.boxes, ours.boxes, atol=2.0, rtol=0.0)
    torch.testing.assert_close(theirs.scores, ours.scores, atol=0.01, rtol=0.0)
