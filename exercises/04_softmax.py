"""Exercise 4: the backward pass of the softmax.

Forward pass, for each row of x by itself:

    y = exp(x) / Σ exp(x)                        x (..., S) -> y (..., S), sums over the last axis

A row of attention weights is such a y.

Question: each y[i] depends on all the x[j] of its row. What is the derivative of y[i] with respect
to x[j], written with y alone, if i = j, and if i ≠ j? Then dx[j] is the sum over i of dy[i] times
this derivative. The sum becomes short.
"""

import numpy as np


def softmax_backward(dy, y):
    """Return dx (..., S): dy (..., S), and y (..., S), the output of the softmax."""
    ...
