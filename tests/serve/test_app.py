"""What clients ask, and what they get."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from humanquery.core.masks import rle_to_bitmap
from humanquery.interop.results import people_from_json
from humanquery.media.video_writer import VideoWriter
from tests.predict.fake import people
from tests.serve.stand_in import POISON, comes, picture


def told(answer, status: int) -> str:
    """The message of a problem, which has this status."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "message"}
    return answer.json()["message"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    """Six frames of 64 x 96."""
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(file, 10) as video:
        for i in range(6):
            video.write(np.full((64, 96, 3), 30 * i, np.uint8))
    return file.read_bytes()


# ---- pictures


@pytest.mark.parametrize(
    "sent",
    [
        {"content": picture(), "headers": {"Content-Type": "image/jpeg"}},
        {"content": picture(kind="PNG")},
        {"files": {"file": ("a.jpg", picture())}},
        {"json": {"base64": base64.b64encode(picture()).decode()}},
    ],
    ids=["body", "body without a type", "form", "base64"],
)
def test_a_picture_may_be_sent_in_several_ways(serving, sent):
    answer = serving().post("/v1/picture?score=0.1", **sent)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["image_size"] == [60, 80]
    found = people_from_json(said)
    assert found.boxes.tolist() == people((60, 80)).boxes.tolist()
    assert "mask" not in said["persons"][0] and "embedding" not in said["persons"][0]


def test_people_come_with_what_is_asked_for(serving):
    options = "masks=true&embeddings=true&faces=true&drawn=true&crops=true&cut_outs=true"
    answer = serving().post(f"/v1/picture?{options}&score=0.1", content=picture())
    left, right = answer.json()["persons"]
    assert (
        rle_to_bitmap(left["mask"])[:, :40].all() and not rle_to_bitmap(left["mask"])[:, 40:].any()
    )
    assert left["embedding"] == [1.0, 0.0] and len(left["face"]) == 4
    opened = lambda text: Image.open(io.BytesIO(base64.b64decode(text)))  # noqa: E731
    assert opened(answer.json()["drawn"]).size == (80, 60)
    assert opened(right["crop"]).height == 60
    assert opened(right["cut_out"]).size == (40, 60) and opened(right["cut_out"]).mode == "RGBA"


def test_tasks_and_attributes_are_left_out_where_they_are_not_wanted(serving, model):
    client = serving()
    person = client.post("/v1/picture?tasks=box", content=picture()).json()["persons"][0]
    assert set(person) == {"box", "score"}
    person = client.post("/v1/picture?attributes=false", content=picture()).json()["persons"][0]
    assert set(person) == {"box", "score", "keypoints"}
    assert "masks" not in model.asks[-1].outputs, "masks cost time where nobody wants them"


def test_faces_are_blurred_in_what_is_drawn_and_cut_out(serving):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    sent = io.BytesIO()
    Image.fromarray(noise).save(sent, "PNG")
    client, options = serving(), "crops=true&cut_outs=true&blur_faces=true"
    answer = client.post(f"/v1/picture?{options}", content=sent.getvalue()).json()
    cut = np.array(Image.open(io.BytesIO(base64.b64decode(answer["persons"][0]["cut_out"]))))
    changed = (cut[..., :3] != noise[:, :40]).any(-1)
    assert changed[6:12, 4:10].all() and not changed[40:].any() and answer["faces_left"] == 0
    said = told(client.post("/v1/drawn?tasks=box&blur_faces=true", content=sent.getvalue()), 422)
    assert "ask for keypoints" in said


def test_a_drawn_picture_comes_as_a_jpeg(serving):
    answer = serving().post("/v1/drawn", content=picture())
    assert answer.headers["Content-Type"] == "image/jpeg"
    drawn = np.array(Image.open(io.BytesIO(answer.content)))
    assert drawn.shape == (60, 80, 3) and (abs(drawn.astype(int) - 90) > 40).any()


def test_of_a_list_each_picture_is_answered_and_a_damaged_one_spoils_nothing(serving):
    files = [("file", ("a.jpg", picture())), ("file", ("b.jpg", picture()[:300]))]
    files += [("file", ("c.txt", b"words")), ("file", ("d.png", picture((30, 40), kind="PNG")))]
    files += [("file", ("e.jpg", b""))]
    entries = serving().post("/v1/pictures", files=files).json()["pictures"]
    assert [entry["name"] for entry in entries] == ["a.jpg", "b.jpg", "c.txt", "d.png", "e.jpg"]
    assert [entry["problem"] and entry["problem"]["error"] for entry in entries] == [
        None,
        "picture",
        "kind",
        None,
        "body",
    ]
    assert entries[3]["people"]["image_size"] == [30, 40] and entries[1]["people"] is None


def test_a_list_as_json(serving):
    one = {"base64": base64.b64encode(picture()).decode()}
    entries = serving().post("/v1/pictures", json={"pictures": [one, one]}).json()["pictures"]
    assert [len(entry["people"]["persons"]) for entry in entries] == [1, 1]


# ---- clips


def test_people_of_a_clip_keep_their_ids(serving, clip):
    answer = serving().post("/v1/clip", files={"file": ("walk.mp4", clip)})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert [frame["index"] for frame in said["frames"]] == list(range(6))
    assert {frame["persons"][0]["track_id"] for frame in said["frames"]} == {1}
    assert said["identities"] == 1 and said["frame_rate"] == 10
    assert said["frames"][2]["seconds"] == pytest.approx(0.2)


def test_every_other_frame_of_a_clip(serving, clip):
    answer = serving().post("/v1/clip?every=2&tasks=box", content=clip)
    assert [frame["index"] for frame in answer.json()["frames"]] == [0, 2, 4]
    assert set(answer.json()["frames"][0]["persons"][0]) == {"box", "score", "track_id"}


def test_a_clip_has_a_limit_of_frames_and_of_their_size(serving, clip):
    said = told(serving(max_frames=4).post("/v1/clip", files={"file": ("w.mp4", clip)}), 413)
    assert "w.mp4: more than 4 frames" in said and "?every=2" in said
    said = told(serving(max_pixels=6000).post("/v1/clip", content=clip), 413)
    assert "frames of 96 x 64" in said


def test_a_damaged_clip_is_told_without_the_name_of_a_file_of_ours(serving, clip):
    answer = serving().post("/v1/clip", files={"file": ("w.mp4", clip[:600])})
    said = told(answer, 422)
    assert "w.mp4" in said and "/tmp" not in said


def test_a_clip_that_takes_too_long_is_given_up(serving, clip, model):
    client = serving(clip_seconds=0.2)
    model.hold()
    assert "time for this request is over" in told(client.post("/v1/clip", content=clip), 504)
    model.free.set()
    assert client.post("/v1/picture", content=picture()).status_code == 200


# ---- what is refused


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "a playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "a list for FFmpeg"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n", "PostScript"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            "SVG",
        ),
        (b"/etc/passwd", "the name of a file"),
    ],
)
def test_what_could_open_other_files_reaches_no_reader(serving, start, what):
    client = serving()
    for route in ("picture", "drawn", "clip"):
        assert "begins with" in told(client.post(f"/v1/{route}", content=start), 415)
    entry = client.post("/v1/pictures", files={"file": ("x.jpg", start)}).json()["pictures"][0]
    assert entry["problem"]["error"] == "kind"


