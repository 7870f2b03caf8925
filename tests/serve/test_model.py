"""The shipped model, as a client gets it."""

import pytest
from fastapi.testclient import TestClient

from humanquery import load
from humanquery.interop.results import people_from_json
from humanquery.serve.app import create_app
from tests.paths import ROOT


@pytest.mark.timeout(120)
def test_the_shipped_model_finds_the_astronaut():
    predictor = load("hqnet-small-fast", "cpu")
    photo = ROOT / "docs" / "astronaut.jpg"
    asked = "tasks=box,mask,keypoints&masks=true"  # less than all, and its fast variant: quick
    with TestClient(create_app(lambda: predictor)) as client:
        answer = client.post(f"/v1/picture?{asked}", files={"file": photo.open("rb")}).json()
    found = people_from_json(answer)
    known = predictor.predict(photo, tasks=("box", "mask", "keypoints"))
    assert len(found) == len(known) == 1
    assert (found.boxes - known.boxes).abs().max() < 0.01
    assert (found.keypoints - known.keypoints).abs().max() < 0.01
    assert (found.masks == known.masks).all()
