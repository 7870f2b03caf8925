import fcntl
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from humanquery.core.config import from_plain
from humanquery.core.errors import CheckpointError
from humanquery.engine.checkpoint import atomic, load_state, read_weights, save_weights
from humanquery.engine.state import latest, read_latest, read_state, save_state, state_files
from humanquery.nn.inference import fold_norms
from tests.engine.toy import Toy, ToyConfig


def test_a_system_comes_back_from_its_file_alone(tmp_path):
    toy = Toy(ToyConfig(width=6, norm=True))
    nn.init.normal_(toy.head.weight)
    weights = read_weights(
        save_weights(tmp_path / "new" / "toy.safetensors", toy, {"data": "toys"})
    )
    again = Toy(from_plain(ToyConfig, weights.config))
    load_state(again, weights.state)
    assert again.config == toy.config
    assert weights.card == {"data": "toys"}
    for name, value in toy.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["toy.safetensors"]


def test_a_file_is_flushed_to_disk_through_a_handle_that_may_write(tmp_path, monkeypatch):
    """Windows refuses to flush through any other."""
    flushed, real = [], os.fsync

    def fsync(handle: int) -> None:
        flushed.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    save_weights(tmp_path / "toy.safetensors", Toy())
    of_file, *of_folder = flushed
    assert of_file == os.O_RDWR and of_folder == [os.O_RDONLY]


def test_a_system_made_ready_for_prediction_is_not_saved_as_one_that_could_be_loaded(tmp_path):
    toy = Toy().eval()
    toy.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    assert fold_norms(toy.backbone, lambda: toy.backbone(torch.rand(1, 3, 8, 8))) == 1
    with pytest.raises(CheckpointError, match="batch norms folded .* save the system as it was"):
        save_weights(tmp_path / "toy.safetensors", toy)
    assert not list(tmp_path.iterdir())


def test_half_size_files_widen_again_and_keep_what_fp16_cannot_hold(tmp_path):
    toy = Toy()
    nn.init.constant_(toy.head.bias, 1e6)
    state = read_weights(save_weights(tmp_path / "half.safetensors", toy, half=True)).state
    assert state["head.weight"].dtype == torch.float16
    assert state["head.bias"].dtype == torch.float32
    again = Toy()
    load_state(again, state)
    assert again.head.weight.dtype == torch.float32
    assert again.head.bias.item() == 1e6
    torch.testing.assert_close(again.head.weight, toy.head.weight, atol=1e-3, rtol=1e-3)


def test_tied_and_channels_last_weights_can_be_saved(tmp_path):
    toy = Toy().to(memory_format=torch.channels_last)
    toy.layers[1].weight = toy.layers[0].weight
    state = read_weights(save_weights(tmp_path / "tied.safetensors", toy)).state
    assert torch.equal(state["layers.0.weight"], state["layers.1.weight"])
    assert torch.equal(state["backbone.1.weight"], toy.backbone[1].weight)


def test_a_file_whose_length_begins_like_a_pickle_is_still_weights(tmp_path):
    """0x80 opens a pickle, and every 256th header of a safetensors file: its first byte is its
    length's lowest."""
    toy, begins = Toy(), set()
    for words in range(260):
        path = save_weights(tmp_path / "toy.safetensors", toy, card={"data": "x" * words})
        begins.add(path.read_bytes()[0])
        assert set(read_weights(path).state) == set(toy.state_dict())
    assert 0x80 in begins


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as refused:
        read_weights(path)
    assert str(path) in str(refused.value)
    return str(refused.value)


