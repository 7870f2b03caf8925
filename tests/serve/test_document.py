"""The OpenAPI document says what the service does."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from humanquery.media.video_writer import VideoWriter
from tests.serve.running import Running
from tests.serve.stand_in import StandIn, picture

schemathesis = pytest.importorskip("schemathesis")

import jsonschema_rs  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402

MODES = list(GenerationMode)
OPERATIONS = [(f"/v1/{name}", "POST") for name in ("picture", "pictures", "drawn", "clip")]
EVERYTHING = "masks=true&embeddings=true&faces=true&score=0.1"
PICTURES = f"{EVERYTHING}&drawn=true&crops=true&cut_outs=true&blur_faces=true"
QUICK = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = Running(StandIn())
    yield running
    running.stop()
    running.thread.join(10)


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_url(f"{server.address}/openapi.json")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_comes_is_answered_as_the_document_says(document, path, method, mode):
    operation = document[path][method]
    # what is generated for a file is none, so requests that the document allows are refused too
    other = ("positive_data_acceptance", "negative_data_rejection")
    excluded = [schemathesis.checks.CHECKS.get_one(name) for name in other]

    @QUICK
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        case.call_and_validate(excluded_checks=excluded)

    check()


def strict(document: dict[str, Any], name: str) -> jsonschema_rs.Validator:
    """Takes what a model of the document allows, and no key that it does not name."""
    models = document["components"]["schemas"]
    for model in models.values():
        if "properties" in model:
            model["additionalProperties"] = False
    wanted = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": models}}
    return jsonschema_rs.validator_for(wanted)


def test_answers_have_all_and_only_what_the_document_names(server, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        for _ in range(2):
            video.write(np.zeros((64, 96, 3), np.uint8))
    clip, photo = (tmp_path / "a.mp4").read_bytes(), ("a.jpg", picture())
    with httpx.Client(base_url=server.address) as client:
        document = client.get("/openapi.json").json()
        answers = {
            "People": client.post(f"/v1/picture?{PICTURES}", files={"file": photo}),
            "PictureList": client.post(
                f"/v1/pictures?{PICTURES}", files=[("file", photo), ("file", ("b", b"words"))]
            ),
            "Clip": client.post(f"/v1/clip?{EVERYTHING}", content=clip),
            "Model": client.get("/v1/model"),
            "ProblemAnswer": client.post("/v1/picture", content=b"words"),
        }
    for name, answer in answers.items():
        strict(document, name).validate(answer.json())
    missing = (
        set(document["components"]["schemas"]["Person"]["properties"])
        - {key for frame in answers["Clip"].json()["frames"] for key in frame["persons"][0]}
        - set(answers["People"].json()["persons"][0])
    )
    assert missing == {"face_box"}, "which the stand-in does not give"


def test_the_examples_of_the_document_are_answers(server):
    document = httpx.get(f"{server.address}/openapi.json").json()
    for path, name in (("/v1/picture", "People"), ("/v1/pictures", "PictureList")):
        said = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]
        strict(document, name).validate(said["example"])
