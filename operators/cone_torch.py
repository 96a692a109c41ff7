"""The sums and transposes of `operators.cone_kernels` in torch, for devices that numba does not reach.

torch's bilinear sampler with zero padding has the same weights, and its derivative is the exact transpose. On CUDA the
transpose adds atomically, so that its last digits change from run to run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_SAMPLES_AT_ONCE = {"cpu": 2**21, "cuda": 2**25}
_BILINEAR, _ZEROS = 0, 0


def forward(x: Tensor, rays: np.ndarray, axes: tuple[tuple[int, int, int], ...], shape: tuple[int, ...]) -> Tensor:
    """Sums over planes (views columns rows) of a volume (z y x); see `cone_kernels` for rays and axes."""
    sums = torch.zeros(int(np.prod(shape)), dtype=x.dtype, device=x.device)
    for rank, places, grid in _sampling(rays, axes, shape, x):
        volume = x.detach().permute(axes[rank]).unsqueeze(1)
        sampled = torch.ops.aten.grid_sampler_2d(volume, grid, _BILINEAR, _ZEROS, False)
        sums[places] = sampled.sum((0, 1, 2))
    return sums.reshape(shape)


def adjoint(values: Tensor, rays: np.ndarray, axes: tuple[tuple[int, int, int], ...], shape: tuple[int, ...]) -> Tensor:
    """The transpose of `forward`: (views columns rows) to a volume (z y x)."""
    image = torch.zeros(shape, dtype=values.dtype, device=values.device)
    flat = values.reshape(-1)
    for rank, places, grid in _sampling(rays, axes, tuple(values.shape), image):
        planes = image.permute(axes[rank]).unsqueeze(1)
        spread = flat[places].expand(planes.shape[0], 1, 1, -1)
        back, _ = torch.ops.aten.grid_sampler_2d_backward(
            spread.contiguous(), planes, grid, _BILINEAR, _ZEROS, False, [True, False]
        )
        planes += back
    return image


def _sampling(
    rays: np.ndarray, axes: tuple[tuple[int, int, int], ...], shape: tuple[int, ...], like: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Groups of rays with one main axis: (rank, places in the flat stack, sampling points (planes 1 rays 2))."""
    table = torch.from_numpy(rays).to(like.device)
    longest = max(like.shape)
    count = max(1, _SAMPLES_AT_ONCE.get(like.device.type, 2**21) // longest)
    for start in range(0, int(np.prod(shape)), count):
        places = torch.arange(start, min(start + count, int(np.prod(shape))), device=like.device)
        row = places % shape[2]
        column = places // shape[2] % shape[1]
        view = places // (shape[1] * shape[2])
        of_view = table[view]
        e = of_view[:, 1] + column[:, None] * of_view[:, 2] + row[:, None] * of_view[:, 3]
        main = _main_axis(e)
        for rank, order in enumerate(axes):
            chosen = main == rank
            if bool(chosen.any()):
                grid = _points(of_view[chosen, 0], e[chosen], order, like)
                yield rank, places[chosen], grid


def _main_axis(e: Tensor) -> Tensor:
    """Axis (0 z, 1 y, 2 x) of the largest component; the later one wins ties, as in `cone_kernels`."""
    size = e.abs()
    return 2 - size.flip(1).argmax(1)


def _points(source: Tensor, e: Tensor, order: tuple[int, int, int], like: Tensor) -> Tensor:
    """Where rays cross the planes of their main axis, in the sampler's units: index i of n is (2 i + 1) / n - 1."""
    main, a, b = order
    planes = torch.arange(like.shape[main], device=e.device, dtype=e.dtype)[:, None]
    t = (planes - source[:, main]) / e[:, main]
    points = [(2 * (source[:, k] + t * e[:, k]) + 1) / like.shape[k] - 1 for k in (b, a)]
    return torch.stack(points, -1).unsqueeze(1).to(like.dtype)
