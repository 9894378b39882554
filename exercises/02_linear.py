"""Exercise 2: the backward pass of a linear layer.

Forward pass, for N rows of I inputs and J outputs:

    y = x W + b                                  x (N, I), W (I, J), b (J,) -> y (N, J)

With indices, y[n, j] = Σ_i x[n, i] W[i, j] + b[j].

From here on, a backward pass starts from dy, the gradient of the loss with respect to the output
y, and returns the gradients with respect to everything that y was computed from.

Question: which outputs does x[n, i] affect, and with what factor? And W[i, j]? And b[j]? For each,
sum dy times this factor over all affected outputs. Write the sum with indices first, then as a
matrix product.
"""

import numpy as np


def linear_backward(dy, x, w):
    """Return dx (N, I), dw (I, J) and db (J,), given dy (N, J), x (N, I) and w (I, J)."""
    ...
