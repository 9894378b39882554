"""Every backward function against finite differences, in float64."""

import numpy as np
import pytest
from gradients import check_gradients, finite_differences, relative_error

from baregpt import layers

rng = np.random.default_rng(0)
B, T, D, H, V = 2, 5, 8, 2, 7
N = B * T


def normal(*shape):
    return rng.normal(0, 1, shape)


IDS = rng.integers(0, V, (B, T))
PHASES = np.exp(1j * normal(T, D // H // 2))
TABLES = {"token_embedding": normal(V, D), "position_embedding": normal(T + 1, D)}
BLOCK_PARAMETERS = {
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


def parameters_of(layer):
    """The block's parameters of one layer, by their names in that layer."""
    prefix = f"{layer}."
    return {
        name.removeprefix(prefix): parameter
        for name, parameter in BLOCK_PARAMETERS.items()
        if name.startswith(prefix)
    }


def naive_attention(x, w_qkv, w_out, n_heads, length, rope_phases=None):
    """Causal attention step by step, one sequence and one head at a time: the reference."""
    d = x.shape[1] // n_heads
    outputs = []
    for sequence in x.reshape(-1, length, x.shape[1]):  # (T, D)
        q, k, v = np.split(sequence @ w_qkv, 3, axis=1)
        if rope_phases is not None:
            phases = np.tile(rope_phases, n_heads)
            q, k = (layers.apply_rope(np.ascontiguousarray(one), phases) for one in (q, k))
        heads = []
        for columns in np.split(np.arange(x.shape[1]), n_heads):
            scores = q[:, columns] @ k[:, columns].T / np.sqrt(d)  # (T, T)
            scores[np.triu_indices(length, 1)] = -np.inf  # no position sees a later one
            attn = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            heads.append(attn @ v[:, columns])  # (T, d)
        outputs.append(np.hstack(heads) @ w_out)
    return np.concatenate(outputs)


def embedding(x, token_embedding, position_embedding):
    return layers.embedding(IDS, token_embedding, position_embedding)


def attention(x, qkv, out, n_heads=H, length=T, rope_phases=None):
    return layers.attention(x, qkv, out, n_heads, length, rope_phases)


def attention_with_one_head(x, qkv, out):
    return attention(x, qkv, out, n_heads=1)


def attention_of_one_position(x, qkv, out):
    return attention(x, qkv, out, length=1)


def rotary_attention(x, qkv, out):
    return attention(x, qkv, out, rope_phases=PHASES)


def block(x, **parameters):
    return layers.block(x, parameters, H, T)


def block_with_dropout(x, **parameters):
    same_each_time = np.random.default_rng(3)
    return layers.block(x, parameters, H, T, dropout_rate=0.4, rng=same_each_time)


@pytest.fixture(params=[64, 2], ids=["one tile", "several tiles"], autouse=True)
def query_tile(request, monkeypatch):
    monkeypatch.setattr(layers, "QUERY_TILE", request.param)


@pytest.mark.parametrize(
    ("forward", "backward", "parameters"),
    [
        (embedding, layers.embedding_backward, TABLES),
        (layers.layer_norm, layers.layer_norm_backward, parameters_of("ln1")),
        (layers.mlp, layers.mlp_backward, parameters_of("mlp")),
        (attention, layers.attention_backward, parameters_of("attention")),
        (attention_with_one_head, layers.attention_backward, parameters_of("attention")),
        (attention_of_one_position, layers.attention_backward, parameters_of("attention")),
        (rotary_attention, layers.attention_backward, parameters_of("attention")),
        (block, layers.block_backward, BLOCK_PARAMETERS),
        (block_with_dropout, layers.block_backward, BLOCK_PARAMETERS),
    ],
)
def test_gradients_match_finite_differences(forward, backward, parameters):
    x = normal(N, D)
    y, saved = forward(x, **parameters)
    dy = normal(*y.shape)  # the loss is Σ y · dy, so its gradient with respect to y is dy
    dx, gradients = backward(dy, saved)

    def loss():
        return float((forward(x, **parameters)[0] * dy).sum())

    if dx is None:  # ids have no gradient
        check_gradients(loss, parameters, gradients)
    else:
        check_gradients(loss, {"dx": x, **parameters}, {"dx": dx, **gradients})


def test_a_wrong_gradient_is_named_with_the_one_nearest_to_the_fault_first():
    x, dy = normal(N, D), normal(N, D)
    _, saved = block(x, **BLOCK_PARAMETERS)
    saved.ln2.inverse_std = saved.ln2.inverse_std * 1.01  # a fault in the second LayerNorm
    dx, gradients = layers.block_backward(dy, saved)

    def loss():
        return float((block(x, **BLOCK_PARAMETERS)[0] * dy).sum())

    with pytest.raises(AssertionError, match=r"first: attention\.out .*, dx ") as failure:
        check_gradients(loss, {"dx": x, **BLOCK_PARAMETERS}, {"dx": dx, **gradients})
    assert "mlp" not in str(failure.value)


@pytest.mark.parametrize("rope_phases", [None, PHASES])
@pytest.mark.parametrize("tile", [1, 2, 3, T])
def test_attention_matches_the_naive_reference(monkeypatch, tile, rope_phases):
    monkeypatch.setattr(layers, "QUERY_TILE", tile)
    x, w_qkv, w_out = normal(N, D), normal(D, 3 * D), normal(D, D)
    y, saved = layers.attention(x, w_qkv, w_out, H, T, rope_phases)
    assert len(saved.attn_tiles) == -(-T // tile)
    assert y == pytest.approx(naive_attention(x, w_qkv, w_out, H, T, rope_phases), rel=1e-12)


@pytest.mark.parametrize("tile", [1, 2, 3])
def test_result_is_independent_of_the_tile_size(monkeypatch, tile):
    x, w_qkv, w_out, dy = normal(N, D), normal(D, 3 * D), normal(D, D), normal(N, D)
    results = []
    for size in (T, tile):
        monkeypatch.setattr(layers, "QUERY_TILE", size)
        y, saved = layers.attention(x, w_qkv, w_out, H, T)
        dx, gradients = layers.attention_backward(dy, saved)
        results.append([y, dx, gradients["qkv"], gradients["out"], layers.attention_map(saved)])
    for in_one_tile, in_several in zip(*results):
        assert in_several == pytest.approx(in_one_tile, rel=1e-12, abs=1e-12)


def test_attention_with_a_kv_cache_matches_the_whole_sequence(monkeypatch):
    monkeypatch.setattr(layers, "QUERY_TILE", 2)
    x, w_qkv, w_out = normal(N, D), normal(D, 3 * D), normal(D, D)
    whole, _ = layers.attention(x, w_qkv, w_out, H, T)
    kv_cache = np.empty((2, B, H, T, D // H))
    pieces = []
    for start, stop in ((0, 1), (1, 4), (4, 5)):
        piece = x.reshape(B, T, D)[:, start:stop].reshape(-1, D)
        kv = kv_cache[:, :, :, :stop]
        y, _ = layers.attention(piece, w_qkv, w_out, H, stop - start, kv=kv)
        pieces.append(y.reshape(B, -1, D))
    result = np.concatenate(pieces, axis=1).reshape(N, D)
    assert result == pytest.approx(whole, rel=1e-12, abs=1e-12)


def test_softmax_gradients_match_finite_differences():
    x, dy = normal(3, 4, 5), normal(3, 4, 5)
    dx = layers.softmax_backward(dy, layers.softmax(x))
    numeric = finite_differences(lambda: float((layers.softmax(x) * dy).sum()), x)
    assert relative_error(dx, numeric) < 1e-6


def test_cross_entropy_gradients_match_finite_differences():
    logits, targets = normal(N, V), rng.integers(0, V, N)
    _, cache = layers.cross_entropy(logits, targets)
    numeric = finite_differences(lambda: layers.cross_entropy(logits, targets)[0], logits)
    assert relative_error(layers.cross_entropy_backward(cache), numeric) < 1e-6


def test_dropout_zeroes_at_its_rate_and_keeps_the_mean():
    y, mask = layers.dropout(np.full((400, 500), 2, np.float32), 0.25, np.random.default_rng(0))
    assert y.dtype == mask.dtype == np.float32
    assert set(np.unique(y)) == {np.float32(0), np.float32(2) / np.float32(0.75)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert y.mean() == pytest.approx(2, abs=0.02)


def test_rotary_scores_depend_only_on_the_distance():
    query, key = normal(1, 4), normal(1, 4)
    phases = np.exp(1j * np.arange(9)[:, None] * np.array([1.0, 0.1]))
    queries, keys = (layers.apply_rope(np.tile(one, (9, 1)), phases) for one in (query, key))
    scores = queries @ keys.T
    for distance in range(-4, 5):
        assert np.diagonal(scores, distance) == pytest.approx(scores[4, 4 + distance])


def test_layer_norm_matches_its_formula():
    x, gain, bias = 0.01 * normal(N, D) + 2, normal(D), normal(D)  # small enough for ε to matter
    y, _ = layers.layer_norm(x, gain, bias)
    for row, actual in zip(x, y):
        std = np.sqrt(row.var() + 1e-5)
        assert actual == pytest.approx(gain * (row - row.mean()) / std + bias)


def test_gelu_and_its_derivative():
    x = np.linspace(-6, 6, 101)
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    y, slope = layers.gelu(x)
    assert y == pytest.approx(expected, abs=1e-12)
    numeric = finite_differences(lambda: float(layers.gelu(x)[0].sum()), x)
    assert relative_error(slope, numeric) < 1e-6


@pytest.mark.filterwarnings("error")
def test_extreme_inputs_give_no_overflow_and_no_warning():
    x = np.array([[-1e4, -50, 0, 50, 1e4]], np.float32)
    y, slope = layers.gelu(x)
    assert y == pytest.approx(np.array([[0, 0, 0, 50, 1e4]]))
    assert np.isfinite(slope).all()
    assert layers.softmax(x) == pytest.approx(np.array([[0, 0, 0, 0, 1]]))
    loss, _ = layers.cross_entropy(x, np.array([0]))
    assert loss == pytest.approx(2e4)
