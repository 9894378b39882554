"""Exercise 3: the derivative of GELU.

Forward pass, elementwise:

    u = c (x + 0.044715 x³)                      c = √(2/π)
    gate = (1 + tanh u) / 2
    y = x · gate

GELU lets large numbers pass, since their gate is almost 1, and blocks very negative ones.

Question: x affects y twice, as a factor and through the gate. What is ∂y/∂x? The derivative of
tanh u with respect to u is 1 - tanh² u.
"""

import numpy as np


def gelu_slope(x):
    """Return the slope ∂y/∂x of GELU at each element of x, in the shape of x."""
    ...
