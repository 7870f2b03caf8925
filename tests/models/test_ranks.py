import torch

from tests.engine.two_ranks import run_in_two_ranks
from tests.models.ranked import PICTURES, losses_and_gradients
from tests.models.small import batch


def test_the_losses_of_two_ranks_sum_to_those_of_one_process_with_both_halves(tmp_path):
    """Four people before one rank and one before the other: a mean of local means would not do."""
    run_in_two_ranks("tests.models.ranked", str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    joint = losses_and_gradients(PICTURES, batch(PICTURES).images)
    assert joint.keys() == first.keys() == second.keys()
    largest = max(float(g.abs().max()) for n, g in joint.items() if n.startswith("grad"))
    for name, value in joint.items():
        scale = largest if name.startswith("grad") else max(1.0, float(value))
        torch.testing.assert_close(
            first[name] + second[name], value, atol=1e-5 * scale, rtol=1e-4, msg=name
        )
