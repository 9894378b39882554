"""Exercise 4: the backward pass of the softmax.

Forward pass, independently for each row of x:

    y = exp(x) / Σ exp(x)                        x (..., S) -> y (..., S), sums over the last axis

Each row of attention weights is an example of y.

Question: each y[i] depends on all the x[j] of its row. What is the derivative of y[i] with respect
to x[j], expressed in terms of y only, if i = j, and if i ≠ j? Then dx[j] is the sum over i of dy[i]
times this derivative. The sum simplifies.
"""

import numpy as np


def softmax_backward(dy, y):
    """Return dx (..., S), given dy (..., S) and the output of the softmax, y (..., S)."""
    ...
