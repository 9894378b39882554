"""Each layer's forward pass with its backward pass beside it.

A layer is two functions: `name(x, ...) -> y, cache` and `name_backward(dy, cache) -> dx,
gradients`. `dy` is the derivative of the loss with respect to `y` and has its shape; `gradients`
has one for each of the layer's own parameters, by its name. A backward pass is its forward pass
read in reverse, by four rules: y = x W gives dx = dy Wᵀ and dW = xᵀ dy; y = f(x), element by
element, gives dx = dy · f'(x); a sum hands dy on to each of its terms; what was used in several
places collects from all of them.

Five are only steps of a layer and have no parameters, so they return less: `softmax` and `dropout`
cache just the array that their mirror needs; `gelu` returns its slope, and its mirror is to
multiply by that; `rotate` is its own mirror with other angles; `cross_entropy`, where the loss is,
has no dy.

Shapes: B sequences of T positions, flattened to N = B·T rows; D width, H heads of width d = D / H,
V characters.
"""

import math
from types import SimpleNamespace as Cache

import numpy as np

LAYER_NORM_EPSILON = 1e-5
GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715
REACH = 3  # positions that a convolution looks back
BLOCK = 64  # positions whose attention is computed together
FUTURE = np.triu(np.full((BLOCK, BLOCK), -np.inf, np.float32), 1)  # added to scores: a weight of 0


def embedding(ids, tokens, positions):
    """Token plus position embedding: ids (B, T), tokens (V, D), positions (at least T, D) ->
    (N, D).
    """
    y = (tokens[ids] + positions[: ids.shape[1]]).reshape(-1, tokens.shape[1])
    return y, Cache(ids=ids, vocab_size=len(tokens), positions=positions)


def embedding_backward(dy, cache):
    """Each embedding collects from all the places where it was used; ids have no derivative.

    To pick rows of `tokens` is to multiply it by one-hot rows, so its gradient is a product, too:
    that is faster than adding up row by row, and sums in an order that never changes.
    """
    one_hot = np.arange(cache.vocab_size)[:, None] == cache.ids.reshape(-1)  # (V, N)
    positions = np.zeros_like(cache.positions)
    positions[: cache.ids.shape[1]] = dy.reshape(*cache.ids.shape, -1).sum(axis=0)
    return None, {"tokens": one_hot.astype(dy.dtype) @ dy, "positions": positions}


def layer_norm(x, gain, bias):
    """y = gain · n + bias with n = (x - mean) / std and std = √(variance + ε), by row.

    x (N, D), gain (D,), bias (D,) -> (N, D). Ba et al. 2016, arXiv:1607.06450, who leave out the ε
    that keeps a row of equal numbers from a division by zero.
    """
    centered = x - x.sum(axis=1, keepdims=True) / x.shape[1]
    variance = np.vecdot(centered, centered)[:, None] / x.shape[1]  # (N, 1)
    inverse_std = (variance + LAYER_NORM_EPSILON) ** -0.5
    normalized = np.multiply(centered, inverse_std, out=centered)  # n, (N, D)
    y = normalized * gain
    y += bias
    return y, Cache(normalized=normalized, inverse_std=inverse_std, gain=gain)


def layer_norm_backward(dy, cache):
    """dx = (dn - mean(dn) - n · mean(dn · n)) / std with dn = dy · gain.

    x is used three times: as itself, which gives dn / std; in the mean, which takes mean(dn) off;
    and in std, whose derivative is n / D, and which collects -Σ dn · n / std. Both means are worked
    out as products with gain: of dy, and of dy · n.
    """
    dgains = dy * cache.normalized  # (N, D): what each row adds to the gradient of gain
    mean_dn = (dy @ cache.gain)[:, None] / dy.shape[1]  # (N, 1)
    mean_dn_n = (dgains @ cache.gain)[:, None] / dy.shape[1]
    dx = dy * cache.gain - mean_dn
    dx -= cache.normalized * mean_dn_n
    dx *= cache.inverse_std
    return dx, {"gain": dgains.sum(axis=0), "bias": dy.sum(axis=0)}


