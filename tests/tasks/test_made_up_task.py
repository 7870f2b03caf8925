"""A task is one file: "hat", which is declared here and nowhere else, is trained, predicted,
exported, verified, written and drawn."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.backbones import TimmBackbone
from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import ConfigError
from humanquery.core.fields import FieldSpec
from humanquery.core.rows import Extra, Labelled
from humanquery.core.system import Ask
from humanquery.core.target import Target
from humanquery.draw import draw, label_of
from humanquery.export.graph import Graph
from humanquery.export.write import facts_of
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.hqnet.config import ExtraTask, HQNetConfig
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.predict import Predictor
from humanquery.predict.exported_predictor import ExportedPredictor, Facts, open_exported
from humanquery.predict.track_files import ParquetParts
from humanquery.tasks.base import Draws, Task, at_queries, copies, mean_over_known, zero_loss
from tests.models.small import batch, crowd, small_config, small_model

HAT = FieldSpec(
    "hat",
    json="hat",
    coco="hat",
    digits=4,
    column="float32",
    span=1,
    attribute=True,
    label="bare|hat",
)
HAT_COLOR = FieldSpec("hat_color", column="list<float32>", span=1, part_of="hat")
"""two numbers of each person, which nobody asks for by themselves"""


@dataclass(frozen=True)
class HatConfig:
    loss: float = 1.0


@dataclass(frozen=True, eq=False)
class HatPrediction:
    logit: Float[Tensor, "b q"]


class HatTask(Task):
    """Whether somebody wears a hat: P(hat)."""

    name = "hat"
    config_type = HatConfig
    result = "hat"
    fields = (HAT, HAT_COLOR)
    loss_names = ("hat",)

    def __init__(self, config, sizes):
        super().__init__()
        self.config = config
        self.heads = copies(lambda: nn.Linear(sizes.dim, 1), sizes.stages)

    def read(self, stage, queries, reference, prepared):
        return HatPrediction(self.heads[stage](queries).squeeze(-1))

    def losses(self, prediction, matches, truths, draws, tag):
        true = truths.matched("hat", matches)
        if true is None:
            return {"hat": zero_loss(prediction.logit)}
        loss = nn.functional.binary_cross_entropy_with_logits(
            matches.predicted(prediction.logit), true.value, reduction="none"
        )
        return {"hat": self.config.loss * mean_over_known(loss, true.valid)}

    def tensors(self, prediction, chosen, encoded, prepared):
        hat = at_queries(prediction.logit, chosen).sigmoid()
        return {"hat": hat, "hat_color": torch.stack([hat, 1 - hat], -1)}


# -- from here on everything is the library's own


def config() -> HQNetConfig:
    return small_config(extra=(ExtraTask("HatTask", {"loss": 2.0}),))


def hats(target: Target, *values: float) -> Target:
    valid = torch.ones(len(target), dtype=torch.bool)
    return target.replace(extra={"hat": Extra(HAT, Labelled(torch.tensor(values), valid))})


def ready() -> Predictor:
    backbone = TimmBackbone(
        "test_resnet",
        pretrained=False,
        frozen_stages=0,
        frozen_norm=False,
        options={"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]},
    )
    torch.manual_seed(0)
    built = dataclasses.replace(config(), backbone=backbone, input=LetterboxConfig(64, 96))
    system, noise = HQNet(built), torch.Generator().manual_seed(0)
    with torch.no_grad():  # fresh heads give every query the same, and ties hide differences
        for weight in system.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=noise)
    return Predictor(system, {"score_threshold": 0.0}, "cpu")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return ready()


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)


def test_its_config_is_rebuilt_from_plain_data_and_its_losses_are_named():
    assert from_plain(HQNetConfig, to_plain(config())) == config()
    model = small_model(config())
    assert model.tasks["hat"].config.loss == 2.0 and model.outputs["hat"] is HAT
    given = batch([hats(crowd(), 1.0, 0.0)])
    assert set(model(given, Draws(torch.Generator().manual_seed(0)))) == set(model.loss_names)
    assert "layer1.hat" in model.loss_names


def test_a_class_that_nobody_imported_is_told():
    with pytest.raises(
        ConfigError, match="no task class 'HatTusk'.*--import.*Did you mean 'HatTask'"
    ):
        small_model(small_config(extra=(ExtraTask("HatTusk"),)))


def test_a_setting_that_it_does_not_have_is_told():
    with pytest.raises(ConfigError, match=r"tasks.extra.hat"):
        small_model(small_config(extra=(ExtraTask("HatTask", {"lost": 2.0}),)))


def test_a_few_steps_teach_it():
    model = small_model(config()).train()
    given = batch([hats(crowd(), 1.0, 0.0), hats(crowd().mirror(), 1.0, 0.0)])
    heads = model.tasks["hat"].parameters()
    optimiser, found = torch.optim.Adam(heads, 0.03), []
    for _ in range(6):
        losses = model(given, Draws(torch.Generator().manual_seed(0)))
        loss = sum(value for name, value in losses.items() if name.endswith(".hat"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.9 * found[0]


def test_people_without_the_label_cost_nothing_beside_others_who_have_it():
    model = small_model(config())
    unlabelled = batch([crowd()])
    losses = model(unlabelled, Draws(torch.Generator().manual_seed(0)))
    assert losses["layer1.hat"] == 0
    mixed = model(
        batch([crowd(), hats(crowd(), 1.0, 0.0)]), Draws(torch.Generator().manual_seed(0))
    )
    assert mixed["layer1.hat"] > 0


def test_it_is_predicted_asked_for_and_left_out_as_an_attribute(predictor):
    people = predictor.predict(picture())
    hat = people.get("hat")
    assert hat.shape == (len(people),) and ((hat > 0) & (hat < 1)).all()
    assert predictor.predict(picture(), tasks=["hat"]).age is None
    assert predictor.predict(picture(), attributes=False).get("hat") is None
    assert predictor.predict(picture(), tasks=["masks"]).get("hat") is None
    with pytest.raises(ConfigError, match="Did you mean 'hat'"):
        predictor.ask(tasks=["hatt"])
    assert len(predictor.system.predict(batch([crowd()]), Ask(max_persons=0))[0].persons) == 0


def test_it_follows_its_people(predictor):
    people = predictor.predict(picture())
    hat = people.get("hat")
    assert torch.equal(people[[2, 0]].get("hat"), hat[[2, 0]])
    assert torch.equal(people.mirror().get("hat"), hat)
    twice = people.cat([people, people])
    assert torch.equal(twice.get("hat"), torch.cat([hat, hat]))


def test_it_is_written_to_json_coco_and_rows(predictor):
    people = predictor.predict(picture())
    value = float(people.get("hat")[0])
    assert people.to_json()["persons"][0]["hat"] == round(value, 4)
    assert people.to_coco(3)[0]["hat"] == value
    assert people.to_rows()[0]["hat"] == value
    assert people.columns({"hat": HAT})["hat"] == "float32"
    assert people.to_rows()[0]["hat_color"] == people.get("hat_color")[0].tolist()


def test_it_is_a_column_of_parquet_files(predictor, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs humanquery[parquet]")
    people = predictor.predict(picture())
    file = ParquetParts(tmp_path)
    file.write(0, 0.0, people[[]])
    file.write(1, 0.1, people)
    file.close()
    table = parquet.read_table(tmp_path / "part-00000.parquet")
    assert table["hat"].to_pylist() == people.get("hat").tolist()
    assert table["hat_color"].to_pylist() == people.get("hat_color").tolist()
    assert str(table.schema.field("hat_color").type) == "list<element: float>"


def test_it_is_drawn_unless_attributes_are_off(predictor):
    people = predictor.predict(picture())
    word = "hat" if people.get("hat")[0] >= 0.5 else "bare"
    assert word in label_of(people, 0).split()
    assert word not in label_of(people, 0, attributes=False).split()
    large = people.replace(boxes=torch.tensor([[5.0, 30.0, 395.0, 290.0]]).expand(len(people), 4))
    large = dataclasses.replace(large, image_size=(300, 400), masks=None, keypoints=None)[:1]
    canvas = np.zeros((300, 400, 3), np.uint8)
    assert (draw(canvas, large) != draw(canvas, large, attributes=False)).any()


EXPORTING = """
import sys
from pathlib import Path
from humanquery.export import write
from tests.tasks.test_made_up_task import ready
write.NUM_SCENES = 2
predictor = ready()
show = lambda found: print(found.relative()["hat"])
write.export(predictor, Path(sys.argv[1]), on_comparison=show)
"""


def test_the_facts_of_a_file_are_read_back_with_its_declaration(predictor):
    facts = facts_of(predictor)
    assert Facts.read(Path("hat.onnx"), facts.to_json()).outputs == facts.outputs
    assert [FieldSpec(**one) for one in facts.outputs[-2:]] == [HAT, HAT_COLOR]


def test_a_files_tensors_are_asked_for_as_its_declarations_say(predictor):
    graph = Graph(predictor.system)

    def run(seen, score):
        found = graph(**{n: torch.from_numpy(v) for n, v in seen.inputs(score).items()})
        return {name: value.detach().numpy() for name, value in found.items()}

    exported = ExportedPredictor(run, facts_of(predictor))
    assert set(exported.outputs) == set(predictor.outputs)  # parts cannot be asked for
    ours, its = predictor.predict(picture()), exported.predict(picture())
    for name in ("hat", "hat_color", "keypoint_scores"):
        torch.testing.assert_close(its.get(name), ours.get(name), atol=1e-5, rtol=0)
    assert torch.equal(its.masks, ours.masks)
    without = exported.predict(picture(), attributes=False)
    assert without.get("hat") is None and without.get("hat_color") is None
    for asked in ("hat", "keypoints", "masks"):
        found = exported.predict(picture(), tasks=[asked])
        assert (found.get("hat_color") is None) == (asked != "hat")
        assert (found.keypoint_scores is None) == (asked != "keypoints")
        assert (found.masks is None) == (asked != "masks")


@pytest.mark.slow
def test_its_file_is_verified_and_gives_the_same(predictor, tmp_path, monkeypatch):
    """In a process of its own: the trace does not go through type checks."""
    pytest.importorskip("onnxscript", reason="writing ONNX needs humanquery[export]")
    pytest.importorskip("onnxruntime", reason="needs humanquery[onnx]")
    monkeypatch.delenv("HUMANQUERY_DATA", raising=False)
    command = [sys.executable, "-c", EXPORTING, str(tmp_path / "hat.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 <= float(done.stdout.splitlines()[-1]) <= HAT.tolerance
    exported = open_exported(tmp_path / "hat.onnx", "cpu", threads=1)
    ours, its = predictor.predict(picture()), exported.predict(picture())
    torch.testing.assert_close(its.get("hat"), ours.get("hat"), atol=1e-4, rtol=0)
    assert exported.predict(picture(), attributes=False).get("hat") is None
    assert exported.outputs["hat"] == HAT
