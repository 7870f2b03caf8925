"""Official checkpoints become ours: names, sizes, one sign, and nothing executed."""

import pickle

import pytest
import torch

from humanquery.backbones import TimmBackbone
from humanquery.core.errors import CheckpointError
from humanquery.experts import build
from humanquery.models.hqnet import from_official
from humanquery.models.hqnet.convert import convert_file, infer_config, our_state, read_official
from humanquery.predict.loading import trained
from tests.models import oracle
from tests.models.official_resnet import OfficialResNet
from tests.paths import needs_oracle

pytestmark = needs_oracle


@pytest.fixture(scope="module")
def full_with_smpl() -> dict[str, torch.Tensor]:
    """All names of the released checkpoint at full size; zeros where values do not matter."""
    import json

    keys = json.loads((oracle.ORACLE / "state_dict_keys_full_smpl.json").read_text())["keys"]
    return {k["key"]: torch.zeros(k["shape"], dtype=getattr(torch, k["dtype"])) for k in keys}


def test_the_released_names_and_sizes_become_a_whole_model_without_the_smpl_branch(
    full_with_smpl, tmp_path
):
    torch.save({"state_dict": full_with_smpl, "meta": {"epoch": 100}}, tmp_path / "official.pth")
    notices = convert_file(tmp_path / "official.pth", tmp_path / "ours.safetensors")
    assert len(notices) == 1 and "119 tensors" in notices[0]
    model, _ = trained(tmp_path / "ours.safetensors")
    assert sum(p.numel() for p in model.parameters()) == 57_434_407
    assert model.config.num_queries == 300 and model.config.transformer.decoder_layers == 6


def test_sizes_are_read_off_the_shapes():
    config = infer_config(oracle.official_state())
    t = config.transformer
    assert (t.dim, t.levels, t.points, t.encoder_layers, t.decoder_layers, t.feedforward) == (
        128,
        4,
        4,
        2,
        2,
        256,
    )
    assert (
        config.num_queries == 60
        and config.tasks.age.num_ages == 85
        and config.tasks.keypoints.refinement.layers == 2
    )


def test_the_sign_of_gender_changes_and_nothing_else():
    state = oracle.official_state()
    ours, notices = our_state(state)
    assert notices == []
    weight = state["bbox_head.attr_branches.0.1.weight"]
    assert torch.equal(ours["tasks.gender.heads.1.0.weight"], -weight)
    assert torch.equal(
        ours["tasks.age.heads.1.0.weight"], state["bbox_head.attr_branches.1.1.weight"]
    )


def test_missing_unknown_and_misshapen_parameters_are_named():
    state = oracle.official_state()
    backbone = OfficialResNet(8)
    without = {n: v for n, v in state.items() if n != "bbox_head.transformer.decoder.norm.weight"}
    with pytest.raises(CheckpointError, match=r"1 missing \['decoder.norm.weight'\]"):
        from_official(without, backbone=backbone)
    with pytest.raises(CheckpointError, match="bbox_head.new_thing"):
        from_official({**state, "bbox_head.new_thing": torch.zeros(1)}, backbone=backbone)
    wide = {**state, "bbox_head.cls_branches.0.weight": torch.zeros(2, 128)}
    with pytest.raises(CheckpointError, match="1 of another shape"):
        from_official(wide, backbone=backbone)
    with pytest.raises(CheckpointError, match="has no place in HQNet"):
        from_official({"model.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="pass backbone="):
        from_official(state)


class Evil:
    def __reduce__(self):
        return (print, ("code of the file ran",))


@pytest.mark.parametrize("kind", ["code", "words", "empty", "absent", "list"])
def test_files_that_are_no_checkpoints_are_refused_and_never_run(kind, tmp_path, capsys):
    path = tmp_path / "x.pth"
    if kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    elif kind == "words":
        path.write_text("not a checkpoint")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "list":
        torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="x.pth"):
        read_official(path)
    assert "ran" not in capsys.readouterr().out


def test_timms_resnet50_is_the_official_one():
    torch.manual_seed(0)
    theirs, ours = OfficialResNet(64, (3, 4, 6, 3)).eval(), build(TimmBackbone("resnet50")).eval()
    ours.body.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 70, 90)
    for one, other in zip(ours(image), theirs(image), strict=True):
        torch.testing.assert_close(one, other)