def gelu(x):
    """GELU in its tanh form and its slope, y and dy/dx, any shape: y = x · gate with gate = (1 +
    tanh u) / 2 and u = √(2/π) (x + 0.044715 x³). Hendrycks and Gimpel 2016, arXiv:1606.08415.

    dy/dx = gate + x gate', and since gate' = (1 - tanh² u) u' / 2 = gate (1 - tanh u) u', it is
    gate + y (1 - tanh u) u', where u' = √(2/π) (1 + 3 · 0.044715 x²).

    x is the widest array of a block, and memory takes more time than arithmetic: so what is no
    longer needed is written over.
    """
    square = x * x
    u = GELU_SCALE * GELU_CUBIC * square
    u += GELU_SCALE
    u *= x
    tanh = np.tanh(u, out=u)
    gate = (1 + tanh) / 2
    slope = np.multiply(square, 3 * GELU_SCALE * GELU_CUBIC, out=square)
    slope += GELU_SCALE  # u'
    slope *= np.subtract(1, tanh, out=tanh)
    y = np.multiply(x, gate, out=tanh)
    slope *= y
    slope += gate
    return y, slope


def mlp(x, w1, b1, w2, b2):
    """Widen, GELU, narrow: hidden = GELU(x W₁ + b₁), y = hidden W₂ + b₂.

    x (N, D), w1 (D, 4D), b1 (4D,), w2 (4D, D), b2 (D,) -> (N, D).
    """
    wide = x @ w1
    wide += b1
    hidden, slope = gelu(wide)  # (N, 4D)
    return hidden @ w2 + b2, Cache(x=x, w1=w1, w2=w2, hidden=hidden, slope=slope)


def mlp_backward(dy, cache):
    """dW₂ = hiddenᵀ dy, dhidden = dy W₂ᵀ; dwide = dhidden · slope; dW₁ = xᵀ dwide, dx = dwide W₁ᵀ.

    dwide (N, 4D) is the derivative with respect to x W₁ + b₁. Each bias was added to all rows, so
    it collects from all of them.
    """
    second = {"w2": cache.hidden.T @ dy, "b2": dy.sum(axis=0)}
    dwide = (dy @ cache.w2.T) * cache.slope
    first = {"w1": cache.x.T @ dwide, "b1": dwide.sum(axis=0)}
    return dwide @ cache.w1.T, first | second


def softmax(x):
    """exp(x) / Σ exp(x) over the last axis, any shape."""
    y = x - x.max(axis=-1, keepdims=True)  # the largest exponent is 0: no overflow
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def softmax_backward(dy, y):
    """dx = y · (dy - Σ dy · y), y being what `softmax` returned."""
    return (dy - np.vecdot(dy, y)[..., None]) * y


def rotate(x, turns):
    """Rotary positions: neighbours in x (..., T, d), taken as complex numbers, times their turns.

    Su et al. 2021, arXiv:2104.09864. turns (T, d / 2) are of length 1, so its mirror is to turn
    back, by their conjugates.
    """
    return (x.view(turns.dtype) * turns).view(x.dtype)


def causal_blocks(length, total):
    """Blocks of T queries, the last of S positions, each with the keys that any of it may see: a
    list of pairs of slices (queries, keys).

    Causality forbids half of all scores, and by blocks half of these or more are not computed: with
    blocks of 64 a quarter of the scores at T = 128, 3/8 at T = 256. Inside a block a mask does it.
    """
    stops = [min(start + BLOCK, length) for start in range(0, length, BLOCK)]
    return [(slice(i * BLOCK, stop), slice(total - length + stop)) for i, stop in enumerate(stops)]


