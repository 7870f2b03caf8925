import inspect
import json
import re
import sys

import numpy as np
import pytest
import torch

from humanquery.core.errors import AnnotationError, HumanQueryError
from humanquery.core.persons import Persons
from humanquery.core.target import empty_target
from humanquery.data.readers.mot import read_mot
from humanquery.evaluation.track_metrics import (
    POSETRACK21,
    TrackedFrame,
    TrackingRules,
    evaluate_tracking,
    tracked_frame,
)
from tests.paths import ORACLE, needs_oracle

pytest.importorskip("trackeval", reason="pip install --no-deps trackeval tabulate")
FOLDER = ORACLE / "evaluators/mot"
LENGTHS = {"TUD-Campus": 71, "TUD-Stadtmitte": 179}
SHARES = ("mota", "motp", "idf1", "idp", "idr", "hota", "deta", "assa")


def _frame(people: dict[int, float], shift: float = 0.0) -> dict:
    """People by id at x, boxes of 10 x 20 px."""
    boxes = [[x + shift, 0, x + shift + 10, 20] for x in people.values()]
    return {"boxes": np.array(boxes).reshape(-1, 4), "ids": np.array(list(people), dtype=int)}


def _clip(*frames: dict[int, float]) -> list[dict]:
    return [_frame(people) for people in frames]


def _scores(truth: list, found: list, rules: TrackingRules | None = None):
    return evaluate_tracking({"clip": (truth, found)}, rules)["clip"]


STILL = _clip(*[{1: 0, 2: 100}] * 5)


def _oracle(name: str) -> tuple[list, list]:
    truth = read_mot(FOLDER / name / "gt.txt", num_frames=LENGTHS[name], truth=True)
    return truth, read_mot(FOLDER / name / "test.txt", num_frames=LENGTHS[name])


def _trackeval_on_files(tmp_path) -> dict[str, dict]:
    """TrackEval's own way: its folders, its reader, its evaluator."""
    import trackeval

    for name in LENGTHS:
        (tmp_path / "gt" / name / "gt").mkdir(parents=True)
        (tmp_path / "gt" / name / "gt/gt.txt").write_bytes((FOLDER / name / "gt.txt").read_bytes())
        (tmp_path / "trackers/ours/data").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"trackers/ours/data/{name}.txt").write_bytes(
            (FOLDER / name / "test.txt").read_bytes()
        )
    config = {
        "GT_FOLDER": str(tmp_path / "gt"),
        "TRACKERS_FOLDER": str(tmp_path / "trackers"),
        "BENCHMARK": "MOT15",
        "SEQ_INFO": LENGTHS,
        "SKIP_SPLIT_FOL": True,
        "PRINT_CONFIG": False,
    }
    quiet = {"PRINT_CONFIG": False}
    evaluator = trackeval.Evaluator(
        {
            "USE_PARALLEL": False,
            "PRINT_RESULTS": False,
            "PRINT_CONFIG": False,
            "TIME_PROGRESS": False,
            "OUTPUT_SUMMARY": False,
            "OUTPUT_DETAILED": False,
            "PLOT_CURVES": False,
            "BREAK_ON_ERROR": True,
        }
    )
    metrics = [
        trackeval.metrics.CLEAR(quiet),
        trackeval.metrics.Identity(quiet),
        trackeval.metrics.HOTA(),
    ]
    results, _ = evaluator.evaluate([trackeval.datasets.MotChallenge2DBox(config)], metrics)
    return {name: row["pedestrian"] for name, row in results["MotChallenge2DBox"]["ours"].items()}


