"""An exported file says what the network says, or is not left."""

import json

import numpy as np
import pytest
import torch

from humanquery import load
from humanquery.core.errors import CheckpointError, ConfigError, ExportError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from humanquery.data.scenes.scenes import Scenes, preset
from humanquery.export import export
from humanquery.export.graph import Graph, example
from humanquery.export.verify import Comparison, compare
from humanquery.export.write import facts_of, limited, refuse
from humanquery.predict.exported_predictor import (
    FACTS,
    Canvases,
    ExportedPredictor,
    collate,
    open_exported,
)

onnx = pytest.importorskip("onnx", reason="needs humanquery[export]")
pytest.importorskip("onnxruntime", reason="needs humanquery[onnx]")


def pictures(count: int = 3) -> list[np.ndarray]:
    scenes = Scenes(preset("easy", seed=3, count=count, split="val"))
    return [scenes[i].image[: 120 + 30 * i] for i in range(count)]


def test_the_graph_gives_what_predict_gives(tiny):
    """Without a letterbox both are in the same pixels."""
    from humanquery.core.batch import Batch, Meta

    images, sizes, score = example(64)
    canvas = [tuple(size.tolist()) for size in sizes]
    padding = torch.ones(images.shape[0], *images.shape[2:], dtype=torch.bool)
    for i, (height, width) in enumerate(canvas):
        padding[i, :height, :width] = False
    batch = Batch(images / 255, padding, [Meta(size, size) for size in canvas])
    with torch.inference_mode():
        found, people = Graph(tiny.system)(images, sizes, score), tiny.system.predict(batch)
    for i, persons in enumerate(one.persons for one in people):
        for name in ("scores", "boxes", "keypoints", "gender", "age", "embeddings"):
            torch.testing.assert_close(found[name][i], getattr(persons, name), rtol=1e-4, atol=1e-4)


def test_a_file_says_what_the_network_says_for_any_number_and_size_of_pictures(tiny, onnx_file):
    exported = open_exported(onnx_file, "cpu", threads=1)
    found = compare(Graph(tiny.system), exported, pictures())
    assert found.problems() == [], found.table()
    assert found.pictures == 3 and found.tied <= 1
    assert {
        "scores",
        "logits",
        "boxes",
        "keypoints",
        "mask_logits",
        "gender",
        "age",
        "embeddings",
    } <= set(found.apart)
    assert exported.run(Canvases.of(pictures(1), exported.facts), 0.0)["boxes"].shape == (1, 8, 4)


def between_ranks(scores: np.ndarray, place: int) -> float:
    """A score that `place` of these reach."""
    best = np.sort(scores)[::-1]
    return float(best[place - 1 : place + 1].mean())


@pytest.mark.parametrize("reached", [5, 1])
def test_only_who_reaches_the_score_is_looked_at_as_many_as_in_the_fullest_picture(
    tiny, onnx_file, reached
):
    images, sizes, everybody = example(96)
    run = open_exported(onnx_file, "cpu", threads=1).run
    with torch.inference_mode():
        all_of_them = Graph(tiny.system)(images, sizes, everybody)
        score = max(between_ranks(row.numpy(), reached) for row in all_of_them["scores"])
        some = Graph(tiny.system)(images, sizes, torch.tensor(score))
    count = int((all_of_them["scores"] >= score).sum(1).max())
    file = run(Canvases(images.numpy(), sizes.numpy(), []), score)
    assert count == reached
    for name, said in all_of_them.items():
        expected = said if name == "tokens" else said[:, :count]
        torch.testing.assert_close(some[name], expected, rtol=1e-4, atol=1e-5, msg=name)
        np.testing.assert_allclose(file[name], expected, rtol=1e-3, atol=1e-3, err_msg=name)


def test_where_nobody_reaches_the_score_one_row_is_left_for_the_runtime(onnx_file):
    images, sizes, _ = example(64)
    found = open_exported(onnx_file, "cpu", threads=1).run(
        Canvases(images.numpy(), sizes.numpy(), []), 2.0
    )
    assert found["boxes"].shape == (2, 1, 4) and found["mask_logits"].shape[1] == 1


def test_a_file_of_fewer_persons_gives_the_best_ones(tiny):
    few = limited(tiny, 3)
    picture = pictures(1)[0]
    best, three = tiny.predict(picture), few.predict(picture)
    assert len(best) == 8 and len(three) == 3 and tiny.system.config.num_persons == 8
    torch.testing.assert_close(three.boxes, best.boxes[:3])
    assert Graph(few.system)(*example(64))["scores"].shape == (2, 3)


def test_the_limit_reaches_the_graph_and_the_facts(tiny, tmp_path, monkeypatch):
    from humanquery.export import write

    seen = []
    monkeypatch.setattr(write, "trace", lambda system: seen.append(system.config.num_persons))
    monkeypatch.setitem(
        write._WRITERS,
        "torch",
        lambda _, path, facts: path.write_text(str(facts.config["num_persons"])),
    )
    path = export(tiny, tmp_path / "few", format="torch", verify=False, max_persons=5)
    assert seen == [5] and path.read_text() == "5"


