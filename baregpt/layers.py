"""Each layer's forward pass with its backward pass beside it.

A layer is a pair of functions: `name(x, ...) -> y, saved` and `name_backward(dy, saved) -> dx,
gradients`. `saved` holds the activations that the backward pass needs. `dy` is the gradient of the
loss with respect to `y` and has the shape of `y`. `gradients` maps the name of each parameter in
the layer, such as `qkv`, to its gradient. `dx` means ∂loss/∂x; other derivatives are written ∂y/∂x.

A backward pass applies the chain rule in reverse order. Five rules are enough:

- Matrix product y = x W, that is, y[n, j] = Σ_i x[n, i] W[i, j]. Then dx[n, i] = Σ_j dy[n, j]
  W[i, j] and dW[i, j] = Σ_n x[n, i] dy[n, j], so dx = dy Wᵀ and dW = xᵀ dy.
- Elementwise function y = f(x): dx = dy · f'(x).
- Elementwise product y = a · b: da = dy · b, db = dy · a.
- Sum y = a + b: da = db = dy. If an operand was broadcast, its gradient is summed over the
  broadcast axes; the same holds for products.
- The gradient of a value that is used several times is the sum of the gradients of its uses.

Five functions have no learned parameters and a simpler signature. `softmax_backward` needs only the
output y, `dropout_backward` only the mask. `gelu` returns y and ∂y/∂x. The backward pass of
`apply_rope` is `apply_rope` with the conjugate phases. `cross_entropy_backward` takes no dy,
because the backward pass starts at the loss.

Shapes: B sequences of T positions, flattened to N = B·T rows; D model width, H heads of width
d = D / H, V characters in the vocabulary.
"""

import math
from types import SimpleNamespace as Saved

import numpy as np

LAYER_NORM_EPSILON = 1e-5
GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715
QUERY_TILE = 64  # queries whose attention is computed together
# Added to the scores of a tile: exp(-∞) = 0, so masked keys get a weight of 0.
CAUSAL_MASK = np.triu(np.full((QUERY_TILE, QUERY_TILE), -np.inf, np.float32), 1)


def check_ids(name, ids, vocab_size):
    """Raise ValueError if ids are out of range. NumPy would count negative ones from the end."""
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"{name} must be 0 to {vocab_size - 1}, got {ids.min()} to {ids.max()}")


def embedding(ids, tokens, positions):
    """Token plus position embedding: ids (B, T), tokens (V, D), positions (≥ T, D) ->
    (N, D).
    """
    check_ids("token ids", ids, len(tokens))
    y = (tokens[ids] + positions[: ids.shape[1]]).reshape(-1, tokens.shape[1])
    return y, Saved(ids=ids, vocab_size=len(tokens), positions=positions)


def embedding_backward(dy, saved):
    """Sum dy over all uses of each embedding. The ids are integers and have no gradient.

    Indexing rows of `tokens` is equivalent to multiplying by a one-hot matrix, so the gradient is
    one_hotᵀ dy. A matrix product is faster than np.add.at, which would sum row by row.
    """
    one_hot_transposed = np.arange(saved.vocab_size)[:, None] == saved.ids.reshape(-1)  # (V, N)
    dtokens = one_hot_transposed.astype(dy.dtype) @ dy
    dpositions = np.zeros_like(saved.positions)
    dpositions[: saved.ids.shape[1]] = dy.reshape(*saved.ids.shape, -1).sum(axis=0)
    return None, {"token_embedding": dtokens, "position_embedding": dpositions}


def layer_norm(x, gain, bias):
    """LayerNorm of each row: y = gain · n + bias, n = (x - mean) / std, std = √(variance + ε).

    x (N, D), gain (D,), bias (D,) -> (N, D). Ba et al. 2016, arXiv:1607.06450. The ε, which is not
    in the paper, avoids a division by zero when all elements of a row are equal.
    """
    centered = x - x.sum(axis=1, keepdims=True) / x.shape[1]
    variance = np.vecdot(centered, centered)[:, None] / x.shape[1]  # (N, 1)
    inverse_std = (variance + LAYER_NORM_EPSILON) ** -0.5
    normalized = np.multiply(centered, inverse_std, out=centered)  # n, (N, D)
    y = normalized * gain
    y += bias
    return y, Saved(normalized=normalized, inverse_std=inverse_std, gain=gain)