def attention(x, qkv, out, n_heads, length, turns=None, past=None):
    """Causal multi-head attention: (N, D) -> (N, D). Vaswani et al. 2017, arXiv:1706.03762.

    By sequence and head, with T = `length` and d = D / H:

    1. query, key, value = x W_qkv, cut into heads          qkv (D, 3D); (B, H, T, d) each
    2. scores = query keyᵀ / √d                             (B, H, T, T)
    3. weights = softmax(scores), where the future is -∞    row i: how much i takes of each position
    4. mixed = weights value                                (B, H, T, d); joined, (N, D)
    5. y = joined W_out                                     out (D, D)

    A score sums d products, whose variance is about 1 each: divided by √d, it has variance 1 too,
    and softmax does not start at its flat ends. The query is divided rather than the scores: it has
    d numbers a row, they have T.

    `turns` rotate queries and keys. `past` (2, B, H, S, d) holds the keys and values of S - T
    earlier positions, to be attended to as well, and room for those of these T, which are put
    there.
    """
    width = x.shape[1] // n_heads
    heads = (x @ qkv).reshape(-1, length, 3, n_heads, width).transpose(2, 0, 3, 1, 4)
    if turns is not None:
        heads[:2] = rotate(heads[:2], turns)
    query, key, value = heads
    query *= width**-0.5
    if past is not None:
        past[:, :, :, -length:] = heads[1:]
        key, value = past
    joined = np.empty(x.shape, x.dtype)  # (N, D): heads side by side
    mixed = joined.reshape(-1, length, n_heads, width).swapaxes(1, 2)  # a view, (B, H, T, d)
    weights = []  # by block of queries: (B, H, queries, keys)
    for rows, seen in causal_blocks(length, key.shape[2]):
        scores = query[:, :, rows] @ key[:, :, seen].swapaxes(2, 3)
        size = scores.shape[2]
        scores[..., -size:] += FUTURE[:size, :size]
        weights.append(softmax(scores))
        np.matmul(weights[-1], value[:, :, seen], out=mixed[:, :, rows])
    cache = Cache(x=x, qkv=qkv, out=out, turns=turns, joined=joined, weights=weights)
    cache.query, cache.key, cache.value = query, key, value  # the query divided by √d
    return joined @ out, cache


def attention_backward(dy, cache):
    """The mirror of `attention`, from 5 to 1:

    5. dmixed = dy W_outᵀ, dW_out = joinedᵀ dy
    4. dweights = dmixed valueᵀ, dvalue = weightsᵀ dmixed
    3. dscores by `softmax_backward`
    2. dquery = dscores key / √d, dkey = dscoresᵀ query / √d: the query in the cache is divided
    1. dqkv is dquery, dkey and dvalue side by side: dx = dqkv W_qkvᵀ, dW_qkv = xᵀ dqkv
    """
    batch, n_heads, length, width = cache.query.shape
    dmixed = (dy @ cache.out.T).reshape(batch, length, n_heads, width).swapaxes(1, 2)
    dheads = np.zeros((batch, length, 3, n_heads, width), dy.dtype)
    dparts = dheads.transpose(2, 0, 3, 1, 4)  # a view, as are its three, (B, H, T, d) each
    dquery, dkey, dvalue = dparts
    for (rows, seen), weights in zip(causal_blocks(length, length), cache.weights):
        dweights = dmixed[:, :, rows] @ cache.value[:, :, seen].swapaxes(2, 3)
        dscores = softmax_backward(dweights, weights)
        np.matmul(dscores, cache.key[:, :, seen], out=dquery[:, :, rows])
        dkey[:, :, seen] += dscores.swapaxes(2, 3) @ cache.query[:, :, rows]
        dvalue[:, :, seen] += weights.swapaxes(2, 3) @ dmixed[:, :, rows]
    dquery *= width**-0.5
    if cache.turns is not None:
        dparts[:2] = rotate(dparts[:2], cache.turns.conj())
    dqkv = dheads.reshape(len(dy), -1)  # (N, 3D)
    return dqkv @ cache.qkv.T, {"qkv": cache.x.T @ dqkv, "out": cache.joined.T @ dy}


def attention_map(cache):
    """The weights of an attention layer, its blocks put together: (B, H, T, T)."""
    length = cache.query.shape[2]
    rows = [np.pad(w, [(0, 0)] * 3 + [(0, length - w.shape[3])]) for w in cache.weights]
    return np.concatenate(rows, axis=2)


def convolution(x, w, length, past=None):
    """Let each position see the three before it: y[t] = x[t] + Σ_k w[k] · x[t - k], k = 0 to 3, for
    each of the D numbers on its own: (N, D) -> (N, D), w (4, D). Without w, nothing happens.

    Depthwise and causal, after Primer (So et al. 2021, arXiv:2109.08668), whose own is 3 wide and
    follows the products for queries, keys and values. `past` (B, 3 + T, D) holds what the three
    earlier positions had as x, and room for these T, which are put there; else there was nothing.
    """
    if w is None:
        return x, None
    sequences = x.reshape(-1, length, x.shape[1])  # (B, T, D)
    if past is None:
        past = np.zeros((len(sequences), REACH + length, x.shape[1]), x.dtype)
    past[:, REACH:] = sequences
    y = sequences.copy()
    for k in range(REACH + 1):
        y += w[k] * past[:, REACH - k : REACH - k + length]
    return y.reshape(x.shape), Cache(seen=past, w=w)


