"""Exercise 5: the backward pass of LayerNorm.

Forward pass, independently for each row of x (N, D), with ε = 1e-5:

    mean = Σ x / D
    std = √(Σ (x - mean)² / D + ε)
    n = (x - mean) / std
    y = gain · n + bias                          gain (D,), bias (D,)

Question: along how many paths does an element of x affect the normalized row n? Find the gradient
along each path and add them up. Begin with the gradient of n, and use n and 1 / std wherever you
can: the forward pass has saved them.
"""

import numpy as np


def layer_norm_backward(dy, normalized, inverse_std, gain):
    """Return dx (N, D), dgain (D,) and dbias (D,).

    dy (N, D), normalized (N, D) is n, inverse_std (N, 1) is 1 / std, gain (D,).
    """
    ...
