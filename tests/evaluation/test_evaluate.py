import json

import numpy as np
import pytest
import torch

from humanquery.core.batch import Batch, Meta, Sample
from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from humanquery.core.system import Ask, Picture
from humanquery.evaluation.evaluate import evaluate
from humanquery.evaluation.people_report import EvaluationReport
from tests.evaluation.scenes import SIZE, complete, found_as_persons, random_target


class Oracle(torch.nn.Module):
    """Says what it was told, and remembers in which mode it was asked."""

    config = None
    outputs = {}
    skeleton = COCO17
    input = None
    loss_names = ()

    def __init__(self, answers: list[Persons]):
        super().__init__()
        self.answers, self.modes = iter(answers), []

    def forward(self, batch):
        return {}

    def predict(self, batch, ask=Ask()):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return [Picture(next(self.answers)) for _ in range(len(batch))]


def _pairs(targets, per_batch=2):
    sample = Sample(np.zeros((8, 8, 3), np.uint8), Meta(SIZE, (8, 8)))
    groups = [targets[i : i + per_batch] for i in range(0, len(targets), per_batch)]
    return [(Batch.collate([sample] * len(group)), group) for group in groups]


@pytest.fixture
def targets():
    rng = np.random.default_rng(0)
    return [complete(random_target(rng, n)) for n in (2, 3, 0)]


def test_a_perfect_system_scores_one_and_is_timed(targets, capsys):
    system = Oracle([found_as_persons(t) for t in targets])
    report = evaluate(system, _pairs(targets), COCO17, progress=False)
    assert (
        all(scores.ap == 1.0 for scores in report.families.values()) and len(report.families) == 5
    )
    assert report.median_seconds > 0 and report.pictures == 3
    assert capsys.readouterr().out == ""


def test_the_system_is_asked_in_eval_mode_and_left_as_it_was(targets):
    system = Oracle([found_as_persons(t) for t in targets]).train()
    evaluate(system, iter(_pairs(targets)), COCO17)
    assert system.modes == [(False, False)] * 2 and system.training


def test_a_batch_with_too_few_targets_is_refused(targets):
    system = Oracle([found_as_persons(t) for t in targets])
    batch, _ = _pairs(targets)[0]
    with pytest.raises(AnnotationError, match="batch 0: 2 pictures but 1 targets"):
        evaluate(system, [(batch, targets[:1])], COCO17, progress=False)


def test_the_report_is_json_and_a_readable_table(targets, tmp_path):
    system = Oracle([found_as_persons(t) for t in targets])
    report: EvaluationReport = evaluate(system, _pairs(targets), COCO17, progress=False)
    report.save(tmp_path / "report.json")
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain == report.to_json()
    assert plain["families"]["box"]["sizes"]["without_small"]["ap"] == 1.0
    assert plain["engine"].startswith("hotcoco ") and plain["version"].startswith("humanquery ")
    lines = report.table().splitlines()
    heading = "AP AP50 AP75 AP_S AP_M AP_L AP w/o Small AR"
    assert " ".join(lines[0].split()) == heading
    assert [line[:10].strip() for line in lines[1:6]] == [
        "Box",
        "Mask",
        "Keypoints",
        "Gender AP",
        "Age-10 AP",
    ]
    assert len({len(line) for line in lines[:6]}) == 1
    for part in (
        "3 pictures, 5 people",
        "[32², 1e10]",
        "Median time per picture",
        "mean error 0.00 years",
    ):
        assert part in report.table()
    assert report.numbers()["box/ap"] == report.numbers()["gender/accuracy"] == 1.0
    assert all(isinstance(value, float) for value in report.numbers().values())