def test_what_is_no_weights_file_is_named(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.safetensors")
    assert "is a folder" in refusal(tmp_path)
    for name, content, message in (
        ("empty.safetensors", b"", "0 bytes that are not a safetensors file"),
        ("text.safetensors", b"hello, this is text and nothing else", "not a safetensors file"),
        ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("zeros.safetensors", bytes(100), "not a safetensors file"),
        ("list.safetensors", (2).to_bytes(8, "little") + b"[]", "not a safetensors file"),
    ):
        (tmp_path / name).write_bytes(content)
        assert message in refusal(tmp_path / name), name


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a pickle was run')",))


def test_a_pickle_is_never_opened_but_can_be_converted(tmp_path):
    torch.save({"model": Trap()}, tmp_path / "official.pth")
    assert "humanquery convert official.pth official.safetensors" in refusal(
        tmp_path / "official.pth"
    )
    (tmp_path / "disguised.safetensors").write_bytes(pickle.dumps(Trap()))
    assert "pickle" in refusal(tmp_path / "disguised.safetensors")
    torch.save({"model": Trap()}, tmp_path / "zipped.safetensors")
    assert "pickle" in refusal(tmp_path / "zipped.safetensors")


def test_other_programs_files_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert "another program (no format" in refusal(tmp_path / "plain.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "pt.safetensors", {"format": "pt"})
    assert "another program (format 'pt', expected 'humanquery')" in refusal(
        tmp_path / "pt.safetensors"
    )


def test_newer_formats_ask_for_an_update_and_broken_metadata_is_named(tmp_path):
    save_file(
        {},
        tmp_path / "new.safetensors",
        {"format": "humanquery", "format_version": "9", "config": "{}"},
    )
    assert "format version 9, this humanquery reads up to 2; update humanquery" in refusal(
        tmp_path / "new.safetensors"
    )
    save_file({}, tmp_path / "odd.safetensors", {"format": "humanquery"})
    assert "format_version is ''" in refusal(tmp_path / "odd.safetensors")
    save_file(
        {},
        tmp_path / "bare.safetensors",
        {"format": "humanquery", "format_version": "1", "config": "{"},
    )
    assert "damaged" in refusal(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("kept", [7, 40, 0.5, -1])
def test_a_cut_file_is_refused_wherever_it_was_cut(tmp_path, kept):
    path = save_weights(tmp_path / "toy.safetensors", Toy())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else kept])
    message = refusal(path)
    assert "cut" in message or "not a safetensors file" in message


def test_a_mismatch_is_listed_by_module_and_changes_nothing():
    toy = Toy()
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    state = Toy(ToyConfig(norm=True)).state_dict()
    del state["layers.0.weight"], state["layers.0.bias"]
    state["head.weight"] = torch.zeros(1, 99)
    with pytest.raises(CheckpointError) as refused:
        load_state(toy, state)
    message = str(refused.value)
    assert "2 missing in the file: layers.0 (2)" in message
    assert "5 unknown to the model: backbone.0 (5)" in message
    assert "1 of another shape: head (1)" in message
    assert "head.weight: [1, 99] in the file, [1, 8] in the model" in message
    assert all(torch.equal(before[name], value) for name, value in toy.state_dict().items())


def test_a_long_mismatch_stays_short():
    big = nn.ModuleDict({f"part{i}": nn.Linear(1, 1) for i in range(50)})
    with pytest.raises(CheckpointError) as refused:
        load_state(big, {})
    assert "100 missing in the file" in str(refused.value)
    assert "44 more modules" in str(refused.value)
    assert len(str(refused.value)) < 400


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(path) as unfinished:
        unfinished.write_text("half of the n")
        raise KeyboardInterrupt
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_the_last_two_states_are_kept_and_a_broken_newest_falls_back(tmp_path):
    assert latest(tmp_path) is None and read_latest(tmp_path) is None
    for step in (5, 10, 15):
        save_state(tmp_path, step, {"value": torch.tensor(step)})
    assert [path.name for path in state_files(tmp_path)] == [
        "state-00000015.pt",
        "state-00000010.pt",
    ]
    assert latest(tmp_path).name == "state-00000015.pt"
    latest(tmp_path).write_bytes(latest(tmp_path).read_bytes()[:300])
    assert read_latest(tmp_path)["value"] == 10


def test_when_no_state_can_be_read_all_are_named(tmp_path):
    torch.save({"version": 1, "step": 3, "trap": Trap()}, tmp_path / "state-00000003.pt")
    (tmp_path / "state-00000002.pt").write_bytes(b"")
    with pytest.raises(CheckpointError) as refused:
        read_latest(tmp_path)
    assert "state-00000003.pt" in str(refused.value) and "state-00000002.pt" in str(refused.value)
    assert "start again in another folder" in str(refused.value)


def test_states_of_other_programs_and_newer_versions_are_refused(tmp_path):
    torch.save(json.loads("[1]"), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a training state"):
        read_state(tmp_path / "a.pt")
    torch.save({"version": 99, "step": 1}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="state version 99.*update humanquery"):
        read_state(tmp_path / "b.pt")
