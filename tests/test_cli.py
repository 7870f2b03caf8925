"""Every verb of the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from humanquery import cli
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
    "show",
    "attend",
    "convert",
    "export",
    "train",
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
        *[["data", v] for v in ("check", "stats", "generate", "aggregate-votes")],
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