def convolution_backward(dy, cache):
    """dx[t] = dy[t] + Σ_k w[k] · dy[t + k], dw[k] = Σ_t dy[t] · x[t - k]."""
    if cache is None:
        return dy, {}
    dsequences = dy.reshape(len(cache.seen), -1, dy.shape[1])  # (B, T, D)
    length = dsequences.shape[1]
    dx = dsequences.copy()
    dw = np.empty_like(cache.w)
    for k in range(REACH + 1):
        dx[:, : max(0, length - k)] += cache.w[k] * dsequences[:, k:]
        earlier = cache.seen[:, REACH - k : REACH - k + length]
        dw[k] = np.einsum("btd,btd->d", dsequences, earlier)
    return dx.reshape(dy.shape), {"weight": dw}


def dropout(x, rate, random):
    """Zero each number with probability `rate`, scale the others to keep the mean: any shape.

    Srivastava et al. 2014, with the scaling done while training. Its mirror is to multiply dy by
    the same mask; without `random` there is no mask, and nothing happens.
    """
    if random is None:
        return x, None
    mask = (random.random(x.shape, np.float32) >= rate) / x.dtype.type(1 - rate)
    return x * mask, mask


def dropout_backward(dy, mask):
    """dx = dy · mask."""
    return dy if mask is None else dy * mask


def block(x, p, n_heads, length, turns=None, past=None, rate=0, random=None):
    """One Transformer block: (N, D) -> (N, D), with p its parameters by name.

    middle = x + dropout(attention(convolution(layer_norm(x))))
    y = middle + dropout(mlp(convolution(layer_norm(middle))))

    Without weights for them in p the convolutions do nothing. `past` has what is to be known of
    earlier positions: heads (2, B, H, S, d) for attention, inputs (2, B, 3 + T, D), one for each
    convolution.
    """
    heads, inputs = (past.heads, past.inputs) if past else (None, (None, None))
    cache = Cache()
    normed1, cache.ln1 = layer_norm(x, p["ln1.gain"], p["ln1.bias"])
    mixed1, cache.conv1 = convolution(normed1, p.get("conv1.weight"), length, inputs[0])
    matrices = p["attention.qkv"], p["attention.out"]
    attended, cache.attention = attention(mixed1, *matrices, n_heads, length, turns, heads)
    kept1, cache.mask1 = dropout(attended, rate, random)
    middle = x + kept1
    normed2, cache.ln2 = layer_norm(middle, p["ln2.gain"], p["ln2.bias"])
    mixed2, cache.conv2 = convolution(normed2, p.get("conv2.weight"), length, inputs[1])
    thought, cache.mlp = mlp(mixed2, p["mlp.w1"], p["mlp.b1"], p["mlp.w2"], p["mlp.b2"])
    kept2, cache.mask2 = dropout(thought, rate, random)
    return middle + kept2, cache


def block_backward(dy, cache):
    """The mirror of `block`: at each sum, dy flows on both through the layer and around it."""
    dthought = dropout_backward(dy, cache.mask2)
    dmixed2, dmlp = mlp_backward(dthought, cache.mlp)
    dnormed2, dconv2 = convolution_backward(dmixed2, cache.conv2)
    dmiddle, dln2 = layer_norm_backward(dnormed2, cache.ln2)
    dmiddle += dy
    dattended = dropout_backward(dmiddle, cache.mask1)
    dmixed1, dattention = attention_backward(dattended, cache.attention)
    dnormed1, dconv1 = convolution_backward(dmixed1, cache.conv1)
    dx, dln1 = layer_norm_backward(dnormed1, cache.ln1)
    dx += dmiddle
    first = {"ln1": dln1, "conv1": dconv1, "attention": dattention}
    parts = first | {"ln2": dln2, "conv2": dconv2, "mlp": dmlp}
    named = {f"{part}.{name}": d for part, ds in parts.items() for name, d in ds.items()}
    return dx, named


def cross_entropy(logits, targets):
    """Mean of -log softmax(logits)[target] in nats: (N, V), (N,) -> float."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    places = np.arange(len(targets)), targets
    loss = -float(log_probabilities[places].mean(dtype=np.float64))
    return loss, Cache(log_probabilities=log_probabilities, places=places)


def cross_entropy_backward(cache):
    """dlogits = (softmax(logits) - one_hot(targets)) / N."""
    dlogits = np.exp(cache.log_probabilities)
    dlogits[cache.places] -= 1
    return dlogits / len(dlogits)
