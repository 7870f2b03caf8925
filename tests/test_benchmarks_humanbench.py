"""The comparison of sharing with one task at a time: what is compared, and its table."""

from benchmarks.humanbench import once, pretrainings, row, show
from humanquery.models.path.config import LadderConfig, MLPConfig


def test_rivals_have_the_same_parts_and_budget():
    found = pretrainings(("reid", "parsing"), steps=7, limit=9)
    assert list(found) == ["together, ladder", "together, MLP", "reid alone", "parsing alone"]
    assert {recipe.engine.steps for recipe in found.values()} == {7}
    assert {type(recipe.model.projector) for recipe in found.values()} == {LadderConfig, MLPConfig}
    together, alone = found["together, ladder"], found["parsing alone"]
    assert alone.data.train.parts == together.data.train.parts[1:]
    assert together.engine.accumulate == 2 and alone.engine.accumulate == 1
    assert alone.evaluations[0].limit == 9 and together.evaluations[0].limit == 0  # a gallery


def test_a_finished_run_is_not_repeated(tmp_path):
    class Result:
        seconds, evaluation = 1.0, {"reid/mAP": 0.5}

    calls = []
    for _ in range(2):
        tmp_path.mkdir(exist_ok=True)
        scores = once(tmp_path, lambda at, resume: calls.append(resume) or Result)
        assert scores["reid/mAP"] == 0.5
    assert calls == [False]


def test_the_table_shows_mean_and_half_range_of_what_all_seeds_have():
    scores = row([{"reid/mAP": 0.2, "pose/PCK": None}, {"reid/mAP": 0.4, "pose/PCK": 0.1}])
    assert list(scores) == ["reid/mAP"]
    assert "| together | 0.300 ± 0.100 |" in show({"together": scores, "other": {}})
