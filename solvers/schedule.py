"""Noise levels of the samplers."""

from __future__ import annotations


def karras_levels(sigma_max: float, sigma_min: float, levels: int, rho: float = 7.0) -> list[float]:
    """Decreasing noise levels sigma_0 = sigma_max ... sigma_{N-1} = sigma_min; the level after the last is 0.

    Karras et al. 2022, eq. 5: sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho.
    One level gives [sigma_max]. Raises ValueError unless 0 < sigma_min <= sigma_max and levels >= 1.
    """
    if not 0 < sigma_min <= sigma_max or levels < 1:
        raise ValueError(f"need 0 < sigma_min <= sigma_max and levels >= 1, got {sigma_min}, {sigma_max}, {levels}")
    if levels == 1:
        return [float(sigma_max)]
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    inner = [(high + i / (levels - 1) * (low - high)) ** rho for i in range(1, levels - 1)]
    return [float(sigma_max), *inner, float(sigma_min)]


def geometric_levels(sigma_max: float, sigma_min: float, levels: int) -> list[float]:
    """Decreasing geometric noise levels of the variance-exploding SDE (Song et al. 2021, appendix C)."""
    if not 0 < sigma_min <= sigma_max or levels < 1:
        raise ValueError(f"need 0 < sigma_min <= sigma_max and levels >= 1, got {sigma_min}, {sigma_max}, {levels}")
    ratio = sigma_min / sigma_max
    return [float(sigma_max * ratio ** (i / max(levels - 1, 1))) for i in range(levels)]
