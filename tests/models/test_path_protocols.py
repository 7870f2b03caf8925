"""Fine-tuning protocols: exactly these parameters learn, the others stay bit for bit."""

import pytest
import torch

from humanquery.core.errors import CheckpointError
from humanquery.engine.optim import OptimConfig, freeze_others
from humanquery.engine.train_config import EngineConfig
from humanquery.engine.trainer import Trainer
from humanquery.models.path.config import DataSetConfig, IdentityHeadConfig, PathConfig
from humanquery.models.path.protocols import downstream_state, trained_modules
from humanquery.models.path.system import Path
from tests.models.path_small import small_batch, small_config, small_path


def downstream() -> Path:
    torch.manual_seed(4)
    head = DataSetConfig("msmt", IdentityHeadConfig(6))
    return Path(PathConfig((head,), small_config().backbone, None))


def changed(protocol: str) -> set[str]:
    """Modules whose parameters three steps of the protocol have moved."""
    path = downstream()
    before = {name: value.clone() for name, value in path.state_dict().items()}
    only = trained_modules(path, protocol)
    freeze_others(path, only)
    config = OptimConfig(lr=0.01, backbone_multiplier=1.0, schedule="constant", only=only)
    trainer = Trainer(path, EngineConfig(optim=config, device="cpu"), torch.device("cpu"))
    trainer.begin()
    for seed in range(3):
        trainer.step([("msmt", small_batch("msmt", seed))])
    trainer.release()
    moved = {
        name
        for name, _ in path.named_parameters()
        if not torch.equal(before[name], path.get_parameter(name))
    }
    return {".".join(name.split(".")[: 3 if ".blocks." in name else 2]) for name in moved}


def test_the_lists_of_modules():
    path = downstream()
    last = len(path.backbone.blocks) - 1
    assert trained_modules(path, "head") == ("heads.msmt.",)
    assert trained_modules(path, "partial") == (
        f"backbone.blocks.{last - 1}.", f"backbone.blocks.{last}.", "backbone.norm.", "heads.msmt.",
    )  # fmt: skip
    assert trained_modules(path, "full") == ("backbone.", "heads.msmt.")
    pretraining = trained_modules(small_path(), "full")
    assert "projectors.reid." in pretraining and "heads.pose." in pretraining


def test_head_leaves_the_backbone_as_it_was():
    assert changed("head") == {"heads.msmt"}


def test_partial_moves_the_last_two_blocks_the_norm_and_the_head():
    last = len(downstream().backbone.blocks) - 1
    assert changed("partial") == {
        f"backbone.blocks.{last - 1}", f"backbone.blocks.{last}", "backbone.norm", "heads.msmt",
    }  # fmt: skip


def test_full_moves_all():
    names = {
        ".".join(name.split(".")[: 3 if ".blocks." in name else 2])
        for name, _ in downstream().named_parameters()
    }
    assert changed("full") == names


def test_partial_of_a_deep_backbone_names_block_ten_and_eleven():
    path = downstream()
    path.backbone.blocks = torch.nn.ModuleList(torch.nn.Identity() for _ in range(12))
    assert trained_modules(path, "partial")[:2] == ("backbone.blocks.10.", "backbone.blocks.11.")


def test_the_backbone_is_taken_and_projectors_and_heads_stay_behind():
    pretrained, path = small_path().state_dict(), downstream()
    taken = downstream_state(pretrained, path, "path.safetensors")
    assert all(name.startswith("backbone.") for name in taken)
    assert set(taken) == {n for n in path.state_dict() if n.startswith("backbone.")}
    assert torch.equal(taken["backbone.cls_tokens.msmt"], pretrained["backbone.cls_tokens.msmt"])


def test_a_new_data_set_begins_with_another_ones_class_token():
    head = DataSetConfig("cuhk", IdentityHeadConfig(6))
    path = Path(PathConfig((head,), small_config().backbone, None))
    pretrained = small_path().state_dict()
    taken = downstream_state(pretrained, path, "path.safetensors")
    assert torch.equal(taken["backbone.cls_tokens.cuhk"], pretrained["backbone.cls_tokens.market"])


def test_a_file_without_a_backbone_is_named():
    with pytest.raises(CheckpointError, match="other.safetensors: holds no backbone"):
        downstream_state({"head.weight": torch.ones(1)}, downstream(), "other.safetensors")
