"""The model: its configuration, its parameters, and the passes through all of its layers."""

import math
from dataclasses import dataclass, fields

import numpy as np

from baregpt import layers
from baregpt.layers import Saved


@dataclass(frozen=True)
class Config:
    """The shape of a GPT.

    Parameters
    ----------
    vocab_size : number of characters, V
    block_size : maximum context length in characters; T is a sequence length up to it
    d_model : model width, D; must be divisible by n_heads
    n_heads : attention heads in each block, H
    n_layers : number of blocks, L
    rotary : apply rotary position embeddings to queries and keys

    Raises ValueError if a value is out of range or if the values are incompatible.
    """

    vocab_size: int
    block_size: int = 128
    d_model: int = 256
    n_heads: int = 4
    n_layers: int = 2
    rotary: bool = False

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type or (field.type is int and value < 1):
                kind = "True or False" if field.type is bool else "a positive int"
                raise ValueError(f"{field.name} must be {kind}, got {value!r}")
        d_model, n_heads = self.d_model, self.n_heads
        if d_model % n_heads:
            raise ValueError(f"d_model ({d_model}) must be divisible by n_heads ({n_heads})")
        if self.rotary and d_model // n_heads % 2:
            raise ValueError(f"d_model / n_heads ({d_model // n_heads}) must be even with rotary")


def parameter_shapes(config):
    """Return a dict from parameter names to shapes, in the order of their storage in `flat`."""
    V, T, D = config.vocab_size, config.block_size, config.d_model  # T: the longest sequence
    shapes: dict[str, tuple[int, ...]] = {"token_embedding": (V, D), "position_embedding": (T, D)}
    for i in range(config.n_layers):
        shapes |= {
            f"blocks.{i}.ln1.gain": (D,),
            f"blocks.{i}.ln1.bias": (D,),
            f"blocks.{i}.attention.qkv": (D, 3 * D),
            f"blocks.{i}.attention.out": (D, D),
            f"blocks.{i}.ln2.gain": (D,),
            f"blocks.{i}.ln2.bias": (D,),
            f"blocks.{i}.mlp.w1": (D, 4 * D),
            f"blocks.{i}.mlp.b1": (4 * D,),
            f"blocks.{i}.mlp.w2": (4 * D, D),
            f"blocks.{i}.mlp.b2": (D,),
        }
    return shapes | {"head.weight": (D, V), "head.bias": (V,)}


def named_views(flat, shapes):
    """Split a flat buffer into arrays of these shapes that share its memory: name -> array."""
    stops = np.cumsum([math.prod(shape) for shape in shapes.values()])
    pieces = np.split(flat, stops)
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces)}


def initialize(parameters, seed):
    """Fill in the initial parameters, in place; those that are not set here stay zero.

    A matrix is drawn from N(0, 1 / fan_in), where fan_in is its number of rows. An output is a sum
    over fan_in inputs, so its variance is that of an input. The matrices that write to the residual
    stream start at zero, so every block starts as the identity. The rows of the embedding tables
    are not summed: the residual stream starts with variance 1 / V + 1 / block_size, and the first
    LayerNorm rescales it.
    """
    rng = np.random.default_rng(seed)
    for name, parameter in parameters.items():
        writes_to_residual = name.endswith(("attention.out", "mlp.w2"))
        if name.endswith("gain"):
            parameter[...] = 1
        elif parameter.ndim == 2 and not writes_to_residual:
            parameter[...] = rng.normal(0, len(parameter) ** -0.5, parameter.shape)


