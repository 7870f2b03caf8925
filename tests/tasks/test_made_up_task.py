"""A task that the library does not have, in one file: this one. It is trained, predicted, exported,
verified, written and drawn without a change anywhere else."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import ConfigError
from humanquery.core.fields import FieldSpec
from humanquery.core.rows import Extra, Labelled
from humanquery.core.system import Ask
from humanquery.core.target import Target
from humanquery.draw import label_of
from humanquery.engine.checkpoint import load_state, read_weights, save_weights
from humanquery.export.graph import Graph
from humanquery.losses.scores import binary
from humanquery.models import rebuild
from humanquery.models.hqnet.config import ExtraTask, HQNetConfig, TasksConfig
from humanquery.predict import Predictor
from humanquery.tasks.base import (
    Draws,
    Encoded,
    Matches,
    Reference,
    Task,
    TaskSizes,
    Truths,
    at_queries,
    copies,
    count_over_ranks,
    mean_over_known,
    zero_loss,
)
from tests.models.small import SIZE, batch, crowd, person, small_config, small_model

# -- the task: everything that anybody has to know about hats


@dataclass(frozen=True)
class HatConfig:
    loss: float = 1.0


@dataclass(frozen=True, eq=False)
class HatPrediction:
    logit: Float[Tensor, "b q"]


class HatTask(Task):
    """Does the person wear a hat."""

    name = "hat"
    config_type = HatConfig
    result = "hat"
    loss_names = ("hat",)
    fields = (
        FieldSpec(
            "hat", json="hat", coco="hat", digits=4, column="float32", span=1, attribute=True,
            label="bareheaded|with a hat",
        ),
    )  # fmt: skip

    def __init__(self, config: HatConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        self.heads = copies(lambda: nn.Linear(sizes.dim, 1), sizes.stages)

    def read(
        self, stage: int, queries: Tensor, reference: Reference, prepared: Any
    ) -> HatPrediction:
        return HatPrediction(self.heads[stage](queries).squeeze(-1))

    def losses(
        self, prediction: HatPrediction, matches: Matches, truths: Truths, draws: Draws, tag: str
    ) -> dict[str, Tensor]:
        true = truths.matched("hat", matches)
        if true is None:
            return {"hat": zero_loss(prediction.logit) / count_over_ranks(0, prediction.logit)}
        each = binary(matches.predicted(prediction.logit), true.value)
        return {"hat": self.config.loss * mean_over_known(each, true.valid)}

    def tensors(
        self, prediction: HatPrediction, chosen: Tensor, encoded: Encoded, prepared: Any
    ) -> dict[str, Tensor]:
        return {"hat": at_queries(prediction.logit, chosen).sigmoid()}


# -- and its proof


def config() -> HQNetConfig:
    plain = small_config()
    return replace(plain, tasks=replace(plain.tasks, extra=(ExtraTask("HatTask"),)))


def with_hats(target: Target, *hats: float) -> Target:
    label = Labelled(torch.tensor(hats), torch.ones(len(hats), dtype=torch.bool))
    return replace(target, extra={"hat": Extra(HatTask.fields[0], label)})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return small_model(config())


def test_it_is_learned_and_missing_labels_give_no_gradient(model):
    pictures = batch([with_hats(crowd(), 1.0, 0.0), person(SIZE, (5.0, 4.0, 30.0, 60.0))])
    optimizer = torch.optim.AdamW(model.tasks["hat"].parameters(), 2e-2)
    first = None
    for _ in range(12):
        losses = model(pictures, Draws(torch.Generator().manual_seed(0)))
        loss = sum(value for name, value in losses.items() if name.endswith(".hat"))
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.9 * first
    assert set(losses) == set(model.loss_names)
    nobody_knows = model(batch([crowd()]), Draws(torch.Generator().manual_seed(0)))
    assert nobody_knows["layer0.hat"].item() == 0


def test_it_is_predicted_asked_for_and_left_out_like_the_others(model):
    pictures = batch([crowd()])
    people = model.eval().predict(pictures)[0].persons
    hats = people.get("hat")
    assert hats.shape == (len(people),) and ((hats > 0) & (hats < 1)).all()
    assert people[:2].get("hat").tolist() == hats[:2].tolist()
    only = model.predict(pictures, Ask(outputs=frozenset(["hat"])))[0].persons
    assert only.gender is None and only.get("hat") is not None
    predictor = Predictor(model, {"score_threshold": 0.0}, "cpu")
    image = np.zeros((64, 80, 3), np.uint8)
    assert predictor.predict(image).get("hat") is not None
    assert predictor.predict(image, attributes=False).get("hat") is None
    assert predictor.predict(image, tasks=["gender"]).get("hat") is None


def test_it_is_written_moved_and_drawn(model):
    people = model.eval().predict(batch([crowd()]))[0].persons[:1]
    value = float(people.get("hat")[0])
    assert json.loads(json.dumps(people.to_json()))["persons"][0]["hat"] == round(value, 4)
    assert people.to_coco()[0]["hat"] == pytest.approx(value)
    (row,) = people.to_rows()
    columns = people.columns({"hat": HatTask.fields[0]})
    assert row["hat"] == pytest.approx(value) and list(columns)[-1] == "hat"
    assert list(row) == list(columns) and columns["hat"] == "float32"
    assert people.mirror().get("hat").tolist() == people.get("hat").tolist()
    words = "with a hat" if value >= 0.5 else "bareheaded"
    assert words in label_of(people, 0) and words not in label_of(people, 0, attributes=False)


def test_a_file_of_weights_rebuilds_it_once_its_file_is_imported(model, tmp_path):
    path = save_weights(tmp_path / "hats.safetensors", model)
    read = read_weights(path)
    again = rebuild(read.config)
    load_state(again, read.state)
    ours, theirs = (m.eval().predict(batch([crowd()]))[0].persons for m in (model, again))
    torch.testing.assert_close(ours.get("hat"), theirs.get("hat"))
    tasks = TasksConfig(extra=(ExtraTask("HatTsk"),))
    assert from_plain(TasksConfig, to_plain(tasks)) == tasks
    with pytest.raises(ConfigError, match="no task class 'HatTsk' is imported.*'HatTask'"):
        small_model(replace(config(), tasks=replace(config().tasks, extra=tasks.extra)))


def test_the_exported_graph_gives_and_the_verifier_compares_it(model):
    from humanquery.core.persons import Persons
    from humanquery.export.verify import Comparison, _compare_rows
    from humanquery.tasks.decode import HELPERS

    pictures = batch([crowd()])
    sizes = torch.tensor([SIZE])
    with torch.no_grad():
        images = (pictures.images * 255).round().to(torch.uint8)
        found = Graph(model.eval())(images, sizes, torch.tensor(0.0))
    numbers = {name: value[0].numpy() for name, value in found.items()}
    assert numbers["hat"].shape == numbers["scores"].shape
    other = {**numbers, "hat": numbers["hat"] + 2e-4}
    specs = {**Persons.specs(), **HELPERS, "hat": HatTask.fields[0]}
    same, apart = Comparison(specs=specs), Comparison(specs=specs)
    _compare_rows(same, numbers, numbers, 80.0)
    _compare_rows(apart, numbers, other, 80.0)
    assert same.problems() == [] and list(apart.beyond()) == ["hat"]


@pytest.mark.slow  # a trace and its translation
def test_an_exported_file_gives_it_too(model, tmp_path):
    pytest.importorskip("onnxscript")
    from humanquery.export import export
    from humanquery.predict import load

    predictor = Predictor(model, {"score_threshold": 0.0}, "cpu")
    path = export(predictor, tmp_path / "hats.onnx", verify=False)
    image = np.full((64, 80, 3), 90, np.uint8)
    ours, theirs = predictor.predict(image), load(path, "cpu").predict(image)
    torch.testing.assert_close(ours.get("hat"), theirs.get("hat"), atol=1e-4, rtol=0)
