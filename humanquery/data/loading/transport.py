"""A batch from a worker process to the trainer as one block of shared memory.

torch sends each tensor through its own file handle; a batch with the labels of 64 pictures has
about a thousand, more than many systems allow to be open.
"""

import io
import pickle
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 64


def pack(value: Any) -> tuple[bytes, Tensor]:
    """Anything that holds CPU tensors, as (structure, all tensors' bytes in one uint8 tensor)."""
    tensors: list[Tensor] = []
    memory = io.BytesIO()
    _Packer(memory, tensors).dump(value)
    ends = [0]
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        ends.append(ends[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    block = torch.empty(ends[-1], dtype=torch.uint8)
    for tensor, start in zip(tensors, ends, strict=False):
        raw = tensor.contiguous().flatten().view(torch.uint8)
        block[start : start + len(raw)] = raw
    return memory.getvalue(), block


def unpack(structure: bytes, block: Tensor) -> Any:
    """The inverse of `pack`; the tensors are views of the block."""
    return _Unpacker(io.BytesIO(structure), block).load()


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, tensors: list[Tensor]):
        super().__init__(file, protocol=5)
        self.tensors = tensors
        self.end = 0

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        start = self.end
        self.end += -(-value.numel() * value.element_size() // _ALIGNMENT) * _ALIGNMENT
        self.tensors.append(value)
        return (start, tuple(value.shape), value.dtype)


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, block: Tensor):
        super().__init__(file)
        self.block = block

    def persistent_load(self, pid: Any) -> Tensor:
        start, shape, dtype = pid
        count = torch.Size(shape).numel()
        size = count * torch.empty(0, dtype=dtype).element_size()
        return self.block[start : start + size].view(dtype).view(shape)
