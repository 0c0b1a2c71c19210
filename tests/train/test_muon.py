import pytest
import torch

from mohist.train.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7), (3, 4, 6), (3, 6, 4)])
def test_directions_stay_and_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(made, full_matrices=False)
    values = (left.mT @ orthogonalized(made) @ right.mT).view(-1, *left.shape[-1:] * 2)
    for matrix in values:
        diagonal = matrix.diagonal()
        torch.testing.assert_close(matrix, diagonal.diag(), rtol=0, atol=1e-9)
        assert diagonal.min() > 0.5
        assert diagonal.max() < 1.3


def test_a_stack_is_its_slices() -> None:
    made = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = torch.stack([orthogonalized(matrix) for matrix in made])
    torch.testing.assert_close(orthogonalized(made), alone, rtol=0, atol=1e-12)


def test_no_gradient_at_all_is_no_direction() -> None:
    assert torch.equal(orthogonalized(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_two_steps_are_those_of_the_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 6, generator=draw, dtype=torch.float64)
    gradients = [torch.randn(4, 6, generator=draw, dtype=torch.float64) for _ in range(2)]
    parameter = weights.clone().requires_grad_()
    muon = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.5)
    mean = torch.zeros(4, 6, dtype=torch.float64)
    for gradient in gradients:
        parameter.grad = gradient
        muon.step()
        mean = 0.9 * mean + 0.1 * gradient
        update = orthogonalized(0.1 * gradient + 0.9 * mean)
        weights = weights * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 6**0.5 * update
    torch.testing.assert_close(parameter.detach(), weights, rtol=0, atol=1e-12)
