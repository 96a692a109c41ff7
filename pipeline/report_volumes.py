"""Volumes small enough to travel inside a page: quantised, predicted in the slice, deflated, base64.

Value = step * q with q an int16. Each q becomes its difference (wrapping) from the median of left, above and left +
above - corner (the predictor of JPEG-LS, ITU-T T.87; 0 outside), mapped to 0, 1, 2, ... for 0, -1, 1, ... ("zigzag"),
all low bytes before all high bytes; the viewer's codec.js undoes this.
"""

import base64
import zlib

import numpy as np

LEVELS = 1000
LIMIT = 32767


def quantisation_step(arrays: list[np.ndarray], least: float, levels: int = LEVELS) -> float:
    """A step that puts `levels` steps below the 99.9th percentile of |value| and no value beyond int16; >= least."""
    high = max((float(np.percentile(np.abs(array), 99.9)) for array in arrays), default=0.0)
    most = max((float(np.abs(array).max()) for array in arrays), default=0.0)
    return max(high / levels, most / LIMIT, least) or 1.0


def pack(array_zyx: np.ndarray, step: float) -> str:
    """Base64 text of a volume (z y x); error at most step / 2."""
    quantised = np.clip(np.rint(array_zyx / step), -LIMIT, LIMIT).astype(np.int32)
    difference = (quantised - _prediction(quantised)).astype(np.int16)
    zigzag = ((difference << 1) ^ (difference >> 15)).view(np.uint16)
    planes = np.concatenate([(zigzag & 255).astype(np.uint8).ravel(), (zigzag >> 8).astype(np.uint8).ravel()])
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")


def _prediction(quantised: np.ndarray) -> np.ndarray:
    """Median of left, above and left + above - corner, (z y x) int32."""
    left, above, corner = (np.zeros_like(quantised) for _ in range(3))
    left[..., 1:] = quantised[..., :-1]
    above[:, 1:] = quantised[:, :-1]
    corner[:, 1:, 1:] = quantised[:, :-1, :-1]
    return np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))


def unpack(text: str, shape_zyx: tuple[int, int, int], step: float) -> np.ndarray:
    """The volume (z y x, float32) that a page shows for a packed text; inverse of pack to within step / 2. Slow."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).astype(np.uint16).reshape(2, *shape_zyx)
    zigzag = planes[0] | (planes[1] << 8)
    difference = ((zigzag >> 1) ^ (-(zigzag & 1).astype(np.int32)).astype(np.uint16)).view(np.int16).astype(int)
    quantised = np.zeros((shape_zyx[0], shape_zyx[1] + 1, shape_zyx[2] + 1), int)
    for y, x in np.ndindex(shape_zyx[1:]):
        left, above, corner = quantised[:, y + 1, x], quantised[:, y, x + 1], quantised[:, y, x]
        guess = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
        quantised[:, y + 1, x + 1] = (guess + difference[:, y, x]).astype(np.int16)
    return quantised[:, 1:, 1:].astype(np.float32) * np.float32(step)


def block_mean(array_zyx: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    """Means over blocks of factor (z y x) voxels; an incomplete last block repeats the border."""
    if factor == (1, 1, 1):
        return array_zyx
    padding = [(0, -size % step) for size, step in zip(array_zyx.shape, factor)]
    padded = np.pad(array_zyx, padding, mode="edge")
    z, y, x = (size // step for size, step in zip(padded.shape, factor))
    blocks = padded.reshape(z, factor[0], y, factor[1], x, factor[2])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float64).astype(np.float32)


def block_affine(affine: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    """Affine of the blocks: a block's index maps to the centre of the voxels in it."""
    by_xyz = np.array(factor[::-1], float)
    coarse = np.array(affine, float)
    coarse[:3, 3] += coarse[:3, :3] @ ((by_xyz - 1) / 2)
    coarse[:3, :3] *= by_xyz
    return coarse


def next_factor(
    factor: tuple[int, int, int], spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Twice the factor along the axes (z y x) whose coarse voxels are now the finest, so that they stay near cubic."""
    coarse = [spacing * step for spacing, step in zip(spacing_mm, factor)]
    eligible = [edge for edge, size, step in zip(coarse, shape, factor) if size > step]
    finest = min(eligible, default=0.0)
    z, y, x = (
        2 * step if edge <= 1.25 * finest and size > step else step for edge, size, step in zip(coarse, shape, factor)
    )
    return z, y, x
