"""RQ-VAE: an autoencoder whose latent vector is a sum of codes, one of each codebook."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from tqdm import tqdm

from recbole_lite.utils.errors import ConfigError


class RQVAE(nn.Module):
    """Residual quantisation of learned latent vectors (TIGER, arXiv 2305.05065, Section 3.1).

    ``r_0 = enc(x)``; ``e_l`` is the code of codebook l nearest to ``r_l``; ``r_{l+1} = r_l - e_l``.
    The loss is ``||x - dec(sum_l e_l)||^2 + sum_l ||sg[r_l] - e_l||^2 + beta ||r_l - sg[e_l]||^2``,
    summed over dimensions, mean over items; sg stops gradients.

    The gradient of the decoder passes the quantisation unchanged ("straight-through"). The codes
    in a residual are constants: the second term alone trains codes, the others the encoder.

    Parameters
    ----------
    size : int
        Dimension of the items' vectors.
    layers : sequence of int
        Sizes of the encoder's layers, the last that of the codes; the decoder mirrors them.
    n_codebooks, n_codes : int
        Codebooks, and codes in each.
    beta : float
        Weight of the commitment of the encoder to its codes.
    """

    def __init__(self, size: int, layers: list[int], n_codebooks: int, n_codes: int, beta: float):
        super().__init__()
        self.encoder = _mlp([size, *layers])
        self.decoder = _mlp([*reversed(layers), size])
        self.codebooks = nn.Parameter(torch.zeros(n_codebooks, n_codes, layers[-1]))
        self.beta = beta

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss of a batch ``[B, size]``, its codes ``[B, l]`` and its residuals ``[l, B, d]``."""
        latents = self.encoder(vectors)
        codes, residuals = quantize(latents, self.codebooks.detach())
        chosen = torch.stack([book[c] for book, c in zip(self.codebooks, codes.T, strict=True)])
        trained = (residuals.detach() - chosen).square().sum()
        committed = (residuals - chosen.detach()).square().sum()
        latents = latents + (chosen.sum(0) - latents).detach()
        reconstruction = (vectors - self.decoder(latents)).square().sum()
        loss = (reconstruction + trained + self.beta * committed) / len(vectors)
        return loss, codes, residuals.detach()

    @torch.no_grad()
    def revive(self, codes: torch.Tensor, residuals: torch.Tensor, generator) -> None:
        """Move unused codes to residuals of random items.

        Parameters
        ----------
        codes : torch.Tensor
            ``[n, l]`` codes of an epoch.
        residuals : torch.Tensor
            ``[l, B, d]`` of one batch.
        generator : torch.Generator
            On the CPU.
        """
        for book, used, candidates in zip(self.codebooks, codes.T, residuals, strict=True):
            dead = (torch.bincount(used, minlength=len(book)) == 0).nonzero().squeeze(1)
            rows = torch.randint(len(candidates), (len(dead),), generator=generator)
            book[dead] = candidates[rows.to(candidates.device)]


def _mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def quantize(vectors: torch.Tensor, codebooks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest code on each level, and what is left before it.

    Parameters
    ----------
    vectors : torch.Tensor
        ``[n, d]``.
    codebooks : torch.Tensor
        ``[l, n_codes, d]``.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        Codes ``[n, l]`` and residuals ``[l, n, d]``, the first of which is `vectors`.
    """
    codes, residuals = [], [vectors]
    for book in codebooks:
        left = residuals[-1]
        # ||r - e||^2 without ||r||^2, which is the same for all codes.
        codes.append((book.square().sum(1) - 2 * left.detach() @ book.T).argmin(1))
        residuals.append(left - book[codes[-1]])
    return torch.stack(codes, 1), torch.stack(residuals[:-1])


def residual_kmeans(
    vectors: torch.Tensor, n_codebooks: int, n_codes: int, seed: int
) -> torch.Tensor:
    """Codebooks ``[l, n_codes, d]``: k-means of vectors, then of what is left of them, and so on.

    Vectors ``[n, d]``, at least `n_codes` of them.
    """
    left, books = vectors.cpu().numpy().copy(), []
    for level in range(n_codebooks):
        with warnings.catch_warnings():  # few items may leave fewer distinct residuals than codes
            warnings.simplefilter("ignore", ConvergenceWarning)
            means = KMeans(n_codes, n_init=1, random_state=seed + level).fit(left)
        books.append(means.cluster_centers_)
        left -= means.cluster_centers_[means.labels_]
    return torch.from_numpy(np.stack(books)).to(vectors)


def train_rqvae(
    model: RQVAE,
    vectors: torch.Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    show_progress: bool = False,
) -> torch.Tensor:
    """Train an RQ-VAE on all items' vectors and quantise them.

    The codebooks start as the residual k-means of the untrained encoder's outputs. Codes that no
    item takes in an epoch are revived, but not after the last one, when nothing would train them.

    Parameters
    ----------
    model : RQVAE
        On the device of `vectors`.
    vectors : torch.Tensor
        ``[n, size]``.
    epochs, batch_size, learning_rate
        Of AdamW.
    seed : int
        Of the batches, the k-means and the revived codes.
    show_progress : bool

    Returns
    -------
    torch.Tensor
        Codes ``[n, l]``.

    Raises
    ------
    ConfigError
        The loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        n_codebooks, n_codes, _ = model.codebooks.shape
        books = residual_kmeans(model.encoder(vectors), n_codebooks, n_codes, seed)
        model.codebooks.copy_(books)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.0)
    for epoch in tqdm(range(epochs), "RQ-VAE", disable=not show_progress):
        used = []
        order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
        for rows in order.split(batch_size):
            loss, codes, residuals = model(vectors[rows])
            _check(loss, learning_rate)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            used.append(codes)
        if epoch < epochs - 1:
            model.revive(torch.cat(used), residuals, generator)
    with torch.no_grad():
        loss, codes, _ = model(vectors)
    _check(loss, learning_rate)
    return codes


def _check(loss: torch.Tensor, learning_rate: float) -> None:
    if not loss.isfinite():
        raise ConfigError(
            f"rqvae_learning_rate: the RQ-VAE diverged at {learning_rate}; set a lower one"
        )