def layer_norm_backward(dy, saved):
    """dx = (dn - mean(dn) - n · mean(dn · n)) / std with dn = dy · gain.

    x reaches n along three paths, whose gradients add up:

    - directly, with ∂n/∂x = 1 / std: dn / std;
    - through the mean, with ∂mean/∂x = 1 / D and ∂n/∂mean = -1 / std: -mean(dn) / std;
    - through std, with ∂n/∂std = -n / std and ∂std/∂x = n / D: -n · mean(dn · n) / std. Here the
      mean inside the variance contributes nothing, because Σ (x - mean) = 0.

    gain and bias are broadcast over the rows: dgain = Σ dy · n and dbias = Σ dy over the rows.
    """
    dgain_by_row = dy * saved.normalized  # (N, D)
    mean_dn = (dy @ saved.gain)[:, None] / dy.shape[1]  # (N, 1)
    mean_dn_n = (dgain_by_row @ saved.gain)[:, None] / dy.shape[1]  # (N, 1)
    dx = dy * saved.gain - mean_dn
    dx -= saved.normalized * mean_dn_n
    dx *= saved.inverse_std
    return dx, {"gain": dgain_by_row.sum(axis=0), "bias": dy.sum(axis=0)}


def gelu(x):
    """The tanh approximation of GELU and its derivative: x of any shape -> y, ∂y/∂x.

    y = x · gate with gate = (1 + tanh u) / 2 and u = √(2/π) (x + 0.044715 x³). Hendrycks and
    Gimpel 2016, arXiv:1606.08415.

    ∂y/∂x = gate + x gate', and gate' = (1 - tanh² u) u' / 2 = gate (1 - tanh u) u', so
    ∂y/∂x = gate + y (1 - tanh u) u' with u' = √(2/π) (1 + 3 · 0.044715 x²).

    x is among the largest activations, so this function is memory-bound and reuses its arrays.
    """
    square = x * x
    u = GELU_SCALE * GELU_CUBIC * square
    u += GELU_SCALE
    u *= x
    tanh = np.tanh(u, out=u)
    gate = (1 + tanh) / 2
    y = x * gate
    slope = square * (3 * GELU_SCALE * GELU_CUBIC) + GELU_SCALE  # u'
    slope *= 1 - tanh
    slope *= y
    slope += gate
    return y, slope


def mlp(x, w1, b1, w2, b2):
    """Multilayer perceptron, for each position: hidden = GELU(x W₁ + b₁), y = hidden W₂ + b₂.

    x (N, D), w1 (D, 4D), b1 (4D,), w2 (4D, D), b2 (D,) -> (N, D).
    """
    preactivation = x @ w1
    preactivation += b1
    hidden, slope = gelu(preactivation)  # (N, 4D)
    return hidden @ w2 + b2, Saved(x=x, w1=w1, w2=w2, hidden=hidden, slope=slope)


def mlp_backward(dy, saved):
    """dW₂ = hiddenᵀ dy, dhidden = dy W₂ᵀ, da = dhidden · slope, dW₁ = xᵀ da, dx = da W₁ᵀ.

    a (N, 4D) is the preactivation x W₁ + b₁. Each bias is broadcast over the rows, so its gradient
    is a sum over the rows.
    """
    second = {"w2": saved.hidden.T @ dy, "b2": dy.sum(axis=0)}
    da = (dy @ saved.w2.T) * saved.slope
    first = {"w1": saved.x.T @ da, "b1": da.sum(axis=0)}
    return da @ saved.w1.T, first | second


def softmax(x):
    """exp(x) / Σ exp(x) over the last axis; any shape."""
    y = x - x.max(axis=-1, keepdims=True)  # the largest exponent is 0, so exp cannot overflow
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def softmax_backward(dy, y):
    """dx = y · (dy - Σ dy · y), where y is the output of `softmax`.

    The Jacobian is ∂y_i/∂x_j = y_i (δ_ij - y_j), so dx_j = Σ_i dy_i ∂y_i/∂x_j =
    y_j (dy_j - Σ_i dy_i y_i).
    """
    return (dy - np.vecdot(dy, y)[..., None]) * y


def apply_rope(x, phases):
    """Rotary position embedding: rotate each pair of adjacent elements by an angle that depends on
    the position and the pair.

    x (..., T, d), phases (T, d / 2) = exp(i · position · frequency) -> (..., T, d). The last axis
    of x must be contiguous, because the pairs are viewed as complex numbers. Su et al. 2021,
    arXiv:2104.09864.

    y = R x gives dx = Rᵀ dy, and Rᵀ = R⁻¹ for a rotation, so the backward pass rotates by the
    conjugate phases. With the pairs as complex numbers, the dot product of a query q at position m
    and a key k at position n becomes Re Σ q conj(k) exp(i (m - n) frequency), summed over the
    pairs: it depends on the positions only through their distance m - n.
    """
    return (x.view(phases.dtype) * phases).view(x.dtype)


