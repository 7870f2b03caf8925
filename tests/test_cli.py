"""Every verb of the command line."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from humanquery import cli
from humanquery.core.errors import HumanQueryError
from humanquery.media.images import write_image
from humanquery.media.video_writer import VideoWriter
from humanquery.predict import Predictor
from tests.predict.fake import FakeSystem

runner = CliRunner()


@pytest.fixture
def fake_model(monkeypatch):
    import humanquery.predict

    monkeypatch.setattr(humanquery.predict, "load", lambda *_: Predictor(FakeSystem(), {}, "cpu"))


def test_help_imports_nothing_heavy():
    """What makes `--help` quick: of the dependencies only typer and what it draws with."""
    heavy = ("torch", "torchvision", "timm", "numpy", "scipy", "cv2", "PIL", "av", "safetensors")
    code = (
        "import sys; from humanquery import cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        f"sys.exit(' '.join(sorted({set(heavy)!r} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"imported: {done.stderr}"
    assert "predict" in done.stdout and "track" in done.stdout


VERBS = [
    "predict",
    "track",
    "wholebody",
    "serve",
    "show",
    "models",
    "doctor",
    "attend",
    "convert",
    "export",
    "train",
    "finetune",
    "evaluate",
    "ship",
    "recipes",
    "report",
    "demo",
    "version",
]


@pytest.mark.parametrize(
    "verb",
    [
        *[[v] for v in VERBS],
        *[["data", v] for v in ("check", "stats", "generate", "aggregate-votes", "convert")],
        ["data", "fit-proposals"],
        ["fit", "pose-nms"],
        ["bench", "train"],
    ],
)
def test_every_verb_explains_itself_with_an_example(verb):
    said = runner.invoke(cli.app, [*verb, "--help"])
    assert said.exit_code == 0
    if verb != ["version"]:
        assert "Example: humanquery " + " ".join(verb) in " ".join(said.output.split())


def run_main(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["humanquery", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code, capsys.readouterr().err


def test_a_mistyped_verb_gets_the_nearest(monkeypatch, capsys):
    code, said = run_main(monkeypatch, capsys, "pedict", "x.jpg")
    assert code == 2 and "Did you mean 'predict'" in said


def test_errors_for_people_are_one_message_without_a_traceback(monkeypatch, capsys):
    code, said = run_main(
        monkeypatch, capsys, "train", "--recipe", "hqnet_tiny_scene", "--out", "nowhere"
    )
    assert code == 2 and "Did you mean 'hqnet_tiny_scenes'" in said and "Traceback" not in said
    code, said = run_main(
        monkeypatch,
        capsys,
        "train",
        "--recipe",
        "hqnet_tiny_scenes",
        "--set",
        "model.tasks.maks=none",
        "--out",
        "nowhere",
    )
    assert code == 2 and "Did you mean 'mask'" in said
    code, said = run_main(monkeypatch, capsys, "show", "nothing.safetensors")
    assert code == 2 and "nothing.safetensors" in said


def test_predict_writes_results_and_its_exit_code_tells_of_broken_files(fake_model, tmp_path):
    write_image(tmp_path / "in" / "a.png", np.zeros((30, 40, 3), np.uint8))
    done = runner.invoke(
        cli.app, ["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--score", "0.1"]
    )
    assert done.exit_code == 0 and "2 people in 1 pictures" in done.output
    assert (tmp_path / "out" / "a.jpg").is_file()
    (tmp_path / "in" / "b.png").write_text("")
    done = runner.invoke(
        cli.app,
        [
            "predict",
            str(tmp_path / "in"),
            "--out",
            str(tmp_path / "o2"),
            "--no-attributes",
            "--tasks",
            "box",
        ],
    )
    assert done.exit_code == 1 and "b.png" in done.output
    person = json.loads((tmp_path / "o2" / "a.json").read_text())["persons"][0]
    assert set(person) == {"box", "score"}


def test_predict_writes_one_table_of_all_pictures(fake_model, tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.png", np.zeros((30, 40, 3), np.uint8))
    arguments = ["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    done = runner.invoke(cli.app, [*arguments, "--csv", "--no-pictures"])
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "out" / "people.csv").read_text().splitlines()
    assert lines[0].startswith("file_name,person,x1,y1,x2,y2,score,gender,age,nose_x")
    assert [line.split(",")[:4] for line in lines[1:]] == [
        [str(tmp_path / "in" / f"{name}.png"), "0", "0.0", "0.0"] for name in ("a", "b")
    ]


def test_predict_cuts_people_out_and_hides_their_faces(fake_model, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    write_image(tmp_path / "a.png", noise)
    out = tmp_path / "out"
    arguments = ["predict", str(tmp_path / "a.png"), "--score", "0.1", "--crops", "--cut-outs"]
    done = runner.invoke(cli.app, [*arguments, "--blur-faces", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert (out / "crops" / "a_0.jpg").is_file() and (out / "crops" / "a_1.jpg").is_file()
    from PIL import Image

    person = np.array(Image.open(out / "cutouts" / "a_0.png"))
    assert person.shape == (60, 40, 4) and (person[..., 3] == 255).all()
    changed = (person[..., :3] != noise[:, :40]).any(-1)
    assert changed[6:12, 4:10].all() and not changed[40:].any(), "the face alone is hidden"
    done = runner.invoke(cli.app, [*arguments, "--out", str(out)])
    assert sorted(p.name for p in (out / "crops").glob("*.jpg")) == ["a_0.jpg", "a_1.jpg"]


def test_a_picture_without_joints_is_not_passed_off_as_blurred(fake_model, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((60, 80, 3), np.uint8))
    arguments = ["predict", str(tmp_path / "a.png"), "--tasks", "box", "--blur-faces"]
    done = runner.invoke(cli.app, [*arguments, "--out", str(tmp_path / "o")])
    assert isinstance(done.exception, HumanQueryError) and "keypoints" in str(done.exception)
    assert not list((tmp_path / "o").glob("*.jpg"))


def test_videos_are_followed_by_both_verbs(fake_model, tmp_path):
    clip = tmp_path / "clip.mp4"
    with VideoWriter(clip, 10) as video:
        for _ in range(5):
            video.write(np.zeros((64, 96, 3), np.uint8))
    done = runner.invoke(cli.app, ["predict", str(clip), "--out", str(tmp_path / "p")])
    assert done.exit_code == 0 and "in 5 frames" in done.output
    assert (tmp_path / "p" / "clip" / "tracked.mp4").is_file()
    done = runner.invoke(
        cli.app, ["track", str(clip), "--out", str(tmp_path / "t"), "--save", "mot", "--smooth"]
    )
    assert done.exit_code == 0 and "1 people in 5 frames" in done.output
    assert len((tmp_path / "t" / "tracks.txt").read_text().splitlines()) == 5


def test_options_hold_for_videos_too_and_a_broken_one_stops_nothing(fake_model, tmp_path):
    for folder in ("a", "b"):
        with VideoWriter(tmp_path / folder / "clip.mp4", 10) as video:
            video.write(np.zeros((64, 96, 3), np.uint8))
    (tmp_path / "bad.mp4").write_text("no video")
    write_image(tmp_path / "p.png", np.zeros((30, 40, 3), np.uint8))
    sources = [str(tmp_path / name) for name in ("bad.mp4", "a/clip.mp4", "b/clip.mp4", "p.png")]
    options = ["--tasks", "box", "--score", "0.95", "--no-pictures", "--out", str(tmp_path / "o")]
    done = runner.invoke(cli.app, ["predict", *sources, *options])
    assert (
        done.exit_code == 1 and "bad.mp4" in done.output and "0 people in 1 pictures" in done.output
    )
    said = sorted(
        p.relative_to(tmp_path / "o").as_posix() for p in (tmp_path / "o").rglob("tracks.jsonl")
    )
    assert len(said) == 2 and not list(
        (tmp_path / "o").rglob("*.mp4")
    )  # neither overwrote the other
    assert (
        json.loads((tmp_path / "o" / said[0]).read_text())["persons"] == []
    )  # nobody is that sure
    runner.invoke(
        cli.app, ["predict", sources[1], "--tasks", "box", "--out", str(tmp_path / "box")]
    )
    (line,) = (tmp_path / "box" / "clip" / "tracks.jsonl").read_text().splitlines()
    assert set(json.loads(line)["persons"][0]) == {"box", "score", "track_id"}


def test_show_prints_the_parts_of_a_recipe():
    said = runner.invoke(cli.app, ["show", "hqnet_tiny_scenes"])
    assert said.exit_code == 0
    for word in ("task mask", "task age", "encoder", "total", "coco17"):
        assert word in said.output


def test_recipes_are_listed_with_their_first_line():
    said = runner.invoke(cli.app, ["recipes"]).output
    assert "hqnet_r50" in said and "HQNet with Swin-L" in said


def test_generated_scenes_become_files_that_the_doctor_finds_sound(tmp_path):
    made = runner.invoke(
        cli.app, ["data", "generate", "--count", "3", "--out", str(tmp_path), "--kind", "easy"]
    )
    assert made.exit_code == 0 and len(list((tmp_path / "images").iterdir())) == 3
    truth = json.loads((tmp_path / "annotations.json").read_text())
    assert len(truth["images"]) == 3 and truth["annotations"]
    checked = runner.invoke(
        cli.app,
        ["data", "check", str(tmp_path / "annotations.json"), "--images", str(tmp_path / "images")],
    )
    assert checked.exit_code == 0, checked.output


def test_a_results_file_is_scored_against_its_truth(tmp_path):
    runner.invoke(
        cli.app, ["data", "generate", "--count", "2", "--out", str(tmp_path), "--kind", "easy"]
    )
    truth = json.loads((tmp_path / "annotations.json").read_text())
    rows = [
        {
            "image_id": a["image_id"],
            "category_id": 1,
            "bbox": a["bbox"],
            "score": 0.9,
            "keypoints": a["keypoints"],
        }
        for a in truth["annotations"]
    ]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    arguments = [
        "evaluate",
        "--data",
        str(tmp_path / "annotations.json"),
        "--results",
        str(tmp_path / "found.json"),
    ]
    said = runner.invoke(cli.app, [*arguments, "--out", str(tmp_path / "report.json")])
    assert said.exit_code == 0 and (tmp_path / "report.json").is_file()


# -- no file of a user is ever lost


def paint(path, value: int = 90):
    write_image(path, np.full((30, 40, 3), value, np.uint8))
    return path.read_bytes()


def ask(*arguments) -> int:
    found = runner.invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    return found.exit_code


def test_a_photo_beside_its_result_stays_as_it_is(fake_model, tmp_path):
    """`predict a.jpg --out .`, and `predict photos/ --out photos`, twice."""
    photo = tmp_path / "a.jpg"
    before = paint(photo)
    for sources in ([photo], [tmp_path], [tmp_path]):
        assert ask("predict", *sources, "--out", tmp_path) == 0
        assert photo.read_bytes() == before
        records = json.loads((tmp_path / "images.json").read_text())
        assert [record["file_name"] for record in records] == [str(photo)]
    assert sorted(p.name for p in tmp_path.glob("a*")) == ["a.jpg", "a_2.jpg", "a_2.json"]


def test_a_picture_called_like_a_file_of_ours_keeps_its_own_result(fake_model, tmp_path):
    paint(tmp_path / "images.png")
    paint(tmp_path / "coco_results.png")
    assert ask("predict", tmp_path, "--out", tmp_path / "found") == 0
    found = {p.name for p in (tmp_path / "found").glob("*.json")}
    assert found == {"images.json", "images_2.json", "coco_results.json", "coco_results_2.json"}
    assert len(json.loads((tmp_path / "found" / "images.json").read_text())) == 2


def test_a_folder_that_holds_our_results_is_not_read_as_a_source(fake_model, tmp_path):
    paint(tmp_path / "a.png")
    for _ in range(2):
        assert ask("predict", tmp_path, "--out", tmp_path / "found") == 0
        assert len(json.loads((tmp_path / "found" / "images.json").read_text())) == 1


def test_a_video_is_never_written_over_by_what_is_drawn_of_it(fake_model, tmp_path, capsys):
    source = tmp_path / "tracked.mp4"
    with VideoWriter(source, 10) as writer:
        for i in range(3):
            writer.write(np.full((48, 64, 3), 40 * i, np.uint8), i / 10)
    before = source.read_bytes()
    with pytest.raises(HumanQueryError, match="tracked.mp4: is an input of this run"):
        ask("track", source, "--out", tmp_path)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["attend", "{photo}", "--out", "{photo}"],
        ["convert", "{photo}", "{photo}"],
        ["ship", "{photo}", "{photo}"],
        ["data", "aggregate-votes", "{photo}", "--out", "{photo}"],
        ["evaluate", "--data", "{photo}", "--out", "{photo}"],
        ["export", "--weights", "{photo}", "--out", "{photo}", "--format", "onnx"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_verb_writes_over_its_own_input(arguments, tmp_path):
    photo = tmp_path / "a.onnx"
    before = paint(tmp_path / "a.png")
    photo.write_bytes(before)
    with pytest.raises(HumanQueryError, match="a.onnx: is an input of this run"):
        ask(*(a.format(photo=photo) for a in arguments))
    assert photo.read_bytes() == before


def test_a_file_of_somebody_else_is_replaced_only_when_asked(tmp_path):
    votes = tmp_path / "votes.json"
    votes.write_text("[]")
    (tmp_path / "ages.json").write_text("mine")
    with pytest.raises(HumanQueryError, match="ages.json: exists and is not ours; .*--overwrite"):
        ask("data", "aggregate-votes", votes, "--out", tmp_path / "ages.json")
    assert (tmp_path / "ages.json").read_text() == "mine"


# -- inputs are checked before a model is loaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["track", "{broken}", "--out", "{out}"], "broken.mp4"),
        (["predict", "{missing}", "--out", "{out}"], "missing.jpg: no such file"),
        (["attend", "{missing}", "--out", "{out}/a.png"], "missing.jpg: no such file"),
        (["export", "--photos", "{missing}", "--out", "{out}/m"], "missing.jpg: no such file"),
        (["evaluate", "--data", "{missing}"], "missing.jpg: no such file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_verb_looks_at_its_inputs_before_it_loads_a_model(
    arguments, message, tmp_path, monkeypatch
):
    import humanquery.predict

    monkeypatch.setattr(humanquery.predict, "load", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    names = {
        "broken": tmp_path / "broken.mp4",
        "missing": tmp_path / "missing.jpg",
        "out": tmp_path / "out",
    }
    with pytest.raises(HumanQueryError, match=message):
        ask(*(a.format(**names) for a in arguments))


def test_an_address_of_a_photo_is_a_photo_and_of_a_stream_a_video():
    from humanquery.predict.predict_folder import is_video

    assert not is_video("https://host/photo.jpg?size=2") and not is_video("photo.jpg")
    for video in ("rtsp://camera/1", "https://host/live.m3u8", "http://host/stream", "a.MP4"):
        assert is_video(video), video


def test_a_shell_completes_verbs_and_options():
    """What `humanquery --install-completion` makes bash ask for."""
    code = "import sys; sys.argv[0] = 'humanquery'; from humanquery.cli import main; main()"
    asked = {"_HUMANQUERY_COMPLETE": "complete_bash", "COMP_CWORD": "1"}

    def completed(words: str, place: int) -> list[str]:
        here = {**os.environ, **asked, "COMP_WORDS": words, "COMP_CWORD": str(place)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=here, capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    assert completed("humanquery pre", 1) == ["predict"]
    assert completed("humanquery predict --blur", 2) == ["--blur-faces"]


def test_models_lists_what_can_be_loaded_with_the_scores_of_its_card():
    done = runner.invoke(cli.app, ["models", "--json"])
    found = {model["name"]: model for model in json.loads(done.output)}
    small = found["hqnet-small"]
    assert {"box", "mask", "keypoints", "gender", "age"} <= set(small["outputs"])
    assert small["scores"]["box/ap"] == 0.5466 and "research" in small["licence"]
    assert not found["hqnet-small-fast"]["scores"] and found["hqnet-small-fast"]["note"]
    assert "hqnet-small" in runner.invoke(cli.app, ["models"]).output


def test_every_variant_has_a_note_for_the_list_of_models():
    from humanquery.commands.models import NOTES
    from humanquery.predict.base import VARIANTS

    assert set(NOTES) == set(VARIANTS)


def test_track_counts_at_lines_and_in_zones(fake_model, tmp_path):
    clip = tmp_path / "clip.mp4"
    with VideoWriter(clip, 10) as video:
        for _ in range(4):
            video.write(np.zeros((64, 96, 3), np.uint8))
    arguments = ["track", str(clip), "--out", str(tmp_path / "o"), "--save", "json,csv"]
    places = ["--line", "door=0,30,90,30", "--zone", "0,0,50,0,50,64,0,64"]
    done = runner.invoke(cli.app, [*arguments, *places])
    assert done.exit_code == 0, done.output
    assert "door: 0 in, 0 out" in done.output and "zone 1: 1 people" in done.output
    counts = json.loads((tmp_path / "o" / "counts.json").read_text())
    assert counts["frames"] == 4 and counts["zones"][0]["visits"][0]["frames"] == 4
    assert (tmp_path / "o" / "tracks.csv").read_text().startswith("frame,seconds,person,x1")


def test_queries_cannot_be_compared_and_left_out():
    done = runner.invoke(cli.app, ["track", "clip.mp4", "--motion-only", "--by-query"])
    assert done.exit_code == 2 and "exclude each other" in done.output


def test_predict_looks_at_slices(fake_model, tmp_path):
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((64, 96, 3), np.uint8))
    done = runner.invoke(
        cli.app, ["predict", str(image), "--out", str(tmp_path / "o"), "--slices", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "people in 1 pictures" in done.output
