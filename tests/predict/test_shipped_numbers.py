"""The shipped model says today what it said when `shipped_reference.json` was written: refactoring
changes no number."""

import json
from functools import cache
from pathlib import Path

import pytest

from humanquery import load
from humanquery.data.scenes.scenes import Scenes, preset

CASES = json.loads((Path(__file__).parent / "shipped_reference.json").read_text())
UNIT, PIXELS = 1e-3, 0.05


@cache
def predictor():
    return load(device="cpu")


@pytest.mark.parametrize("case", [CASES[i] for i in (1, 3, 7)], ids=["mixed1", "mixed3", "street3"])
def test_the_shipped_model_gives_the_recorded_people(case):
    scenes = Scenes(preset(case["kind"], seed=11, count=4, split="val"))
    people = predictor().predict(scenes[case["index"]].image, score=0.2)
    assert len(people) == len(case["persons"]) > 0
    for k, (found, known) in enumerate(zip(people.to_coco(0), case["persons"], strict=True)):
        for name in ("score", "mask_score", "pose_score", "gender"):
            assert found[name] == pytest.approx(known[name], abs=UNIT), name
        assert found["age"] == pytest.approx(known["age"], abs=10 * UNIT)
        assert found["bbox"] == pytest.approx(known["bbox"], abs=PIXELS)
        assert found["keypoints"] == pytest.approx(known["keypoints"], abs=PIXELS)
        scores, embedding = people.keypoint_scores[k].tolist(), people.embeddings[k][:8].tolist()
        assert scores == pytest.approx(known["keypoint_scores"], abs=UNIT)
        assert embedding == pytest.approx(known["embedding"], abs=5 * UNIT)
        # a pixel on the outline may fall to either side
        assert int(people.masks[k].sum()) == pytest.approx(known["mask_area"], rel=UNIT, abs=3)
