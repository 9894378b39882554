"""Exercise 1: the gradient of the cross-entropy loss.

The model gives V logits for each of N positions. The loss is the mean, over the N rows, of

    -log softmax(logits)[target]  =  log Σ exp(logits) - logits[target]

where the sum runs over the V logits of the row.

Question: if a logit grows a little, how does the loss change? Take the two terms one by one. Which
rows and which logits does each of them depend on? The result has a simple meaning.

The gradient of the loss with respect to an array has the shape of that array: here (N, V).
"""

import numpy as np


def cross_entropy_backward(logits, targets):
    """Return dlogits (N, V), given logits (N, V) and integer targets (N,).

    The logits may be large: exp(1000) is infinity.
    """
    ...