@needs_oracle
def test_a_published_tracker_scores_as_in_trackeval_run_on_the_same_files(tmp_path, capsys):
    report = evaluate_tracking({name: _oracle(name) for name in LENGTHS})
    official = _trackeval_on_files(tmp_path)
    for name, ours in {**report.sequences, "COMBINED_SEQ": report.combined}.items():
        clear, identity, hota = (official[name][key] for key in ("CLEAR", "Identity", "HOTA"))
        theirs = [clear["MOTA"], clear["MOTP"], identity["IDF1"], identity["IDP"], identity["IDR"]]
        theirs += [np.mean(hota[key]) for key in ("HOTA", "DetA", "AssA")]
        assert [getattr(ours, share) for share in SHARES] == pytest.approx(theirs, abs=1e-9)
        counts = [ours.switches, ours.fragmentations, ours.mostly_tracked, ours.mostly_lost]
        assert counts == [clear[key] for key in ("IDSW", "Frag", "MT", "ML")]
        assert [ours.false_positives, ours.misses] == [clear["CLR_FP"], clear["CLR_FN"]]


@needs_oracle
def test_a_published_tracker_scores_as_published():
    report = evaluate_tracking({name: _oracle(name) for name in LENGTHS})
    campus, city = report["TUD-Campus"], report["TUD-Stadtmitte"]
    assert [round(100 * v, 1) for v in (campus.idf1, campus.mota)] == [55.8, 52.6]
    assert [round(100 * v, 1) for v in (city.idf1, city.mota)] == [64.5, 56.4]
    assert (campus.switches, city.switches) == (7, 7)
    assert round(report.combined.idf1, 4) == 0.6243
    assert round(report.combined.mota, 4) == 0.5551
    assert round(1 - report.combined.motp, 4) == 0.3302  # published as mean distance


def test_perfect_tracking_scores_one_hundred_percent():
    scores = _scores(STILL, STILL)
    assert [getattr(scores, share) for share in SHARES] == [1.0] * 8
    assert (scores.switches, scores.fragmentations, scores.false_positives, scores.misses) == (
        0,
        0,
        0,
        0,
    )
    assert (scores.mostly_tracked, scores.mostly_lost, scores.identities, scores.frames) == (
        2,
        0,
        2,
        5,
    )


def test_ids_only_need_to_be_the_same_over_time_not_the_same_as_in_the_truth():
    found = _clip(*[{907: 0, 3: 100}] * 5)
    assert _scores(STILL, found) == _scores(STILL, STILL)


def test_one_id_switch_costs_one_in_mota_and_half_of_a_track_in_idf1():
    truth = _clip(*[{1: 0}] * 4)
    scores = _scores(truth, _clip({5: 0}, {5: 0}, {6: 0}, {6: 0}))
    assert scores.switches == 1
    assert scores.mota == 1 - 1 / 4
    assert scores.idf1 == 2 * 2 / (4 + 4)
    assert scores.deta == 1.0
    assert scores.assa == pytest.approx(0.5)  # each found id shares 2 of 4 frames with the true one
    assert scores.hota == pytest.approx(0.5**0.5)


def test_one_miss_costs_one_in_mota_and_interrupts_the_track():
    truth = _clip(*[{1: 0, 2: 100}] * 5)
    found = [*STILL[:2], _frame({2: 100}), *STILL[3:]]
    scores = _scores(truth, found)
    assert (scores.misses, scores.false_positives, scores.switches, scores.fragmentations) == (
        1,
        0,
        0,
        1,
    )
    assert scores.mota == pytest.approx(1 - 1 / 10)
    assert scores.idr == pytest.approx(9 / 10)
    assert scores.idp == 1.0
    assert (scores.mostly_tracked, scores.partly_tracked) == (
        1,
        1,
    )  # four of five frames is not more than 80 %


def test_motp_is_the_mean_iou_of_pairs():
    shifted = [_frame({1: 0, 2: 100}, shift=10 / 4)] * 5  # 7.5 of 12.5 px in common
    assert _scores(STILL, shifted).motp == pytest.approx(0.6)


def test_frames_without_people_change_nothing():
    truth = [_frame({}), *STILL, _frame({})]
    scores = _scores(truth, truth)
    assert (scores.mota, scores.idf1, scores.frames) == (1.0, 1.0, 7)


def test_somebody_found_in_an_empty_frame_is_false():
    scores = _scores([_frame({}), *STILL], [_frame({9: 50}), *STILL])
    assert (scores.false_positives, scores.mota) == (1, pytest.approx(0.9))


