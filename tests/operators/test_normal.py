"""A^H W A of every operator that has a shorter way, against the composition."""

import pytest
import torch

from operators.cartesian_mri import CartesianMri
from operators.linear import LinearOperator
from operators.norm import Normalised
from operators.sampling_masks import poisson_disc_2d, random_1d


def masks():
    columns = random_1d((24, 20), 3.0, 0.2, 0)
    per_slice = torch.stack([random_1d((24, 20), 3.0, 0.2, seed) for seed in range(5)])
    return {
        "columns": columns,
        "rows": random_1d((20, 24), 3.0, 0.2, 0).T.contiguous(),
        "two axes": poisson_disc_2d((24, 20), 3.0, 0.2, 0),
        "per slice": per_slice,
        "full": torch.ones(24, 20, dtype=torch.bool),
    }


@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("weights_shape", ["coil", "sampled", "number"])
def test_short_normal_operator_equals_the_composition(kind, weights_shape):
    generator = torch.Generator().manual_seed(0)
    mask = masks()[kind]
    sensitivities = torch.randn(5, 3, 24, 20, dtype=torch.complex64, generator=generator)
    A = Normalised(CartesianMri(mask, sensitivities), 1.7)
    weights = 1 + torch.rand(1, 3, 1, 1, generator=generator)
    if weights_shape == "sampled":
        weights = weights * (mask if mask.ndim == 3 else mask[None])[:, None]
    if weights_shape == "number":
        weights = torch.tensor(2.5)
    x = torch.randn(5, 24, 20, dtype=torch.complex64, generator=generator)
    expected = LinearOperator.normal(A, weights)(x)
    assert torch.allclose(A.normal(weights)(x), expected, atol=1e-4 * float(expected.abs().max()))