def query_tiles(length, key_length):
    """Split the queries, the last T = `length` of S = `key_length` positions, into tiles: a list of
    (query slice, key slice).

    The key slice of a tile holds the keys visible to any query in it: all keys up to the last query
    of the tile. The scores of later keys are skipped: with tiles of 64, these are 1/4 of all scores
    at T = 128 and 3/8 at T = 256. Inside a tile, CAUSAL_MASK hides the rest.
    """
    stops = [min(start + QUERY_TILE, length) for start in range(0, length, QUERY_TILE)]
    earlier = key_length - length
    return [(slice(i * QUERY_TILE, stop), slice(earlier + stop)) for i, stop in enumerate(stops)]


def attention(x, w_qkv, w_out, n_heads, length, rope_phases=None, kv=None):
    """Causal multi-head self-attention: x (N, D) -> (N, D). Vaswani et al. 2017, arXiv:1706.03762.

    For each sequence and head, with T = `length` and d = D / H:

    1. query, key, value = x W_qkv, split into heads        w_qkv (D, 3D); (B, H, T, d) each;
       with rope_phases, query and key are rotated
    2. scores = query keyᵀ / √d                             (B, H, T, T)
    3. attn = softmax(scores + causal mask)                 row i: the weights of positions 0 to i
    4. head_out = attn value                                (B, H, T, d); concatenated, (N, D)
    5. y = head_out W_out                                   w_out (D, D)

    A score is a sum of d products of variance about 1, so dividing it by √d keeps its variance at
    about 1 and the softmax starts unsaturated. The query is divided instead of the scores because
    it has d numbers per row, and the scores have T.

    rope_phases (T, d / 2): apply rotary position embeddings to queries and keys. kv (2, B, H, S,
    d): the KV cache, keys and values of S - T earlier positions plus space for the current T, which
    are written in place.
    """
    head_dim = x.shape[1] // n_heads  # d
    qkv_heads = (x @ w_qkv).reshape(-1, length, 3, n_heads, head_dim).transpose(2, 0, 3, 1, 4)
    if rope_phases is not None:
        qkv_heads[:2] = apply_rope(qkv_heads[:2], rope_phases)
    query, key, value = qkv_heads  # (B, H, T, d) each
    query *= head_dim**-0.5
    if kv is not None:
        kv[:, :, :, -length:] = key, value
        key, value = kv
    head_out = np.empty(x.shape, x.dtype)  # (N, D), the heads concatenated
    # A view (B, H, T, d) of the same memory: what is written into it appears in head_out.
    head_out_by_head = head_out.reshape(-1, length, n_heads, head_dim).swapaxes(1, 2)
    attn_tiles = []  # (B, H, queries, keys) each
    for queries, keys in query_tiles(length, key.shape[2]):
        scores = query[:, :, queries] @ key[:, :, keys].swapaxes(2, 3)
        size = scores.shape[2]
        scores[..., -size:] += CAUSAL_MASK[:size, :size]
        attn = softmax(scores)
        np.matmul(attn, value[:, :, keys], out=head_out_by_head[:, :, queries])
        attn_tiles.append(attn)
    saved = Saved(x=x, w_qkv=w_qkv, w_out=w_out, rope_phases=rope_phases, attn_tiles=attn_tiles)
    # The saved query is divided by √d.
    saved.query, saved.key, saved.value, saved.head_out = query, key, value, head_out
    return head_out @ w_out, saved


def attention_backward(dy, saved):
    """The steps of `attention` in reverse order, for a forward pass without a KV cache:

    5. dhead_out = dy W_outᵀ, dW_out = head_outᵀ dy
    4. dattn = dhead_out valueᵀ, dvalue = attnᵀ dhead_out
    3. dscores = softmax_backward(dattn, attn)
    2. dquery = dscores key / √d, dkey = dscoresᵀ query / √d; the saved query is already divided
    1. with rope_phases, dquery and dkey are rotated back; dqkv = dquery, dkey and dvalue
       concatenated, dx = dqkv W_qkvᵀ, dW_qkv = xᵀ dqkv

    A key or value is used by the queries of several tiles, so its gradients are summed.
    """
    batch, n_heads, length, head_dim = saved.query.shape
    dhead_out = (dy @ saved.w_out.T).reshape(batch, length, n_heads, head_dim).swapaxes(1, 2)
    dqkv = np.zeros((len(dy), 3 * dy.shape[1]), dy.dtype)  # (N, 3D)
    # Views of dqkv, filled in place: (3, B, H, T, d), and (B, H, T, d) each.
    dqkv_heads = dqkv.reshape(batch, length, 3, n_heads, head_dim).transpose(2, 0, 3, 1, 4)
    dquery, dkey, dvalue = dqkv_heads
    for (queries, keys), attn in zip(query_tiles(length, length), saved.attn_tiles):
        dattn = dhead_out[:, :, queries] @ saved.value[:, :, keys].swapaxes(2, 3)
        dvalue[:, :, keys] += attn.swapaxes(2, 3) @ dhead_out[:, :, queries]
        dscores = softmax_backward(dattn, attn)
        np.matmul(dscores, saved.key[:, :, keys], out=dquery[:, :, queries])
        dkey[:, :, keys] += dscores.swapaxes(2, 3) @ saved.query[:, :, queries]
    dquery *= head_dim**-0.5
    if saved.rope_phases is not None:
        dqkv_heads[:2] = apply_rope(dqkv_heads[:2], saved.rope_phases.conj())
    return dqkv @ saved.w_qkv.T, {"qkv": saved.x.T @ dqkv, "out": saved.head_out.T @ dy}


