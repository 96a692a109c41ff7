"""SlicePrior as a function of its input: derivatives that gradient-guided solvers rely on."""

from __future__ import annotations

import pytest
import torch

from models.network import SliceNetwork
from models.prior import SlicePrior

SPACING_MM = (2.0, 1.5, 1.5)


def random_prior(channels: int, batch: int = 2) -> SlicePrior:
    """A small network with random weights in every layer, so that nothing is zero by initialisation."""
    network, generator = SliceNetwork(channels, (8, 16), 1, 2), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15, generator=generator)
    card = {"modality": "mr" if channels == 2 else "ct", "sigma_data": 0.5}
    prior = SlicePrior(network, card, batch=batch)
    prior.bfloat16 = False
    return prior


def noise(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        return torch.view_as_complex(torch.randn((*shape, 2), generator=generator))
    return torch.randn(shape, generator=generator)


def product(prior, x, v, sigma=0.3):
    """J^T v by automatic differentiation."""
    point = x.clone().requires_grad_()
    mean = prior.denoise(point, sigma, SPACING_MM).mean
    return torch.autograd.grad(mean, point, v)[0]


@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.float32), (2, torch.complex64)])
def test_products_agree_with_finite_differences(channels, dtype):
    """Re<J^T v, w> = Re<v, (D(x + e w) - D(x - e w)) / 2e>, real inner product for complex volumes too."""
    prior, shape = random_prior(channels), (5, 16, 16)
    x, v, w = (noise(shape, dtype, seed) for seed in (1, 2, 3))
    step = 1e-2
    ahead, behind = (prior.denoise(x + s * step * w, 0.3, SPACING_MM).mean for s in (1, -1))
    numeric = float((v.conj() * (ahead - behind)).real.double().sum()) / (2 * step)
    exact = float((product(prior, x, v).conj() * w).real.double().sum())
    assert exact == pytest.approx(numeric, rel=1e-2, abs=1e-2)
    plain = float((v.conj() * w).real.sum()) * 0.25 / (0.25 + 0.09)
    assert abs(exact - plain) > 0.02 * abs(plain)


def test_slices_feel_their_neighbours_and_no_others():
    prior, x = random_prior(1), noise((6, 16, 16), torch.float32, 1)
    v = torch.zeros_like(x)
    v[2] = noise((16, 16), torch.float32, 2)
    reach = product(prior, x, v).abs().amax(dim=(1, 2))
    assert (reach[1:4] > 1e-6).all()
    assert (reach[[0, 4, 5]] == 0).all()


def test_products_do_not_depend_on_the_batch():
    x, v = noise((5, 16, 16), torch.float32, 1), noise((5, 16, 16), torch.float32, 2)
    one, all_at_once = (product(random_prior(1, batch), x, v) for batch in (1, 5))
    assert torch.allclose(one, all_at_once, atol=1e-5)


def test_a_graph_serves_many_products_and_no_weight_gets_a_gradient():
    prior, x = random_prior(1), noise((3, 16, 16), torch.float32, 1).requires_grad_()
    mean = prior.denoise(x, 0.3, SPACING_MM).mean
    v, w = noise(mean.shape, torch.float32, 2), noise(mean.shape, torch.float32, 3)
    separate = [torch.autograd.grad(mean, x, u, retain_graph=True)[0] for u in (v, w, v + w)]
    assert torch.allclose(separate[0] + separate[1], separate[2], atol=1e-4)
    assert all(parameter.grad is None for parameter in prior.network.parameters())


def test_derivatives_do_not_change_the_values_and_are_not_built_unasked():
    prior, x = random_prior(1), noise((3, 16, 16), torch.float32, 1)
    plain = prior.denoise(x, 0.3, SPACING_MM)
    tracked = prior.denoise(x.clone().requires_grad_(), 0.3, SPACING_MM)
    assert not plain.mean.requires_grad
    assert tracked.mean.requires_grad
    assert torch.allclose(plain.mean, tracked.mean, atol=1e-6)
    with torch.no_grad():
        assert not prior.denoise(x.clone().requires_grad_(), 0.3, SPACING_MM).mean.requires_grad