def test_nobody_found_is_zero_and_all_lost():
    scores = _scores(STILL, [_frame({})] * 5)
    assert (scores.mota, scores.idf1, scores.idr, scores.hota) == (0.0, 0.0, 0.0, 0.0)
    assert (scores.motp, scores.idp) == (None, None)
    assert (scores.misses, scores.mostly_lost) == (10, 2)


def test_nobody_true_has_no_mota_but_counts_the_false():
    scores = _scores([_frame({})] * 5, STILL)
    assert (scores.mota, scores.idr, scores.motp) == (None, None, None)
    assert (scores.idf1, scores.hota, scores.false_positives) == (0.0, 0.0, 10)


@pytest.mark.parametrize("frames", [0, 3])
def test_a_sequence_without_anybody_has_no_shares(frames):
    scores = _scores([_frame({})] * frames, [_frame({})] * frames)
    assert [getattr(scores, share) for share in SHARES] == [None] * 8
    assert scores.frames == frames


def test_the_combined_row_counts_all_sequences_together():
    report = evaluate_tracking(
        {
            "seen": (STILL, STILL),
            "missed": (STILL[:1], [_frame({})]),
            "empty": ([_frame({})] * 2, [_frame({})] * 2),
        }
    )
    assert report.combined.mota == pytest.approx(10 / 12)  # not the mean of 1 and 0
    assert (report.combined.true_boxes, report.combined.frames, report.combined.identities) == (
        12,
        8,
        4,
    )


def test_same_ids_in_two_sequences_are_different_people():
    one = evaluate_tracking({"a": (STILL, STILL), "b": (STILL, STILL[::-1])}).combined
    assert (one.idf1, one.switches) == (1.0, 0)


def test_pairs_below_the_iou_threshold_do_not_count():
    shifted = [_frame({1: 0, 2: 100}, shift=4)] * 5  # 6 of 14 px: IoU 0.43
    assert _scores(STILL, shifted).misses == 10
    assert _scores(STILL, shifted, TrackingRules(iou=0.4)).misses == 0


def test_the_posetrack21_protocol_cuts_boxes_to_whole_px():
    true, found = _clip({1: 0.0}), [{"boxes": [[0.9, 0, 10.9, 20.9]], "ids": [1]}]
    assert _scores(true, found).motp < 1
    assert _scores(true, found, POSETRACK21).motp == 1.0
    assert _scores(true, found, TrackingRules(integer_boxes="truth")).motp < 1
    assert _scores(found, true, TrackingRules(integer_boxes="truth")).motp == 1.0


def test_people_found_in_ignore_regions_are_left_out_only_where_the_rule_says_so():
    region = np.array([[200.0, 0, 220, 20]])
    true = [TrackedFrame(np.array([[0.0, 0, 10, 20]]), np.array([1]), region)]
    found = _clip({1: 0, 7: 205})
    assert _scores(true, found).false_positives == 1
    assert _scores(true, found, TrackingRules(ignore_iou=0.1)).false_positives == 0


def test_an_ignore_region_never_takes_a_found_person_from_a_true_one():
    everywhere = np.array([[0.0, 0, 12, 20]])
    true = [TrackedFrame(np.array([[0.0, 0, 10, 20]]), np.array([1]), everywhere)]
    assert _scores(true, _clip({1: 0}), TrackingRules(ignore_iou=0.1)).mota == 1.0


def test_targets_and_persons_are_taken_as_they_are():
    boxes = torch.tensor([[0.0, 0, 10, 20], [50, 0, 60, 20]])
    target = empty_target((100, 100)).replace(
        boxes=boxes,
        ignore=torch.tensor([False, True]),
        areas=torch.full((2,), 200.0),
        track_ids=torch.tensor([3, -1]),
        masks=None,
        gender=None,
        age=None,
    )
    people = Persons(
        image_size=(100, 100), boxes=boxes[:1], scores=torch.ones(1), track_ids=torch.tensor([8])
    )
    frame = tracked_frame(target)
    assert (frame.ids.tolist(), frame.ignore_boxes.tolist()) == ([3], [[50.0, 0.0, 60.0, 20.0]])
    assert _scores([target], [people]).mota == 1.0