@pytest.mark.parametrize("number", [0, 1000])
def test_a_limit_that_cannot_be_is_told(tiny, tmp_path, number):
    with pytest.raises(
        ConfigError, match=f"--max-persons {number}: expected 1 to .* gives 8 by itself"
    ):
        export(tiny, tmp_path / "few", max_persons=number)


def test_the_command_line_says_what_it_compared_and_leaves_one_file_and_the_record_of_it(exporting):
    path, said = exporting
    assert "mask_logits" in said and "box/ap" in said and "verified" in said
    assert {file.name for file in path.parent.iterdir()} == {"tiny.onnx", ".humanquery.jsonl"}


def test_the_graph_holds_no_grid_sample_and_no_loop(onnx_file):
    kinds = {node.op_type for node in onnx.load(onnx_file).graph.node}
    assert not kinds & {"GridSample", "Loop", "If", "Scan"}


def test_load_gives_the_same_people_from_the_file(tiny, onnx_file):
    exported = load(onnx_file, "cpu")
    assert exported.default_score == 0.0 and exported.card["name"] == "tiny"
    for picture in pictures(2):
        ours, theirs = tiny.predict(picture), exported.predict(picture)
        assert theirs.skeleton == COCO17 and theirs.image_size == ours.image_size
        for name, _, value in ours.filled():
            if name == "masks":
                assert (getattr(theirs, name) != value).float().mean() < 1e-4
            else:
                torch.testing.assert_close(
                    getattr(theirs, name), value, rtol=1e-3, atol=1e-3, msg=name
                )
    few = exported.predict(pictures(1)[0], score=2.0)
    assert len(few) == 0 and few.masks.shape[1:] == few.image_size
    plain = exported.predict(pictures(1)[0], tasks=["age"], attributes=False)
    assert plain.age is None and plain.masks is None and plain.keypoints is None


def test_pictures_of_different_size_share_a_canvas_of_whole_steps():
    canvas = collate([np.full((10, 40, 3), 7, np.uint8), np.full((33, 5, 3), 9, np.uint8)], 32)
    assert canvas.shape == (2, 3, 64, 64)
    assert canvas[0].sum() == 7 * 3 * 400 and canvas[1, :, :33, :5].min() == 9


def test_a_file_with_a_broken_weight_is_refused_and_not_left(
    tiny, onnx_file, tmp_path, monkeypatch
):
    """The graph's largest weight matrix is made a tenth larger on the way to the disk."""
    from humanquery.export import write

    def break_a_weight(program, path, facts):
        model = onnx.load(onnx_file)
        weights = [
            w for w in model.graph.initializer if "backbone" in w.name and len(w.dims) == 4
        ] or [w for w in model.graph.initializer if len(w.dims) == 4]
        largest = max(weights, key=lambda w: np.prod(w.dims))
        largest.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(largest) * 1.1, largest.name)
        )
        onnx.save(model, path)

    monkeypatch.setitem(write._WRITERS, "onnx", break_a_weight)
    monkeypatch.setattr(write, "trace", lambda system: None)
    monkeypatch.setattr(write, "labelled_pictures", lambda: iter(()))
    monkeypatch.setattr(write, "default_pictures", lambda: iter(pictures(2)))
    monkeypatch.setattr(write, "compare_ap", lambda *_: {})  # the numbers alone must tell
    (tmp_path / "bad.onnx").write_text("an older file stays as it was")
    with pytest.raises(
        ExportError,
        match=r"(?s)bad.onnx: not written.*(differ by .* of their range|other memory tokens)",
    ):
        export(tiny, tmp_path / "bad.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.onnx"]
    assert (tmp_path / "bad.onnx").read_text().startswith("an older file")


def test_a_refusal_names_what_differed_and_by_how_much(tmp_path):
    apart = Comparison(
        pictures=4, apart={"boxes": 0.5, "age": 1e-6}, ranges={"boxes": 100.0, "age": 40.0}
    )
    apart.ap = {"box/ap": (0.5, 0.4), "mask/ap": (0.5, 0.5003)}
    with pytest.raises(ExportError) as refusal:
        refuse(apart, tmp_path / "m.onnx")
    said = str(refusal.value)
    assert "boxes differ by 0.005 of their range, at most 1e-04" in said and "age" not in said
    assert "box/ap is 0.4000, of the network 0.5000" in said and "mask/ap" not in said


