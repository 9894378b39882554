"""Each layer's forward pass with its backward pass beside it.

A layer is two functions: `name(x, ...) -> y, cache` and `name_backward(dy, cache) -> dx, gradients`. `dy` is the
derivative of the loss with respect to `y` and has its shape; `gradients` has one for each of the layer's own
parameters. A backward pass is its forward pass read in reverse, by three rules: y = x W gives dx = dy Wᵀ and
dW = xᵀ dy; a sum hands dy on to each of its terms; what was used in several places collects from all of them.

Shapes: B sequences of T positions, flattened to N = B·T rows; D width, H heads of width d = D / H, V characters.
"""

import math

import numpy as np

LAYER_NORM_EPSILON = 1e-5
GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715
BLOCK = 64  # positions whose attention is computed together
FUTURE = np.triu(np.full((BLOCK, BLOCK), -np.inf, np.float32), 1)  # added to scores: a weight of 0


def embedding(ids, tokens, positions):
    """Token plus position embedding: ids (B, T), tokens (V, D), positions (T, D) -> (N, D)."""
    return (tokens[ids] + positions).reshape(-1, tokens.shape[1]), (ids, len(tokens))


def embedding_backward(dy, cache):
    """Each embedding collects from all the places where it was used; ids have no derivative."""
    ids, vocab_size = cache
    one_hot = (np.arange(vocab_size)[:, None] == ids.reshape(-1)).astype(dy.dtype)  # (V, N)
    return None, {"tokens": one_hot @ dy, "positions": dy.reshape(*ids.shape, -1).sum(axis=0)}


def row_mean(x, y):
    """Mean over each row of x · y: (N, D), (N, D) or (D,) -> (N, 1)."""
    return np.vecdot(x, y)[:, None] / x.shape[1]


def layer_norm(x, gain, bias):
    """y = gain · n + bias, n = (x - mean) / std by row (Ba et al. 2016, arXiv:1607.06450): (N, D) -> (N, D)."""
    normalized = x - x.sum(axis=1, keepdims=True) / x.shape[1]
    inverse_std = (row_mean(normalized, normalized) + LAYER_NORM_EPSILON) ** -0.5  # (N, 1)
    normalized *= inverse_std
    return normalized * gain + bias, (normalized, inverse_std, gain)


def layer_norm_backward(dy, cache):
    """dx = (dn - mean(dn) - n · mean(dn · n)) / std with dn = dy · gain: what moves mean or std cannot pass."""
    normalized, inverse_std, gain = cache
    dn = dy * gain
    dx = (dn - row_mean(dy, gain) - normalized * row_mean(dn, normalized)) * inverse_std
    return dx, {"gain": np.einsum("nd,nd->d", dy, normalized), "bias": dy.sum(axis=0)}


def gelu(x):
    """GELU in its tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415), any shape.

    y = x (1 + tanh u) / 2 = x σ(2u) with u = √(2/π) (x + 0.044715 x³). We write σ, because it needs `exp`, which
    NumPy computes in half the time of `tanh`.
    """
    exponent = ((-2 * GELU_SCALE * GELU_CUBIC) * x * x - 2 * GELU_SCALE) * x  # -2u
    gate = 1 / (1 + np.exp(np.minimum(exponent, 80)))  # σ(2u); σ(-80) is as good as 0, and exp(89) would overflow
    return x * gate, (x, gate)


def gelu_backward(dy, cache):
    """dx = dy · (σ + x σ (1 - σ) 2u') with u' = √(2/π) (1 + 3 · 0.044715 x²).

    In this order each operation but two works in place, on the result of the one before it.
    """
    x, gate = cache
    return (((6 * GELU_SCALE * GELU_CUBIC) * x * x + 2 * GELU_SCALE) * x * (1 - gate) + 1) * gate * dy, {}


def mlp(x, w1, b1, w2, b2):
    """Widen, GELU, narrow: (N, D) -> (N, 4D) -> (N, D)."""
    activated, activation = gelu(x @ w1 + b1)
    return activated @ w2 + b2, (x, w1, activation, activated, w2)


def mlp_backward(dy, cache):
    """The mirror of `mlp`."""
    x, w1, activation, activated, w2 = cache
    dhidden, _ = gelu_backward(dy @ w2.T, activation)
    gradients = {"w1": x.T @ dhidden, "b1": dhidden.sum(axis=0), "w2": activated.T @ dy, "b2": dy.sum(axis=0)}
    return dhidden @ w1.T, gradients


def softmax(x):
    """Softmax over the last axis, any shape."""
    y = x - x.max(axis=-1, keepdims=True)  # the largest exponent is 0: no overflow
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def softmax_backward(dy, y):
    """dx = y · (dy - Σ dy · y)."""
    return (dy - np.vecdot(dy, y)[..., None]) * y


