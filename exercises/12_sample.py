"""Exercise 12: temperature and top-k.

To generate text, the model samples a character from softmax(logits / temperature), restricted to
the top_k largest logits of the row. Instead of drawing from probabilities, it adds random noise and
takes the largest: if g is Gumbel noise, then

    argmax(logits / temperature + g)

is a sample from softmax(logits / temperature) (docs/derivations.md shows why).

- A high temperature makes the choice more random. Temperature 0 means greedy decoding: the largest
  logit, whatever the noise. Question: dividing by 0 fails, so find an expression that has the same
  argmax for every temperature > 0 and also gives the largest logit at 0.
- top_k limits the choice in each row to the logits that are at least as large as the k-th largest
  one. Logits that are equal to the k-th largest one are all kept. top_k = 0 means no limit, and so
  does a top_k larger than V.
"""

import numpy as np


def sample(logits, temperature, top_k, gumbel):
    """Return ids (B,), one for each row, given logits (B, V) and Gumbel noise (B, V)."""
    ...