def test_no_address_is_fetched_unless_it_is_allowed(serving, monkeypatch):
    fetched = []

    def fetch(address, **limits):
        fetched.append((address, limits["max_bytes"]))
        return picture()

    monkeypatch.setattr("humanquery.serve.service.fetch", fetch)
    asked = {"url": "http://127.0.0.1:1/a.jpg"}
    said = told(serving().post("/v1/picture", json=asked), 403)
    assert "--allow-urls" in said and not fetched
    client = serving(allow_urls=True, max_bytes=1000)
    assert client.post("/v1/picture", json=asked).status_code == 200
    assert fetched == [("http://127.0.0.1:1/a.jpg", 1000)]
    for other in ("file:///etc/passwd", "/etc/passwd", "ftp://127.0.0.1/a.jpg"):
        assert "expected an http" in told(client.post("/v1/picture", json={"url": other}), 422)
    assert len(fetched) == 1


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ({"content": b""}, 400, "no bytes at all"),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "'text/plain'"),
        ({"files": {"photo": ("a.jpg", picture())}}, 400, "came with 'photo'"),
        ({"data": {"file": "words"}, "files": {}}, 415, "urlencoded"),
        ({"files": [("file", ("a.jpg", picture()))] * 2}, 413, "more than one file"),
        ({"json": {"picture": "x"}}, 422, "something else than"),
        ({"json": [1]}, 422, "something else than"),
        ({"json": {"base64": "%%%"}}, 422, "cannot be decoded"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "no JSON"),
        ({"content": b"[" * 9999, "headers": {"Content-Type": "application/json"}}, 400, "no JSON"),
        ({"content": picture()[:300]}, 422, "damaged"),
        ({"content": picture((101, 100))}, 422, "at most 0 million"),
    ],
)
def test_what_cannot_be_a_picture_is_told(serving, sent, status, said):
    assert said in told(serving(max_pixels=10_000).post("/v1/picture", **sent), status)