def rotate(x, turns):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): pairs of x (..., T, d), as complex numbers, times turns.

    turns (T, d / 2) are of length 1, so its mirror is to turn back, by their conjugates.
    """
    return (x.view(turns.dtype) * turns).view(x.dtype)


def causal_blocks(length, total):
    """Blocks of T queries, the last of S positions, each with all that it may see: pairs of slices (queries, keys).

    Working by blocks skips most of the half of all scores that causality forbids.
    """
    stops = [min(start + BLOCK, length) for start in range(0, length, BLOCK)]
    return [(slice(i * BLOCK, stop), slice(total - length + stop)) for i, stop in enumerate(stops)]


def attention(x, qkv, out, n_heads, length, turns=None, past=None):
    """Causal multi-head attention (Vaswani et al. 2017, arXiv:1706.03762): (N, D) -> (N, D).

    `qkv` (D, 3D) makes queries, keys and values, `out` (D, D) mixes what the heads found; `length` is T; `turns` rotate
    queries and keys. `past` (2, B, H, S, d) holds the keys and values of S - T earlier positions, to be attended to
    as well, and room for those of these T, which are put there.
    """
    heads = (x @ qkv).reshape(-1, length, 3, n_heads, x.shape[1] // n_heads).transpose(2, 0, 3, 1, 4)
    if turns is not None:
        heads[:2] = rotate(heads[:2], turns)
    query, key, value = heads  # (B, H, T, d) each
    query = query * query.shape[3] ** -0.5
    if past is not None:
        past[:, :, :, -length:] = heads[1:]
        key, value = past
    mixed, weights = np.empty(query.shape, x.dtype), []
    for rows, seen in causal_blocks(length, key.shape[2]):
        scores = query[:, :, rows] @ key[:, :, seen].swapaxes(2, 3)
        scores[..., -scores.shape[2] :] += FUTURE[: scores.shape[2], : scores.shape[2]]
        weights.append(softmax(scores))  # row i: how much of each position's value position i takes
        np.matmul(weights[-1], value[:, :, seen], out=mixed[:, :, rows])
    mixed = mixed.swapaxes(1, 2).reshape(x.shape)
    return mixed @ out, (x, qkv, query, key, value, weights, mixed, out, turns)


def attention_backward(dy, cache):
    """The mirror of `attention`."""
    x, qkv, query, key, value, weights, mixed, out, turns = cache
    batch, n_heads, length, width = query.shape
    dmixed = (dy @ out.T).reshape(batch, length, n_heads, width).swapaxes(1, 2)  # (B, H, T, d)
    dheads = np.zeros((batch, length, 3, n_heads, width), x.dtype)
    dquery, dkey, dvalue = dparts = dheads.transpose(2, 0, 3, 1, 4)  # views of it, (B, H, T, d) each
    for (rows, seen), w in zip(causal_blocks(length, length), weights):
        dscores = softmax_backward(dmixed[:, :, rows] @ value[:, :, seen].swapaxes(2, 3), w)
        dquery[:, :, rows] = dscores @ key[:, :, seen] * width**-0.5
        dkey[:, :, seen] += dscores.swapaxes(2, 3) @ query[:, :, rows]
        dvalue[:, :, seen] += w.swapaxes(2, 3) @ dmixed[:, :, rows]
    if turns is not None:
        dparts[:2] = rotate(dparts[:2], turns.conj())
    dheads = dheads.reshape(len(x), -1)  # (N, 3D)
    return dheads @ qkv.T, {"qkv": x.T @ dheads, "out": mixed.T @ dy}


def attention_map(cache):
    """The weights of an attention layer: (B, H, T, T)."""
    length, weights = cache[2].shape[2], cache[5]
    return np.concatenate([np.pad(w, [(0, 0)] * 3 + [(0, length - w.shape[3])]) for w in weights], axis=2)


def dropout(x, rate, random):
    """Zero each number with probability `rate`, scale the others to keep the mean (Srivastava et al. 2014): any shape.

    Its mirror is to multiply dy by the same mask; without `random` nothing happens.
    """
    mask = (random.random(x.shape, np.float32) >= rate) / x.dtype.type(1 - rate) if random else 1
    return x * mask if random else x, mask


def block(x, p, n_heads, length, turns=None, past=None, rate=0, random=None):
    """One Transformer block: attention, then the MLP, each on normalized input and added to x: (N, D) -> (N, D)."""
    normed, ln1 = layer_norm(x, p["ln1.gain"], p["ln1.bias"])
    attended, attend = attention(normed, p["attention.qkv"], p["attention.out"], n_heads, length, turns, past)
    attended, attended_mask = dropout(attended, rate, random)
    x = x + attended
    normed, ln2 = layer_norm(x, p["ln2.gain"], p["ln2.bias"])
    transformed, transform = mlp(normed, p["mlp.w1"], p["mlp.b1"], p["mlp.w2"], p["mlp.b2"])
    transformed, transformed_mask = dropout(transformed, rate, random)
    return x + transformed, (ln1, attend, attended_mask, ln2, transform, transformed_mask)


def block_backward(dy, cache):
    """The mirror of `block`: at each sum, dy flows on both through the layer and around it."""
    ln1, attend, attended_mask, ln2, transform, transformed_mask = cache
    dnormed, dmlp = mlp_backward(dy * transformed_mask, transform)
    dx, dln2 = layer_norm_backward(dnormed, ln2)
    dx += dy
    dnormed, dattention = attention_backward(dx * attended_mask, attend)
    dinput, dln1 = layer_norm_backward(dnormed, ln1)
    dinput += dx
    parts = {"ln1": dln1, "attention": dattention, "ln2": dln2, "mlp": dmlp}
    return dinput, {f"{part}.{name}": g for part, gradients in parts.items() for name, g in gradients.items()}


def cross_entropy(logits, targets):
    """Mean of -log softmax(logits)[target] in nats: (N, V), (N,) -> float."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    places = np.arange(len(targets)), targets
    return -float(log_probabilities[places].mean(dtype=np.float64)), (log_probabilities, places)


def cross_entropy_backward(cache):
    """dlogits = (softmax(logits) - one_hot(targets)) / N."""
    log_probabilities, places = cache
    dlogits = np.exp(log_probabilities)
    dlogits[places] -= 1
    return dlogits / len(dlogits)
