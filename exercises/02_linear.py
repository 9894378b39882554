"""Exercise 2: the backward pass of a linear layer.

Forward pass, for N rows of I inputs and J outputs:

    y = x W + b                                  x (N, I), W (I, J), b (J,) -> y (N, J)

With indices, y[n, j] = Σ_i x[n, i] W[i, j] + b[j].

From here on, a backward pass starts from dy, the gradient of the loss with respect to the output
y, and returns the gradients with respect to everything that y was computed from.

Question: which outputs does one x[n, i] reach, and by which factor? One W[i, j]? One b[j]? Sum dy
times the factor over all of them, with indices first, and then find the matrix product that is this
sum.
"""

import numpy as np


def linear_backward(dy, x, w):
    """Return dx (N, I), dw (I, J) and db (J,): dy (N, J), x (N, I), w (I, J)."""
    ...