def rotary_phases(config, dtype):
    """Phases for `layers.apply_rope`, exp(i · position · frequency): complex (block_size, d / 2).

    The frequencies are 1000^(-2k / d) for the pairs k = 0 to d / 2 - 1. The usual base is 10,000;
    with it, half of the pairs rotate by less than half a turn in 256 characters.
    """
    d = config.d_model // config.n_heads
    frequencies = 1000.0 ** -np.linspace(0, 1, d // 2, endpoint=False)  # 2k / d from 0 to 1
    angles = np.outer(np.arange(config.block_size), frequencies)  # in radians
    return np.exp(1j * angles).astype(np.result_type(dtype, np.complex64))


class GPT:
    """A decoder-only Transformer with hand-written gradients.

    The architecture is that of GPT-2 (Radford et al. 2019) with three differences: no final
    LayerNorm, no biases in attention, and an output head that is not tied to the token embedding
    and has a bias. Rotary embeddings are optional. `initialize` says how it is initialized.

    Attributes
    ----------
    config : Config
    parameters : dict from name to array; views of `flat`
    flat : all parameters in one contiguous buffer, (n_parameters,)
    n_parameters : number of parameters

    The same config, seed and dtype give the same initial parameters.
    """

    def __init__(self, config, seed=0, dtype=np.float32):
        shapes = parameter_shapes(config)
        self.config = config
        self.n_parameters = sum(math.prod(shape) for shape in shapes.values())
        self.flat = np.zeros(self.n_parameters, dtype)
        self.parameters = named_views(self.flat, shapes)
        self.blocks = [self._subset(f"blocks.{i}.") for i in range(config.n_layers)]
        self.rope_phases = rotary_phases(config, dtype) if config.rotary else None
        initialize(self.parameters, seed)

    def _subset(self, prefix):
        """The parameters whose names start with `prefix`, named without it."""
        named = self.parameters.items()
        return {name.removeprefix(prefix): p for name, p in named if name.startswith(prefix)}

    def new_kv_cache(self, batch_size):
        """Return an empty KV cache for `forward`: (L, 2, B, H, block_size, d), keys and values."""
        T, H, L = self.config.block_size, self.config.n_heads, self.config.n_layers
        return np.empty((L, 2, batch_size, H, T, self.config.d_model // H), self.flat.dtype)

    def forward(self, ids, kv_cache=None, start=0, dropout=0.0, rng=None):
        """Compute logits: ids (B, T) at the positions from `start` on -> logits (N, V), saved.

        With a `kv_cache`, the keys and values before `start` must come from earlier calls. Raises
        ValueError if ids are out of range or extend past block_size.
        """
        ids = np.asarray(ids)
        length, n_heads = ids.shape[1], self.config.n_heads
        stop, block_size = start + length, self.config.block_size
        if not 1 <= length <= block_size - start:
            raise ValueError(f"sequence length must be 1 to block_size ({block_size}), got {stop}")
        tokens = self.parameters["token_embedding"]
        positions = self.parameters["position_embedding"][start:]
        phases = None if self.rope_phases is None else self.rope_phases[start:stop]
        x, saved_embedding = layers.embedding(ids, tokens, positions)
        saved_blocks = []
        for i, p in enumerate(self.blocks):
            kv = None if kv_cache is None else kv_cache[i, :, :, :, :stop]
            x, saved = layers.block(x, p, n_heads, length, phases, kv, dropout, rng)
            saved_blocks.append(saved)
        logits = x @ self.parameters["head.weight"] + self.parameters["head.bias"]
        return logits, Saved(embedding=saved_embedding, blocks=saved_blocks, x=x)

    def backward(self, dlogits, saved):
        """Backward pass of `forward` without a KV cache: dlogits (N, V) -> dict from parameter name
        to gradient.
        """
        gradients = {"head.weight": saved.x.T @ dlogits, "head.bias": dlogits.sum(axis=0)}
        dx = dlogits @ self.parameters["head.weight"].T
        for i in reversed(range(self.config.n_layers)):
            dx, block_gradients = layers.block_backward(dx, saved.blocks[i])
            gradients |= {f"blocks.{i}.{name}": g for name, g in block_gradients.items()}
        _, embedding_gradients = layers.embedding_backward(dx, saved.embedding)
        return gradients | embedding_gradients

    def logits(self, ids):
        """Return the logits of the next character at each position: ids (B, T) -> (B, T, V)."""
        return self.forward(ids)[0].reshape(*np.shape(ids), -1)

    def loss(self, ids, targets):
        """Return the mean cross-entropy in nats per character.

        ids (B, T); targets (B, T), the character that follows each of them.
        """
        return layers.cross_entropy(self.forward(ids)[0], np.reshape(targets, np.size(ids)))[0]

    def loss_and_gradients(self, ids, targets, dropout=0.0, seed=None):
        """Return the loss, as `loss` does, and a dict from each parameter's name to its gradient.

        dropout: dropout probability for the output of each attention and MLP layer. `seed`
        determines the masks.
        """
        rng = np.random.default_rng(seed) if dropout else None
        logits, saved = self.forward(ids, dropout=dropout, rng=rng)
        loss, saved_loss = layers.cross_entropy(logits, np.reshape(targets, np.size(ids)))
        return loss, self.backward(layers.cross_entropy_backward(saved_loss), saved)

    def attention(self, ids):
        """Return the attention weights of each layer: ids (B, T) -> list of (B, H, T, T).

        Row i holds the weights of the positions that position i attends to; they sum to 1.
        """
        return [layers.attention_map(saved.attention) for saved in self.forward(ids)[1].blocks]
