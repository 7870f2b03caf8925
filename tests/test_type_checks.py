"""The checks of `conftest.py`: what a signature says is held, in the library and for each call."""

from collections.abc import Iterator
from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from humanquery.core.boxes import pairwise_iou
from humanquery.core.errors import nearest
from humanquery.core.fields import FieldSpec

WRONG = (BeartypeCallHintViolation, TypeCheckError)
checked = jaxtyping.jaxtyped(typechecker=beartype)


@checked
def joined(a: Float[Tensor, "n 2"], b: Float[Tensor, "n 2"]) -> Float[Tensor, "n 4"]:
    return torch.cat([a, b], 1)[: 5 if len(a) < 9 else 8]


@checked
def rows(given: Float[Tensor, "n 2"]) -> Iterator[Float[Tensor, " two"]]:
    yield from given


@checked
def late(name: "str") -> "str":
    return name


@checked
@dataclass
class Named:
    name: str
    values: Float[Tensor, "n 2"]


def test_the_library_refuses_other_shapes_and_types():
    with pytest.raises(WRONG):
        pairwise_iou(torch.zeros(2, 3))
    with pytest.raises(WRONG):
        nearest(3, ["a"])
    with pytest.raises(WRONG):
        FieldSpec("a", digits="3")


def test_a_dimension_has_one_length_in_a_call_and_another_in_the_next():
    for n in (2, 5):
        assert joined(torch.zeros(n, 2), torch.ones(n, 2)).shape == (n, 4)
    with pytest.raises(WRONG):
        joined(torch.zeros(2, 2), torch.ones(3, 2))
    with pytest.raises(WRONG):  # gives 8 rows for 9
        joined(torch.zeros(9, 2), torch.ones(9, 2))


def test_generators_dataclasses_and_annotations_as_strings_are_checked():
    assert len(list(rows(torch.zeros(3, 2)))) == 3
    with pytest.raises(WRONG):
        rows(torch.zeros(3, 3))
    with pytest.raises(WRONG):
        Named("a", torch.zeros(2, 3))
    with pytest.raises(WRONG):
        Named(1, torch.zeros(2, 2))
    with pytest.raises(WRONG):
        late(1)