FORM = {"Content-Type": "multipart/form-data; boundary=cut"}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"no form at all", FORM),
        (b"--cut\r\n\r\n", FORM),
        (b"--cut\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nhalf", FORM),
        (b"--cut\r\nContent-Disposition: form-data; filename=a\r\n\r\nx\r\n--cut--\r\n", FORM),
        (b"--cut\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\nx\r\n--cut--\r\n", FORM),
        (b"--cut--\r\n", FORM),
        (b"", FORM),
        (picture(), {"Content-Type": "multipart/form-data"}),
        (picture(), {"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}),
    ],
)
def test_a_malformed_form_is_told(serving, body, headers):
    client = serving()
    assert told(client.post("/v1/picture", content=body, headers=headers), 400)
    assert client.post("/v1/picture", content=picture()).status_code == 200


def test_wrong_options_are_told_by_name(serving, model):
    client = serving()
    for query, word in (
        ("scor=1", "scor"),
        ("score=2", "less than or equal to 1"),
        ("score=0", "greater than or equal to 0.05"),
        ("every=2", "every"),
    ):
        assert word in told(client.post(f"/v1/picture?{query}", content=picture()), 422)
    said = told(client.post("/v1/picture?tasks=box,keypoint", content=picture()), 422)
    assert "Did you mean 'keypoints'" in said
    del model.outputs["masks"]
    assert "unknown task 'masks'" in told(
        client.post("/v1/picture?masks=1", content=picture()), 422
    )
    assert client.post("/v1/drawn", content=picture()).status_code == 200


def test_a_body_that_is_too_long_is_refused_before_it_has_come(serving):
    client = serving(max_bytes=1000)
    said = told(client.post("/v1/picture", content=b"x" * 1001), 413)
    assert "more than 0.001 MB" in said
    pieces = (b"\xff\xd8\xff" + b"x" * 400 for _ in range(10_000))  # no Content-Length
    assert "more than 0.001 MB" in told(client.post("/v1/picture", content=pieces), 413)
    assert client.app.state.service.bodies.bytes == 0


def test_a_fault_of_ours_is_told_without_its_inside(serving):
    client = serving()
    answer = client.post("/v1/picture", content=picture(grey=POISON, kind="PNG"))
    assert "in the log" in told(answer, 500) and "foresaw" not in answer.text
    assert client.post("/v1/picture", content=picture()).status_code == 200


# ---- more than can be done


def test_a_full_queue_says_when_to_ask_again(serving, model):
    client = serving(queue=2, batch_size=1, max_pictures=2)
    model.hold()
    with ThreadPoolExecutor(2) as others:
        waiting = [others.submit(client.post, "/v1/picture", content=picture()) for _ in range(2)]
        service = client.app.state.service
        assert comes(lambda: service.waiting == 2)
        refused = client.post("/v1/picture", content=picture())
        assert "2 pictures are waiting already" in told(refused, 503)
        assert int(refused.headers["Retry-After"]) >= 1
        assert "2 pictures are waiting" in told(client.get("/readyz"), 503)
        assert client.get("/healthz").status_code == 200
        model.free.set()
        assert [answer.result(10).status_code for answer in waiting] == [200, 200]
    assert comes(lambda: service.waiting == 0)
    assert client.post("/v1/picture", content=picture()).status_code == 200


def test_what_would_wait_until_its_time_is_over_is_refused_at_once(serving, model):
    client = serving(seconds=5)
    service = client.app.state.service
    service.batcher.seconds_per_picture, service.waiting = 2.0, 3
    refused = client.post("/v1/picture", content=picture())
    assert "3 pictures are waiting already, about 6 s of work" in told(refused, 503)
    assert refused.headers["Retry-After"] == "3"
    service.waiting = 0  # however slow the last ones were
    assert client.post("/v1/picture", content=picture()).status_code == 200


def test_bytes_that_wait_are_bounded(serving):
    refused = serving(waiting_bytes=100).post("/v1/picture", content=picture())
    assert "are waiting already" in told(refused, 503) and refused.headers["Retry-After"]


