"""Principal axes of item vectors: fewer dimensions with the same inner products (PCA)."""

from __future__ import annotations

import torch


def principal_axes(vectors: torch.Tensor, size: int, std: float) -> torch.Tensor:
    """Projection to `size` dimensions that preserves inner products best, scaled to `std`.

    Parameters
    ----------
    vectors : torch.Tensor
        ``[n, d]``; not centred, so that inner products are preserved (Eckart-Young).
    size : int
        At most d. Where n or the rank is smaller, the last axes are zero.
    std : float
        Standard deviation of ``vectors @ axes``.

    Returns
    -------
    torch.Tensor
        ``[d, size]``.
    """
    _, _, directions = torch.linalg.svd(vectors.float(), full_matrices=False)
    axes = vectors.new_zeros(vectors.shape[1], size, dtype=torch.float32)
    kept = directions[:size].T
    axes[:, : kept.shape[1]] = kept
    spread = (vectors.float() @ axes).std()
    return axes * (std / spread.clamp_min(1e-12))
