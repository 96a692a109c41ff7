"""What every operator must satisfy: exact adjoint, composition, derivative, unit norm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from operators.cartesian_mri import CartesianMri
from operators.coils import SensitivityOp, simulate_sensitivities
from operators.ct_geometry import FanBeam, ImageGrid, ParallelBeam, view_angles
from operators.ct_projector import CtProjector
from operators.finite_difference import Gradient3D, SliceDifference
from operators.fourier import FourierOp
from operators.linear import Identity, LinearOperator
from operators.norm import Normalised, normalise, operator_norm
from operators.sampling_masks import equispaced_1d, poisson_disc_2d, random_1d
from tests.operators.helpers import adjoint_error, dense, seeded

SLICES, ROWS, COLUMNS = 3, 14, 11
GRID = ImageGrid(ROWS, COLUMNS, 1.7)


def parallel(model: str, range_deg: float = 180.0) -> CtProjector:
    return CtProjector(GRID, ParallelBeam.covering(GRID, view_angles(7, range_deg, 3.0), 1.1), model)


def fan(model: str) -> CtProjector:
    return CtProjector(GRID, FanBeam.covering(GRID, view_angles(9, 360), 40.0, 25.0), model)


def mri(mask_kind: Callable, coils: int) -> CartesianMri:
    mask = mask_kind((ROWS, COLUMNS), 2, 0.2, seeded(1))
    return CartesianMri(mask, simulate_sensitivities(coils, (SLICES, ROWS, COLUMNS), seeded(2)))


def mri_mask_by_slice() -> CartesianMri:
    mask = torch.rand((SLICES, ROWS, COLUMNS), generator=seeded(3)) < 0.5
    return CartesianMri(mask, simulate_sensitivities(4, (1, ROWS, COLUMNS), seeded(2)))


REAL: dict[str, Callable[[], LinearOperator]] = {
    "parallel-linear": lambda: parallel("linear"),
    "parallel-line": lambda: parallel("line"),
    "parallel-strip": lambda: parallel("strip"),
    "parallel-limited-angle": lambda: parallel("linear", 60.0),
    "fan-line": lambda: fan("line"),
    "fan-strip": lambda: fan("strip"),
    "slice-difference": SliceDifference,
    "gradient": lambda: Gradient3D((0.5, 1.0, 2.0)),
    "identity": Identity,
    "normalised-ct": lambda: Normalised(parallel("linear"), 12.5),
    "composition": lambda: parallel("linear").H @ parallel("strip"),
    "gradient-of-back-projection": lambda: Gradient3D() @ parallel("line").H @ parallel("line"),
}
COMPLEX: dict[str, Callable[[], LinearOperator]] = {
    "fourier": FourierOp,
    "sensitivities": lambda: SensitivityOp(simulate_sensitivities(5, (SLICES, ROWS, COLUMNS), seeded(2))),
    "mri-random": lambda: mri(random_1d, 4),
    "mri-equispaced": lambda: mri(equispaced_1d, 4),
    "mri-poisson": lambda: mri(poisson_disc_2d, 4),
    "mri-one-coil": lambda: mri(random_1d, 1),
    "mri-mask-by-slice": mri_mask_by_slice,
    "complex-slice-difference": SliceDifference,
    "complex-gradient": Gradient3D,
    "normalised-mri": lambda: Normalised(mri(random_1d, 4), 0.7),
}
ALL = [(name, make, torch.float32) for name, make in REAL.items()]
ALL += [(name, make, torch.complex64) for name, make in COMPLEX.items()]
every_operator = pytest.mark.parametrize(("make", "dtype"), [a[1:] for a in ALL], ids=[a[0] for a in ALL])


@every_operator
def test_adjoint_is_exact(make, dtype):
    assert adjoint_error(make(), (SLICES, ROWS, COLUMNS), dtype) < 1e-5


@every_operator
def test_backward_is_the_adjoint(make, dtype):
    operator, generator = make(), seeded(5)
    x = torch.randn((SLICES, ROWS, COLUMNS), dtype=dtype, generator=generator, requires_grad=True)
    y = operator(x)
    cotangent = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    (gradient,) = torch.autograd.grad(y, x, cotangent)
    torch.testing.assert_close(gradient, operator.adjoint(cotangent))
    assert y.is_contiguous()
    assert gradient.is_contiguous()


@pytest.mark.parametrize("name", ["parallel-linear", "fan-strip", "mri-random", "gradient", "composition"])
def test_derivatives_agree_with_finite_differences_in_double(name):
    operator = {**REAL, **COMPLEX}[name]()
    dtype = torch.complex128 if name in COMPLEX else torch.float64
    x = torch.randn((1, ROWS, COLUMNS), dtype=dtype, generator=seeded(6), requires_grad=True)
    small = CartesianMri(operator.mask, operator.sensitivities[:1]) if name in COMPLEX else operator
    assert torch.autograd.gradcheck(small, x, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda v: small(v).abs().square().sum(), x, fast_mode=True)


def test_composition_and_adjoint_algebra():
    a, b = Gradient3D(), SliceDifference()
    x = torch.randn((4, 5, 6), generator=seeded(7))
    assert torch.equal((a @ b)(x), a(b(x)))
    y = torch.randn((3, 3, 5, 6), generator=seeded(8))
    assert torch.equal((a @ b).H(y), b.adjoint(a.adjoint(y)))
    assert torch.equal(a @ x, a(x))
    assert a.H.H is a
    assert torch.equal(a.gram(x), a.adjoint(a(x)))
    with pytest.raises(TypeError):
        a @ 3.0


@pytest.mark.parametrize("name", ["parallel-linear", "fan-line", "gradient", "mri-random", "mri-one-coil"])
def test_norm_is_the_largest_singular_value(name):
    operator = {**REAL, **COMPLEX}[name]()
    shape = (SLICES, 6, 5) if name == "gradient" else (SLICES, ROWS, COLUMNS)
    if not name.startswith("mri") and name != "gradient":
        shape = (1, ROWS, COLUMNS)
    dtype = torch.complex64 if name in COMPLEX else torch.float32
    normalised = normalise(operator, shape, dtype, seeded(9))
    largest = float(torch.linalg.matrix_norm(dense(operator, shape, dtype), ord=2))
    assert normalised.factor == pytest.approx(largest, rel=1e-2)
    assert operator_norm(normalised, shape, dtype, seeded(10), iterations=100) == pytest.approx(1.0, abs=1e-2)
    assert normalised.factor <= largest * (1 + 1e-4)


def test_normalised_divides_and_keeps_the_factor():
    operator = parallel("linear")
    scaled = Normalised(operator, 4.0)
    x = torch.randn((2, ROWS, COLUMNS), generator=seeded(11))
    torch.testing.assert_close(scaled(x) * scaled.factor, operator(x))
    torch.testing.assert_close(scaled.adjoint(operator(x)) * 4.0, operator.gram(x))


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_normalised_refuses_a_factor_that_is_no_norm(factor):
    with pytest.raises(ValueError, match="positive"):
        Normalised(Identity(), factor)


def test_norm_of_a_zero_operator_is_refused():
    empty = CartesianMri(torch.zeros((4, 4), dtype=torch.bool), torch.ones((1, 1, 4, 4), dtype=torch.complex64))
    with pytest.raises(ValueError, match="cannot be normalised"):
        operator_norm(empty, (1, 4, 4), torch.complex64, seeded())


@pytest.mark.cuda
@every_operator
def test_cuda_equals_cpu(make, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cpu = make()
    gpu = cpu.to("cuda")
    x = torch.randn((SLICES, ROWS, COLUMNS), dtype=dtype, generator=seeded(12))
    torch.testing.assert_close(gpu(x.cuda()).cpu(), cpu(x), rtol=1e-4, atol=1e-4)
    y = torch.randn(cpu(x).shape, dtype=dtype, generator=seeded(13))
    torch.testing.assert_close(gpu.adjoint(y.cuda()).cpu(), cpu.adjoint(y), rtol=1e-4, atol=1e-4)