def test_nobody_found_needs_no_ids():
    assert len(tracked_frame(Persons.empty((100, 100)))) == 0


def test_the_report_is_a_table_and_plain_json():
    report = evaluate_tracking({"clip": (STILL, STILL), "nobody": ([_frame({})], [_frame({})])})
    table = report.table()
    assert "MOTA" in table.splitlines()[0] and "100.0" in table.splitlines()[1]
    assert "n/a" in table.splitlines()[2] and table.splitlines()[3].startswith("combined")
    assert "2 sequences, 6 frames, 2 true identities in 10 boxes, 10 boxes found" in table
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["combined"]["mota"] == 1.0 and plain["sequences"]["nobody"]["mota"] is None
    assert report.numbers()["tracking/idf1"] == 1.0
    assert "tracking/motp" not in evaluate_tracking({"x": ([], [])}).numbers()


def test_the_report_is_saved_as_json(tmp_path):
    report = evaluate_tracking({"clip": (STILL, STILL)}, POSETRACK21)
    report.save(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text()) == report.to_json()


def test_nothing_is_printed(capfd):
    _scores(STILL, STILL)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"boxes": np.zeros((2, 4)), "ids": [4, 4]},
            "'clip', frame 1 .from 0., found: id 4 comes 2 times; within a",
        ),
        (
            {"boxes": np.zeros((1, 4)), "ids": [-1]},
            "found: id -1, expected 0 or more; people without identity",
        ),
        ({"boxes": np.zeros((1, 4)), "ids": [1, 2]}, "1 boxes and 2 ids; give one id per box"),
        ({"boxes": np.full((1, 4), np.nan), "ids": [1]}, "a box holds NaN or infinity"),
        ({"boxes": np.zeros((1, 4)), "ids": [0.5]}, "ids of type float64, expected whole numbers"),
        ({"boxes": np.zeros((1, 4))}, "no track ids in a dict; expected boxes"),
        ({"ids": [1]}, "no boxes in a dict"),
    ],
)
def test_a_bad_frame_is_told_with_sequence_frame_and_reason(frame, message):
    with pytest.raises(AnnotationError, match=message):
        evaluate_tracking({"clip": (_clip({}, {}), [_frame({}), frame])})


def test_results_beyond_the_sequence_are_told():
    with pytest.raises(
        AnnotationError,
        match="'clip': 5 frames of truth and 6 of found people .found people beyond",
    ):
        _scores(STILL, [*STILL, _frame({1: 0})])
    with pytest.raises(
        AnnotationError, match="5 frames of truth and 4 of found people .frames without a result"
    ):
        _scores(STILL, STILL[:4])


def test_no_sequences_are_told():
    with pytest.raises(AnnotationError, match="no sequences to evaluate; pass"):
        evaluate_tracking({})


def test_a_sequence_may_not_be_named_as_the_last_row():
    with pytest.raises(
        AnnotationError, match="named 'combined', which is the name of the last row"
    ):
        evaluate_tracking({"combined": (STILL, STILL)})


def test_rules_that_cannot_be_are_refused():
    with pytest.raises(
        AnnotationError, match="integer_boxes is 'yes', expected 'none', 'truth' or 'both'"
    ):
        TrackingRules(integer_boxes="yes")
    with pytest.raises(AnnotationError, match="iou is 0.0, expected a number above 0"):
        TrackingRules(iou=0.0)


def test_without_trackeval_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackeval.metrics", None)
    with pytest.raises(
        HumanQueryError, match=r"needs TrackEval .*pip install 'humanquery\[track\]'"
    ):
        _scores(STILL, STILL)


def test_trackeval_is_imported_only_when_something_is_scored():
    from humanquery.evaluation import track_metrics as tracking

    assert not [
        line
        for line in inspect.getsource(tracking).splitlines()
        if re.match("(import|from) trackeval", line)
    ]
