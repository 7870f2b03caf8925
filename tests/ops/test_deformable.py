"""Every provider of deformable attention gives the same numbers and the same gradients."""

import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.ops.deformable import PROVIDERS, deformable_attention, gather, reference

SHAPES = ((5, 7), (3, 4), (2, 2))


def case(b=2, q=6, heads=2, d=3, shapes=SHAPES, points=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    s = sum(h * w for h, w in shapes)
    value = torch.randn(b, s, heads, d, generator=generator, dtype=dtype)
    locations = torch.rand(b, q, heads, len(shapes), points, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(b, q, heads, len(shapes), points, generator=generator, dtype=dtype)
    return value, shapes, locations, weights


@pytest.mark.parametrize("shapes", [SHAPES, ((4, 4),), ((1, 1), (1, 6)), ((6, 1),)])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_samples_match_a_sum_written_by_hand(provider, shapes):
    value, shapes, locations, weights = case(shapes=shapes)
    found = PROVIDERS[provider](value, shapes, locations, weights)
    torch.testing.assert_close(found, by_hand(value, shapes, locations, weights))


def by_hand(value, shapes, locations, weights):
    b, _, heads, d = value.shape
    out = torch.zeros(b, locations.shape[1], heads, d, dtype=value.dtype)
    for index in torch.cartesian_prod(*[torch.arange(n) for n in weights.shape]):
        i, q, m, level, p = index.tolist()
        h, w = shapes[level]
        start = sum(a * c for a, c in shapes[:level])
        x, y = (locations[i, q, m, level, p] * torch.tensor([w, h]) - 0.5).tolist()
        for cy in (int(y // 1), int(y // 1) + 1):
            for cx in (int(x // 1), int(x // 1) + 1):
                if 0 <= cx < w and 0 <= cy < h:
                    share = (1 - abs(x - cx)) * (1 - abs(y - cy))
                    out[i, q, m] += weights[i, q, m, level, p] * share * value[i, start + cy * w + cx, m]
    return out.flatten(2)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_gradients_of_values_places_and_weights_are_exact(provider):
    value, shapes, locations, weights = case(b=1, q=2, d=2, shapes=((3, 4), (2, 2)))
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: PROVIDERS[provider](v, shapes, x, w), inputs)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_query_is_an_empty_answer(provider):
    value, shapes, locations, weights = case(q=0)
    assert PROVIDERS[provider](value, shapes, locations, weights).shape == (2, 0, 6)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_strided_inputs_give_the_same_as_contiguous_ones(provider):
    value, shapes, locations, weights = case()
    strided = value.transpose(0, 1).contiguous().transpose(0, 1)
    run = PROVIDERS[provider]
    torch.testing.assert_close(run(strided, shapes, locations, weights), run(value, shapes, locations, weights))


def test_float32_providers_agree_at_a_real_size():
    inputs = case(b=2, q=300, heads=8, d=16, shapes=((20, 28), (10, 14), (5, 7)), points=4, dtype=torch.float32)
    torch.testing.assert_close(gather(*inputs), reference(*inputs), atol=1e-4, rtol=1e-4)


def test_the_environment_chooses_the_provider(monkeypatch):
    inputs = case()
    for name in PROVIDERS:
        monkeypatch.setenv("HUMANQUERY_ATTENTION", name)
        torch.testing.assert_close(deformable_attention(*inputs), reference(*inputs))
    monkeypatch.setenv("HUMANQUERY_ATTENTION", "gathr")
    with pytest.raises(ConfigError, match="Did you mean 'gather'"):
        deformable_attention(*inputs)
