"""The CPU kernels: instruction sets, threads, building."""

import ctypes
import os
from pathlib import Path

import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.ops import native
from humanquery.ops.deformable import deformable_attention
from humanquery.ops.native import build
from tests.ops.test_deformable import DIMS, case, needs_native

pytestmark = needs_native


def known_capabilities():
    """Instruction sets that this processor has, best first."""
    best = build.level(torch.backends.cpu.get_cpu_capability())
    return build.levels()[build.levels().index(best) :]


def kernel_case(dtype=torch.float32, **dims):
    value, shapes, locations, weights = case(**dims)
    flat = [n for shape in shapes for n in shape]
    return value.to(dtype), flat, locations.float(), weights.float()


@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set_gives_the_same(dtype, dims):
    inputs = kernel_case(dtype, **dims)
    grad = native.forward(*inputs).sin()
    best, *others = known_capabilities()
    slack = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.02}
    for name in others:
        torch.testing.assert_close(
            native.forward(*inputs, capability=name),
            native.forward(*inputs, capability=best),
            **slack,
        )
        found = native.backward(grad, *inputs, capability=name)
        torch.testing.assert_close(found, native.backward(grad, *inputs, capability=best), **slack)


@pytest.mark.parametrize(
    "dims", [{"d": 32, "heads": 3, "q": 71}, {"b": 1, "heads": 1, "q": 5}, {"d": 33, "q": 300}]
)
def test_the_number_of_threads_changes_no_bit(monkeypatch, dims):
    inputs = kernel_case(**dims)
    grad = native.forward(*inputs).sin()
    results = []
    for threads in (1, 2, 3, 7, 100):
        monkeypatch.setattr(native, "_threads", lambda weights, most, threads=threads: threads)
        results.append((native.forward(*inputs), *native.backward(grad, *inputs)))
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


def test_threads_follow_torch_and_small_work_gets_one():
    assert native._threads(torch.empty(1, 10, 8, 4, 4), 8) == 1
    assert native._threads(torch.empty(1, 5000, 8, 4, 4), 8) == 8


def test_torchs_own_threads_and_threads_for_one_call_give_the_same(monkeypatch):
    monkeypatch.setattr(native, "_threads", lambda weights, most: 3)
    inputs = kernel_case(d=32, q=300)
    team = ctypes.c_void_p.in_dll(native.library(), "humanquery_team")
    torchs, found = team.value, []
    assert torchs or "OpenMP" not in torch.__config__.parallel_info()
    try:
        for entry in (torchs, None):
            team.value = entry
            out = native.forward(*inputs)
            found.append((out, *native.backward(out.sin(), *inputs)))
    finally:
        team.value = torchs
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_forked_process_computes_too():
    inputs = kernel_case(d=32, q=2000)
    here = native.forward(*inputs).numpy().tobytes()
    child = os.fork()
    if (
        not child
    ):  # comparing there with torch would ask OpenMP's threads of the parent, which are gone
        os._exit(0 if native.forward(*inputs).numpy().tobytes() == here else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_values_that_the_kernel_cannot_take_are_refused_by_name():
    inputs = kernel_case(torch.float64)
    with pytest.raises(TypeError, match="takes values of .*bfloat16.*these are torch.float64"):
        native.forward(*inputs)


def test_a_library_is_compiled_once_and_its_name_follows_the_sources(tmp_path, monkeypatch):
    first = build.compile_library("DEFAULT", tmp_path / "new")
    written = first.stat().st_mtime_ns
    assert (
        build.compile_library("DEFAULT", tmp_path / "new") == first
        and first.stat().st_mtime_ns == written
    )
    assert [p.name for p in first.parent.iterdir()] == [first.name]
    for kind in ("SOURCES", "HEADERS"):
        changed = tmp_path / "changed"
        files = getattr(build, kind)
        changed.write_text(files[-1].read_text() + "\n")
        with monkeypatch.context() as patch:
            patch.setattr(build, kind, [*files[:-1], changed])
            assert build.file_name("DEFAULT") != first.name


def test_a_missing_or_failing_compiler_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "false")
    with pytest.raises(OSError, match="false -std=c11 .* failed"):
        build.compile_library("DEFAULT", tmp_path)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="no C compiler found .cc, gcc, clang, or the variable CC."):
        build.compile_library("DEFAULT", tmp_path)
    assert not list(tmp_path.iterdir())


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("broken", ["no compiler", "no folder", "no home"])
def test_without_compiler_or_cache_folder_the_answer_is_the_same_and_asking_for_native_fails(
    tmp_path, monkeypatch, broken
):
    home = tmp_path / "file"
    home.write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home if broken == "no folder" else tmp_path))
    if broken == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    if broken == "no home":  # a user id that has no name and no folder, as in many containers
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", _no_home)
        with pytest.raises(OSError, match="no home folder .* set XDG_CACHE_HOME"):
            build.cache_folder()
    native.missing.cache_clear()
    native.library.cache_clear()
    try:
        inputs = case(dtype=torch.float32)
        assert deformable_attention(*inputs).shape == (2, 6, 6)
        monkeypatch.setenv("HUMANQUERY_ATTENTION", "native")
        with pytest.raises(ConfigError, match="HUMANQUERY_ATTENTION=native: not available"):
            deformable_attention(*inputs)
    finally:
        native.missing.cache_clear()
        native.library.cache_clear()
