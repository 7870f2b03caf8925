import pytest
from typer.testing import CliRunner

from humanquery import cli
from humanquery.commands.evaluate_tracks import evaluate_tracks
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.media.images import write_image
from humanquery.predict import Predictor
from tests.paths import DATA, ORACLE, needs_data, needs_oracle
from tests.predict.test_track_video import Bright, bright

pytest.importorskip("trackeval", reason="pip install --no-deps trackeval tabulate")


def write_clip(folder, frames=6):
    """A bright bar that walks, with its box as truth."""
    rows = []
    for t in range(frames):
        write_image(folder / "img1" / f"{t + 1:06d}.png", bright(10 + t))
        rows.append(f"{t + 1},4,{10 + t - 3 - 6 + 1},9,12,32,1,1,1")
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text("\n".join(rows))
    return folder


@pytest.fixture
def predictor():
    return Predictor(Bright(), {"score_threshold": 0.5}, "cpu")


def test_a_model_that_sees_everybody_scores_one_on_every_clip_of_a_folder(predictor, tmp_path):
    for name in ("first", "second"):
        write_clip(tmp_path / name)
    report = evaluate_tracks(tmp_path, predictor=predictor)
    assert list(report.sequences) == ["first", "second"]
    assert report.combined.mota == report.combined.idf1 == 1
    assert evaluate_tracks(tmp_path / "first", predictor=predictor).combined.idf1 == 1


@needs_data
@needs_oracle
def test_published_results_score_as_published():
    results = ORACLE / "evaluators/mot/TUD-Stadtmitte/test.txt"
    said = CliRunner().invoke(
        cli.app,
        [
            "evaluate",
            "--task",
            "tracking",
            "--data",
            str(DATA / "tracking/TUD-Stadtmitte"),
            "--results",
            str(results),
        ],
    )
    assert said.exit_code == 0 and "56.4" in said.output and "64.5" in said.output


def test_what_is_missing_is_named(predictor, tmp_path):
    with pytest.raises(AnnotationError, match="no clip in MOT layout; expected gt/gt.txt"):
        evaluate_tracks(tmp_path, predictor=predictor)
    with pytest.raises(ConfigError, match="either a file of results or a model"):
        evaluate_tracks(tmp_path)
    with pytest.raises(ConfigError, match="rules 'mots'; expected one of mot, posetrack21"):
        evaluate_tracks(tmp_path, predictor=predictor, rules="mots")
