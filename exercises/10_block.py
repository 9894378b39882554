"""Exercise 10: a residual block, and the gradient that flows around its layers.

Forward pass:

    residual = x + attention(layer_norm_1(x))    (N, D)
    y = residual + mlp(layer_norm_2(residual))   (N, D)

Question: x is used twice, and so is the residual. Along which paths does dy flow back to the
residual, and from there to x?

The four arguments after dy are the backward passes of the four layers. Each is a function from the
gradient of its layer's output to the gradient of its layer's input, (N, D) -> (N, D). Call each of
them once.
"""

import numpy as np


def block_backward(dy, ln1_backward, attention_backward, ln2_backward, mlp_backward):
    """Return dx (N, D), given dy (N, D)."""
    ...