def test_what_is_not_finite_is_a_difference():
    specs = Persons.specs()
    views = Comparison(1, specs=specs, apart={"gender": 9e-4, "age": 0.1})
    views.ranges = {"gender": 1.0, "age": 90.0}
    # each is held to the tolerance that is declared with its row
    assert [problem.split()[0] for problem in views.problems()] == ["age"]
    scores = Comparison(1, specs=specs, apart={"scores": float("nan")}, ranges={"scores": 1.0})
    assert "scores differ by inf" in scores.problems()[0]


def test_too_many_ties_are_a_refusal():
    assert "in 3 of 10 pictures" in Comparison(pictures=10, tied=3).problems()[0]
    assert Comparison(pictures=10, tied=2).problems() == []
    assert "all 1 pictures" in Comparison(pictures=1, tied=1).problems()[0]


def test_other_people_than_asked_for_are_a_refusal():
    said = Comparison(pictures=4, miscounted=1).problems()
    assert said == ["in 1 of 4 pictures the file gave more or fewer people than reach a score"]


def test_a_file_that_says_otherwise_when_asked_for_few_is_told(tiny):
    network = Graph(tiny.system)

    def run(seen, score):
        with torch.inference_mode():
            found = network(*(torch.from_numpy(given) for given in seen.inputs(score).values()))
        found = {name: value.numpy() for name, value in found.items()}
        return found | {"boxes": found["boxes"] + 5.0 * (score > 0)}

    exported = ExportedPredictor(run, facts_of(tiny))
    score = between_ranks(tiny.predict(pictures(1)[0]).scores.numpy(), 3)
    assert "boxes differ by" in compare(network, exported, pictures(1), score=score).problems()[0]
    assert compare(network, exported, pictures(1), score=0.0).problems() == []


class OneJoint(torch.nn.Module):
    """Finds one person whose joint is in the higher of two cells."""

    def __init__(self, gap: float):
        super().__init__()
        self.heights = torch.nn.Parameter(torch.tensor([1.0, 1.0 + gap]))

    def forward(self, images, sizes, score):
        place = torch.tensor([10.0, 50.0])[self.heights.argmax()]
        numbers = {
            "scores": torch.ones(len(images), 1),
            "keypoints": place.expand(len(images), 1, 1, 2),
        }
        return numbers | {
            name: torch.zeros(len(images), 1, dtype=torch.long) for name in ("queries", "tokens")
        }


@pytest.mark.parametrize(("gap", "tied"), [(1e-7, 3), (1e-2, 0)])
def test_a_file_may_choose_otherwise_only_where_the_network_itself_is_unsure(tiny, gap, tied):
    other = OneJoint(-gap)

    def run(seen, score):
        return {
            name: value.numpy()
            for name, value in other(*map(torch.from_numpy, seen.inputs(score).values())).items()
        }

    with torch.no_grad():
        found = compare(OneJoint(gap), ExportedPredictor(run, facts_of(tiny)), pictures(3))
    assert (found.pictures, found.tied) == (3, tied)
    assert bool(tied) != bool(found.beyond()) and found.problems()


def test_on_the_cpu_pictures_go_through_the_graph_one_by_one(tiny, onnx_file):
    exported, seen = open_exported(onnx_file, "cpu", threads=1), []
    run = exported.run
    exported.run = lambda canvases, score: seen.append(len(canvases.images)) or run(canvases, score)
    one_by_one = list(exported.predict_many(pictures(3), batch_size=2, score=0.0))
    exported.batches = True
    together = list(exported.predict_many(pictures(3), batch_size=2, score=0.0))
    assert seen == [1, 1, 1, 2, 1] and [p.image_size for p in one_by_one] == [
        p.image_size for p in together
    ]


def test_files_that_export_did_not_write_are_told_apart(tmp_path, onnx_file):
    with pytest.raises(CheckpointError, match="does not exist; `humanquery export` writes"):
        load(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(CheckpointError, match="text.onnx: onnxruntime cannot open it"):
        load(tmp_path / "text.onnx")
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(CheckpointError, match="bare.onnx: no facts of humanquery in this file"):
        load(tmp_path / "bare.onnx")
    facts = json.loads({p.key: p.value for p in onnx.load(onnx_file).metadata_props}[FACTS])
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts | {"format_version": 99})})
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(
        CheckpointError, match="export format 99, this humanquery reads 4; update it"
    ):
        load(tmp_path / "new.onnx")
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts | {"format_version": 2})})
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(
        CheckpointError, match="export format 2, this humanquery reads 4; export the weights again"
    ):
        load(tmp_path / "old.onnx")
    with pytest.raises(CheckpointError, match="give the weights it was made from"):
        _ = load(onnx_file, "cpu").system


def test_an_unknown_format_or_device_is_told(tiny, tmp_path, onnx_file):
    with pytest.raises(ConfigError, match="--format onxn: unknown format. Did you mean 'onnx'"):
        export(tiny, tmp_path / "m", format="onxn")
    with pytest.raises(ConfigError, match="device 'warp' cannot be used by onnxruntime"):
        load(onnx_file, "warp")