def attention_map(saved):
    """The attention weights of an attention layer, (B, H, T, T), from its tiles."""
    length = saved.query.shape[2]
    rows = [np.pad(a, [(0, 0)] * 3 + [(0, length - a.shape[3])]) for a in saved.attn_tiles]
    return np.concatenate(rows, axis=2)


def dropout(x, rate, rng):
    """Inverted dropout (Srivastava et al. 2014): zero each element with probability `rate` and
    divide the others by 1 - rate, which keeps the expected value. Off if `rng` is None.
    """
    if rng is None:
        return x, None
    mask = (rng.random(x.shape, np.float32) >= rate) / x.dtype.type(1 - rate)
    return x * mask, mask


def dropout_backward(dy, mask):
    """dx = dy · mask, where mask was saved by `dropout`."""
    return dy if mask is None else dy * mask


def block(x, p, n_heads, length, rope_phases=None, kv=None, dropout_rate=0, rng=None):
    """One pre-LayerNorm Transformer block: x (N, D) -> (N, D); p maps names to its parameters.

    residual = x + dropout(attention(layer_norm(x)))
    y = residual + dropout(mlp(layer_norm(residual)))
    """
    saved = Saved()
    w_qkv, w_out = p["attention.qkv"], p["attention.out"]
    normed, saved.ln1 = layer_norm(x, p["ln1.gain"], p["ln1.bias"])
    attn_out, saved.attention = attention(normed, w_qkv, w_out, n_heads, length, rope_phases, kv)
    attn_dropped, saved.attn_dropout_mask = dropout(attn_out, dropout_rate, rng)
    residual = x + attn_dropped
    normed, saved.ln2 = layer_norm(residual, p["ln2.gain"], p["ln2.bias"])
    mlp_out, saved.mlp = mlp(normed, p["mlp.w1"], p["mlp.b1"], p["mlp.w2"], p["mlp.b2"])
    mlp_dropped, saved.mlp_dropout_mask = dropout(mlp_out, dropout_rate, rng)
    return residual + mlp_dropped, saved


def block_backward(dy, saved):
    """The steps of `block` in reverse order. At each residual connection the gradient flows along
    both paths, through the layer and around it, and the two are added. dln1, dattention, dln2 and
    dmlp are the gradients of the parameters of these layers.
    """
    dmlp_out = dropout_backward(dy, saved.mlp_dropout_mask)
    dnormed, dmlp = mlp_backward(dmlp_out, saved.mlp)
    dresidual, dln2 = layer_norm_backward(dnormed, saved.ln2)
    dresidual += dy
    dattn_out = dropout_backward(dresidual, saved.attn_dropout_mask)
    dnormed, dattention = attention_backward(dattn_out, saved.attention)
    dx, dln1 = layer_norm_backward(dnormed, saved.ln1)
    dx += dresidual
    by_layer = {"ln1": dln1, "attention": dattention, "ln2": dln2, "mlp": dmlp}
    named = [(f"{layer}.{name}", g) for layer, gs in by_layer.items() for name, g in gs.items()]
    return dx, dict(named)


def cross_entropy(logits, targets):
    """Mean of -log softmax(logits)[target] in nats: logits (N, V), targets (N,) -> float, saved."""
    check_ids("targets", targets, logits.shape[1])
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    at_targets = np.arange(len(targets)), targets
    loss = -float(log_probabilities[at_targets].mean(dtype=np.float64))
    return loss, Saved(log_probabilities=log_probabilities, at_targets=at_targets)


def cross_entropy_backward(saved):
    """dlogits = (softmax(logits) - one_hot(targets)) / N.

    The loss of a row is log Σ exp(logits) - logits[target]. The gradient of the first term is
    exp(logits) / Σ exp(logits), which is the softmax; that of logits[target] is one_hot(target).
    The mean over the rows gives the factor 1 / N.
    """
    dlogits = np.exp(saved.log_probabilities)
    dlogits[saved.at_targets] -= 1
    return dlogits / len(dlogits)
