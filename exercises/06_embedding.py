"""Exercise 6: the backward pass of the embedding.

Forward pass: each character of B sequences of T characters has an id. Its vector is a row of the
table `tokens` plus a row of the table `positions`:

    y[b, t] = tokens[ids[b, t]] + positions[t]   tokens (V, D), positions (block_size, D)

The rows y[b, t] are then flattened to (N, D) with N = B·T, one sequence after another.

Question: which rows of y does a row of `tokens` affect? It may be several, or none. And a row of
`positions`? T may be smaller than block_size.
"""

import numpy as np


def embedding_backward(dy, ids, vocab_size, block_size):
    """Return dtokens (V, D) and dpositions (block_size, D).

    dy (N, D), ids (B, T), integers.
    """
    ...
