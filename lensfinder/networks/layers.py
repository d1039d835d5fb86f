"""What several architectures share: fresh weights, and the shape of what comes out."""

from __future__ import annotations

import torch
from torch import nn


def initialise(network: nn.Module, *, dense: bool = False) -> None:
    """Draw weights for rectifiers (He et al. 2015, arXiv:1502.01852) from torch's generator.

    Parameters
    ----------
    network : nn.Module
        Changed in place: convolutions, whose biases become zero.
    dense : bool
        Dense layers, too, but for the last of them; otherwise they keep torch's default.
    """
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for module in layers:
        if isinstance(module, nn.Conv2d) or (dense and module is not layers[-1]):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def one_each(output_NK: torch.Tensor) -> torch.Tensor:
    """Return (N,) where a stamp has a single output, (N, K) where it has several."""
    return output_NK.squeeze(1) if output_NK.shape[1] == 1 else output_NK


def convolution(
    n_in: int, n_out: int, kernel: int, stride: int = 1, *, normalised: bool = True
) -> nn.Sequential:
    """Make a convolution with same padding, batch norm if `normalised`, and ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=not normalised)
    ]
    if normalised:
        layers.append(nn.BatchNorm2d(n_out))
    return nn.Sequential(*layers, nn.ReLU())
