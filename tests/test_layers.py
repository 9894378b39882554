"""Every backward function against finite differences, in float64."""

import numpy as np
import pytest

from baregpt import layers

random = np.random.default_rng(0)
B, T, D, H, V = 2, 5, 8, 2, 7
N = B * T


def normal(*shape):
    return random.normal(0, 1, shape)


def relative_error(a, b):
    return np.linalg.norm(a - b) / max(np.linalg.norm(a) + np.linalg.norm(b), 1e-12)


def finite_differences(function, x, step=1e-5):
    """The gradient of `function()`, a number that depends on the array x, of which one element at
    a time is moved both ways, in place.
    """
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + step
        above = function()
        x[i] = kept - step
        gradient[i] = (above - function()) / (2 * step)
        x[i] = kept
    return gradient


def embedding(tokens, positions):
    return layers.embedding(IDS, tokens, positions)


IDS = random.integers(0, V, (B, T))
TURNS = np.exp(1j * normal(T, D // H // 2))
BLOCK = {
    "ln1.gain": normal(D),
    "ln1.bias": normal(D),
    "attention.qkv": normal(D, 3 * D),
    "attention.out": normal(D, D),
    "ln2.gain": normal(D),
    "ln2.bias": normal(D),
    "mlp.w1": normal(D, 4 * D),
    "mlp.b1": normal(4 * D),
    "mlp.w2": normal(4 * D, D),
    "mlp.b2": normal(D),
}


WITH_CONVOLUTION = BLOCK | {"conv1.weight": normal(4, D), "conv2.weight": normal(4, D)}


def attention_of(n_heads, length):
    return lambda x, qkv, out: layers.attention(x, qkv, out, n_heads, length)


def rotary_attention(x, qkv, out):
    return layers.attention(x, qkv, out, H, T, TURNS)


@pytest.fixture(params=[64, 2], ids=["in one block", "in blocks of two"], autouse=True)
def block_size(request, monkeypatch):
    monkeypatch.setattr(layers, "BLOCK", request.param)


def block(x, **parameters):
    return layers.block(x, parameters, H, T)


def convolution(x, weight):
    return layers.convolution(x, weight, T)


def block_with_dropout(x, **parameters):
    random = np.random.default_rng(3)  # the same each time
    return layers.block(x, parameters, H, T, rate=0.4, random=random)


def part(name):
    """The parameters of one part of a block."""
    return {key.removeprefix(name): p for key, p in BLOCK.items() if key.startswith(name)}


def row(name, *inputs, forward=None):
    """A row of the table below, of the layer of that name, or of a `forward` in which it is."""
    layer, backward = getattr(layers, name), getattr(layers, f"{name}_backward")
    return forward or layer, backward, *inputs


TABLES = {"tokens": normal(V, D), "positions": normal(T + 1, D)}
LAYERS = {  # name: forward, backward, input, parameters by the names of their gradients
    "embedding": row("embedding", None, TABLES, forward=embedding),
    "layer_norm": row("layer_norm", normal(N, D), part("ln1.")),
    "mlp": row("mlp", normal(N, D), part("mlp.")),
    "attention": row("attention", normal(N, D), part("attention."), forward=attention_of(H, T)),
    "attention with one head": row(
        "attention", normal(N, D), part("attention."), forward=attention_of(1, T)
    ),
    "attention of one position": row(
        "attention", normal(B, D), part("attention."), forward=attention_of(H, 1)
    ),
    "rotary attention": row(
        "attention", normal(N, D), part("attention."), forward=rotary_attention
    ),
    "convolution": row("convolution", normal(N, D), {"weight": normal(4, D)}, forward=convolution),
    "block": row("block", normal(N, D), BLOCK, forward=block),
    "block with convolution": row("block", normal(N, D), WITH_CONVOLUTION, forward=block),
    "block with dropout": row("block", normal(N, D), BLOCK, forward=block_with_dropout),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_match_finite_differences(name):
    forward, backward, x, parameters = LAYERS[name]
    inputs = [] if x is None else [x]
    y, cache = forward(*inputs, **parameters)
    dy = normal(*y.shape)  # any direction will do: the loss is Σ y · dy
    dx, gradients = backward(dy, cache)

    def loss():
        return float((forward(*inputs, **parameters)[0] * dy).sum())

    assert gradients.keys() == parameters.keys()
    for key, parameter in parameters.items():
        assert relative_error(gradients[key], finite_differences(loss, parameter)) < 1e-6, key
    if x is not None:
        assert relative_error(dx, finite_differences(loss, x)) < 1e-6


@pytest.mark.parametrize("block", [1, 2, 3])
def test_working_by_blocks_changes_nothing(monkeypatch, block):
    x, qkv, out, dy = normal(N, D), normal(D, 3 * D), normal(D, D), normal(N, D)
    results = []
    for size in (T, block):
        monkeypatch.setattr(layers, "BLOCK", size)
        assert len(layers.causal_blocks(T, T)) == -(-T // size)
        y, cache = layers.attention(x, qkv, out, H, T)
        dx, gradients = layers.attention_backward(dy, cache)
        results.append([y, dx, gradients["qkv"], gradients["out"], layers.attention_map(cache)])
    for whole, in_blocks in zip(*results):
        assert in_blocks == pytest.approx(whole, rel=1e-12, abs=1e-12)


def test_attention_takes_a_text_in_parts_as_it_takes_the_whole(monkeypatch):
    monkeypatch.setattr(layers, "BLOCK", 2)
    x, qkv, out = normal(N, D), normal(D, 3 * D), normal(D, D)
    whole, _ = layers.attention(x, qkv, out, H, T)
    past = np.empty((2, B, H, T, D // H))
    parts, sequences = [], x.reshape(B, T, D)
    for start, stop in ((0, 1), (1, 4), (4, 5)):
        part = sequences[:, start:stop].reshape(-1, D)
        parts.append(
            layers.attention(part, qkv, out, H, stop - start, past=past[:, :, :, :stop])[0].reshape(
                B, -1, D
            )
        )
    assert np.concatenate(parts, axis=1).reshape(N, D) == pytest.approx(whole, rel=1e-12, abs=1e-12)


def test_convolution_is_what_its_formula_says():
    x, w = normal(N, D), normal(4, D)
    y, _ = layers.convolution(x, w, T)
    for sequence, expected in zip(x.reshape(B, T, D), y.reshape(B, T, D)):
        for t in range(T):
            earlier = sum(w[k] * sequence[t - k] for k in range(min(t, 3) + 1))
            assert expected[t] == pytest.approx(sequence[t] + earlier)


def test_convolution_takes_a_text_in_parts_as_it_takes_the_whole():
    x, w = normal(N, D), normal(4, D)
    whole, _ = layers.convolution(x, w, T)
    past = np.zeros((B, 3 + T, D))
    parts = []
    for start, stop in ((0, 1), (1, 4), (4, 5)):
        part = x.reshape(B, T, D)[:, start:stop].reshape(-1, D)
        y, _ = layers.convolution(part, w, stop - start, past[:, start : stop + 3])
        parts.append(y.reshape(B, -1, D))
    assert np.concatenate(parts, axis=1).reshape(N, D) == pytest.approx(whole, rel=1e-12)


def test_softmax_gradients_match_finite_differences():
    x, dy = normal(3, 4, 5), normal(3, 4, 5)
    dx = layers.softmax_backward(dy, layers.softmax(x))
    numeric = finite_differences(lambda: float((layers.softmax(x) * dy).sum()), x)
    assert relative_error(dx, numeric) < 1e-6


def test_cross_entropy_gradients_match_finite_differences():
    logits, targets = normal(N, V), random.integers(0, V, N)
    _, cache = layers.cross_entropy(logits, targets)
    numeric = finite_differences(lambda: layers.cross_entropy(logits, targets)[0], logits)
    assert relative_error(layers.cross_entropy_backward(cache), numeric) < 1e-6


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    y, mask = layers.dropout(np.full((400, 500), 2, np.float32), 0.25, np.random.default_rng(0))
    assert y.dtype == mask.dtype == np.float32
    assert set(np.unique(y)) == {np.float32(0), np.float32(2) / np.float32(0.75)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert y.mean() == pytest.approx(2, abs=0.02)


def test_rotary_scores_depend_on_distance_alone():
    query, key = normal(1, 4), normal(1, 4)
    turns = np.exp(1j * np.arange(9)[:, None] * np.array([1.0, 0.1]))
    queries, keys = (layers.rotate(np.tile(one, (9, 1)), turns) for one in (query, key))
    scores = queries @ keys.T
    for distance in range(-4, 5):
        assert np.diagonal(scores, distance) == pytest.approx(scores[4, 4 + distance])


def test_layer_norm_is_what_its_formula_says():
    x, gain, bias = 0.01 * normal(N, D) + 2, normal(D), normal(D)  # small enough for ε to count
    y, _ = layers.layer_norm(x, gain, bias)
    for row, expected in zip(x, y):
        std = np.sqrt(row.var() + 1e-5)
        assert expected == pytest.approx(gain * (row - row.mean()) / std + bias)


def test_gelu_is_the_tanh_form_and_its_slope_matches_finite_differences():
    x = np.linspace(-6, 6, 101)
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    y, slope = layers.gelu(x)
    assert y == pytest.approx(expected, abs=1e-12)
    numeric = finite_differences(lambda: float(layers.gelu(x)[0].sum()), x)
    assert relative_error(slope, numeric) < 1e-6


@pytest.mark.filterwarnings("error")
def test_extreme_numbers_stay_finite_and_quiet():
    x = np.array([[-1e4, -50, 0, 50, 1e4]], np.float32)
    y, slope = layers.gelu(x)
    assert y == pytest.approx(np.array([[0, 0, 0, 50, 1e4]]))
    assert np.isfinite(slope).all()
    assert layers.softmax(x) == pytest.approx(np.array([[0, 0, 0, 0, 1]]))
    loss, _ = layers.cross_entropy(x, np.array([0]))
    assert loss == pytest.approx(2e4)