def test_clips_at_the_same_time_are_bounded(serving, model, clip):
    client = serving(max_clips=1)
    model.hold()
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(client.post, "/v1/clip", content=clip)
        assert model.entered.wait(10)
        refused = client.post("/v1/clip", content=clip)
        assert "1 clips are being followed" in told(refused, 503)
        model.free.set()
        assert waiting.result(10).status_code == 200


def test_a_picture_that_is_not_answered_in_time_is_given_up(serving, model):
    client = serving(seconds=0.1)
    model.hold()
    refused = client.post("/v1/picture", content=picture())
    assert "time for this request is over" in told(refused, 504)
    assert client.app.state.service.waiting == 0


# ---- who may ask


def test_with_keys_only_those_who_bring_one_may_ask(serving):
    client = serving(api_keys=("first-key-1", "second-key"))
    asked = {"content": picture()}
    refused = client.post("/v1/picture", **asked)
    assert "Authorization: Bearer KEY" in told(refused, 401)
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    for headers in ({"Authorization": "Bearer wrong"}, {"X-API-Key": ""}, {"X-API-Key": "first"}):
        assert client.post("/v1/picture", headers=headers, **asked).status_code == 401
    for headers in ({"Authorization": "Bearer first-key-1"}, {"X-API-Key": "second-key"}):
        assert client.post("/v1/picture", headers=headers, **asked).status_code == 200
    assert client.get("/v1/model").status_code == 401
    for open_to_all in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/"):
        assert client.get(open_to_all).status_code == 200
    assert "security" in client.get("/openapi.json").json()["paths"]["/v1/picture"]["post"]


def test_other_pages_may_ask_only_where_they_are_named(serving):
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    for origins, allowed in (((), None), (("https://a.example",), "https://a.example")):
        answer = serving(cors_origins=origins).options("/v1/picture", headers=asked)
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed


# ---- what it says about itself


def test_it_says_what_it_serves(serving):
    said = serving(max_frames=7).get("/v1/model").json()
    assert said["name"] == "stand-in" and "keypoints" in said["outputs"]
    assert said["skeleton"]["sides"][5] == "left" and [0, 1] in said["skeleton"]["limbs"]
    assert said["limits"]["max_frames"] == 7


def test_it_counts(serving):
    client = serving()
    client.post("/v1/picture", content=picture())
    client.post("/v1/picture", content=b"words")
    client.get("/made/up/by/clients")
    said = client.get("/metrics")
    assert said.headers["Content-Type"].startswith("text/plain")
    for line in (
        'humanquery_requests_total{route="/v1/picture",status="200"} 1.0',
        'humanquery_requests_total{route="/v1/picture",status="415"} 1.0',
        'humanquery_requests_total{route="other",status="404"} 1.0',
        'humanquery_problems_total{error="kind"} 1.0',
        "humanquery_pictures_total 2.0",  # one to warm up
        "humanquery_waiting_pictures 0.0",
    ):
        assert line in said.text.splitlines()


def test_it_calls_itself_ill_where_the_model_hangs(serving, model):
    client = serving(seconds=0.02)
    model.hold()
    client.post("/v1/picture", content=picture())
    assert comes(lambda: client.get("/healthz").status_code == 503)
    assert "start this worker anew" in client.get("/healthz").json()["message"]
    model.free.set()
    assert comes(lambda: client.get("/healthz").status_code == 200)


def test_what_is_not_there_is_told_as_everything_else(serving):
    client = serving()
    assert "GET /v2: Not Found" in told(client.get("/v2"), 404)
    refused = client.get("/v1/picture")
    assert told(refused, 405) and refused.headers["Allow"] == "POST"
    assert told(client.get("/page/../app.py"), 404) and told(client.get("/page/%2e%2e/app.py"), 404)


def test_the_page_may_ask_nobody_else(serving):
    answer = serving().get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    client = serving(page=False)
    assert client.get("/").status_code == client.get("/page/app.js").status_code == 404


def test_answers_are_json_without_numbers_that_json_does_not_have(serving, model, monkeypatch):
    import torch

    def found(pictures, ask):
        one = people(pictures[0].shape[:2], ask.outputs)
        return [one.replace(age=torch.tensor([float("nan"), 3.0]))]

    monkeypatch.setattr(model, "_persons", found)
    answer = serving().post("/v1/picture?score=0.1", content=picture())
    assert json.loads(answer.text, parse_constant=pytest.fail)["persons"][0]["age"] is None
