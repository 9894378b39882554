"""Exercise 13: the KV cache.

To generate one more character, the model need not read the whole text again: keys and values of
earlier positions do not change, because no position attends to a later one. They are kept in a
cache, and only the new position is computed.

For one head, `kv` (2, S, d) has room for the keys (kv[0]) and values (kv[1]) of S positions. It
already contains those of the positions before `position`; the rest is uninitialized.

Question: write the key and the value of the new position into the cache. Then compute the row of
exercise 7's head_out that belongs to this position, from its query and the cache. To which part of
the cache does it attend? Is a causal mask needed?

The query has already been divided by √d.
"""

import numpy as np


def attention_step(query, key, value, kv, position):
    """Return head_out (d,), and kv with the new key and value in it (it may be changed in place).

    query, key, value (d,) each: those of the position; kv (2, S, d).
    """
    ...
