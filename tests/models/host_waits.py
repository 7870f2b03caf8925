"""Counts how often a training step makes the host wait for a GPU, on a machine without one, and
where devices are mixed.

A pretended device, `pretend:0`, holds its tensors in ordinary memory, but torch takes it for an
accelerator: what goes there and what comes back passes through here. `python -m
tests.models.host_waits` prints the waits of a step as JSON. It runs in a process of its own,
because torch cannot forget a device.
"""

import collections
import json
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import humanquery
from humanquery.engine.distributed import any_rank
from humanquery.engine.optim import OptimConfig, build_optimizer, clip_gradients
from humanquery.evaluation.evaluate import evaluate
from tests.models.small import SIZE, batch, crowd, nobody, person, small_model

PRETEND = "pretend"
LIBRARY = str(Path(humanquery.__file__).parent) + "/"
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default: "item", aten.nonzero.default: "nonzero"}
READS |= {aten.masked_select.default: "masked_select", aten._unique2.default: "unique"}
INDEXED = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)
MIXED = "tensors of two devices"  # an error on CUDA
QUEUED = "copy to the device in the queue"  # no wait, but a CUDA graph cannot hold it
COPIES = (aten._to_copy.default, aten.copy_.default)


class Far(torch.Tensor):
    """A tensor on the pretended device; `near` holds its numbers."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(PRETEND, 0),
        )
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of `counted()`")


class _Operators(TorchDispatchMode):
    """Every operator, of the backward pass too."""

    def __init__(self, waits: list[str]):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        flat = tree_flatten((args, kwargs))[0]
        far = {id(value.near): value for value in flat if isinstance(value, Far)}
        device = kwargs.get("device")
        goes_far = bool(far) if device is None else torch.device(device).type == PRETEND
        self._note(func, args, kwargs, far, goes_far)
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        near = tree_map_only(Far, lambda value: value.near, (args, kwargs))
        out = func(*near[0], **near[1])
        if not goes_far:
            return out
        return tree_map_only(
            Tensor, lambda value: far[id(value)] if id(value) in far else Far(value), out
        )

    def _note(self, func, args, kwargs, far: dict, goes_far: bool) -> None:
        near = [
            x
            for x in tree_flatten((args, kwargs))[0]
            if isinstance(x, Tensor) and not isinstance(x, Far)
        ]
        if far and func not in COPIES and any(x.ndim for x in near):
            self._wait(MIXED)
        if func in READS and far:
            self._wait(READS[func])
        elif (
            func in INDEXED
            and far
            and any(i is not None and i.dtype == torch.bool for i in args[1])
        ):
            self._wait("index by flags")
        elif func in COPIES:
            crosses = (
                goes_far != bool(far)
                if func is COPIES[0]
                else isinstance(args[0], Far) != isinstance(args[1], Far)
            )
            to_host = crosses and not (isinstance(args[0], Far) if func is COPIES[1] else goes_far)
            if crosses:
                waits = "blocking copy to the device" if not kwargs.get("non_blocking") else QUEUED
                self._wait("to the host" if to_host else waits)

    def _wait(self, kind: str) -> None:
        # by hand: `traceback` looks at the file of every frame each time
        here = frame = sys._getframe()
        while frame is not None and not frame.f_code.co_filename.startswith(LIBRARY):
            frame = frame.f_back
        frame = frame or here
        file, line = frame.f_code.co_filename, frame.f_lineno
        text = linecache.getline(file, line).strip()
        self.waits.append(f"{kind} | {file.removeprefix(LIBRARY)}:{line} {text}")


class _Makers(TorchFunctionMode):
    """What torch makes of Python numbers before any operator: on the host, then a copy, as on
    CUDA."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("tensor", "as_tensor"):
            device = kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return made if device is None else made.to(device)
        if name == "tolist" and isinstance(args[0], Far):
            return args[0].cpu().tolist()
        if name == "new_tensor" and isinstance(args[0], Far):
            made = torch.tensor(*args[1:], dtype=kwargs.get("dtype", args[0].dtype))
            return made.to(args[0].device)
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], Far):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(
                torch.tensor(i).to(args[0].device) if isinstance(i, list) else i for i in index
            )
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Gives a list that fills with `kind | file:line code` of whatever makes the host wait."""
    waits: list[str] = []
    with _Makers(), _Operators(waits):
        yield waits


def known_waits() -> list[str]:
    """One of each kind, to see that they are counted; and things that are no wait."""
    with counted() as waits:
        numbers = torch.arange(4.0).to(PRETEND, non_blocking=True)
        numbers[torch.arange(2).to(PRETEND, non_blocking=True)] = 1.0
        _ = numbers.sum() + torch.zeros(3, device=PRETEND).sum()
        assert {wait.split(" |")[0] for wait in waits} == {QUEUED}, waits
        waits.clear()
        numbers.sum().item()
        numbers.nonzero()
        _ = numbers[numbers > 1]
        _ = numbers[[0, 1]]
        numbers.cpu()
        torch.tensor([1.0], device=PRETEND)
        numbers.new_tensor([1.0])
        numbers.tolist()
        _ = numbers + torch.zeros(4)
    return [wait.split(" |")[0] for wait in waits]


def step_waits() -> list[str]:
    """Of one optimizer step of a very small HQNet with all tasks and denoising, after a first
    that sets everything up."""
    pictures = batch(
        [crowd(), person(SIZE, (5.0, 4.0, 30.0, 60.0), gender=None, masks=None), nobody()]
    )
    model = small_model()
    with counted() as waits:
        model.to(PRETEND).train()
        optimizer = build_optimizer(model, OptimConfig())
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for _ in range(2):
            waits.clear()
            losses = torch.stack(list(model(pictures.to(PRETEND)).values()))
            losses.sum().backward()
            norm = clip_gradients(parameters, 0.1)
            any_rank([], ~(losses.isfinite().all() & norm.isfinite()), norm.device)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return [wait for wait in waits if not wait.startswith(QUEUED)]


def look_waits() -> list[str]:
    """Waits and copies from the host in the part of a prediction that CUDA graphs hold, the
    second time."""
    model, pictures = small_model().eval(), batch([crowd(), nobody()])
    with counted() as waits, torch.no_grad():
        model.to(PRETEND)
        there = pictures.to(PRETEND)
        sizes = torch.tensor([meta.canvas_size for meta in pictures.metas]).to(PRETEND)
        for _ in range(2):
            waits.clear()
            model.first_look(there.images, there.padding, sizes, None, frozenset(model.tasks))
    return list(waits)


def prediction_waits() -> list[str]:
    """Of scoring a prediction on pictures that come from the host."""
    pictures = batch([crowd(), nobody()])
    pairs = [(replace(pictures, targets=None), pictures.targets)]
    model = small_model().eval()
    wanted = evaluate(model, pairs, progress=False).numbers()
    # the pretended device does not know inference mode
    without = mock.patch("torch.inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
    with counted() as waits, without:
        found = evaluate(model.to(PRETEND), pairs, progress=False).numbers()
    assert found["box/ap"] == wanted["box/ap"], (found, wanted)
    return list(waits)


def main() -> None:
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend(PRETEND)
    waits = {"step": step_waits(), "look": look_waits(), "prediction": prediction_waits()}
    print(json.dumps({"known": dict(collections.Counter(known_waits())), **waits}))


if __name__ == "__main__":
    main()
