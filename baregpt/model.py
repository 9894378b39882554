"""The model: its configuration, its parameters, and the passes through all of its layers."""

import math
from dataclasses import dataclass, fields

import numpy as np

from baregpt import layers
from baregpt.layers import Cache


@dataclass(frozen=True)
class Config:
    """The shape of a GPT; ValueError if the numbers do not fit together.

    vocab_size V: characters. block_size T: the longest context. d_model D: width. n_heads H: must
    divide D. n_layers L: blocks. rotary: queries and keys also turn with their position.
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
                rule = "True or False" if field.type is bool else "a whole number above 0"
                raise ValueError(f"{field.name} is {value!r}: it must be {rule}")
        if self.d_model % (self.n_heads * (1 + self.rotary)):
            times = "twice n_heads" if self.rotary else "n_heads"  # rotary turns pairs
            rule = f"it must be a multiple of {times}, {self.n_heads}"
            raise ValueError(f"d_model is {self.d_model}: {rule}")


def parameter_shapes(config):
    """Name -> shape of every parameter, in the order in which they lie in memory."""
    V, T, D = config.vocab_size, config.block_size, config.d_model
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
    """Cut one flat buffer into named arrays that share its memory."""
    stops = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = zip(shapes.items(), np.split(flat, stops))
    return {name: part.reshape(shape) for (name, shape), part in parts}


class Past:
    """What layers need to know of earlier positions, of B sequences.

    heads (L, 2, B, H, T, d): keys and values, for `layers.attention`. inputs (L, 2, B, 3 + T, D),
    for `layers.convolution`: those of the three positions before the first are zero, and stay so.
    """

    def __init__(self, config, batch, dtype):
        T, D, H = config.block_size, config.d_model, config.n_heads
        self.heads = np.empty((config.n_layers, 2, batch, H, T, D // H), dtype)
        self.inputs = np.zeros((config.n_layers, 2, batch, layers.REACH + T, D), dtype)

    def part(self, layer, start, stop):
        """What one layer is to know, when it gets the positions from `start` to `stop`."""
        inputs = self.inputs[layer, :, :, start : stop + layers.REACH]
        return Cache(heads=self.heads[layer, :, :, :, :stop], inputs=inputs)


class GPT:
    """A decoder-only Transformer with hand-derived gradients: GPT-2 (Radford et al. 2019) at toy
    size, but without a LayerNorm before the head, without biases in attention, and with a head of
    its own, with a bias, where GPT-2 uses the token embedding again.

    `parameters` maps name -> array, views of the one buffer `flat`, so that a copy of the whole
    model is one assignment; `n_parameters` counts the numbers. The same config, seed and dtype give
    the same initial parameters.
    """

    def __init__(self, config, seed=0, dtype=np.float32):
        self.config = config
        shapes = parameter_shapes(config)
        self.n_parameters = sum(math.prod(shape) for shape in shapes.values())
        self.flat = np.zeros(self.n_parameters, dtype)
        self.parameters = named_views(self.flat, shapes)
        self.blocks = [self.part(f"blocks.{i}.") for i in range(config.n_layers)]
        pairs = config.d_model // config.n_heads // 2
        speeds = 10000.0 ** -np.linspace(0, 1, pairs, endpoint=False)  # of each pair
        angles = np.outer(np.arange(config.block_size), speeds)  # (T, d / 2), in radians
        self.turns = np.exp(1j * angles).astype(np.result_type(dtype, np.complex64))
        random = np.random.default_rng(seed)
        for name, parameter in self.parameters.items():  # what is not set here stays at zero
            adds_to_x = name.endswith(("attention.out", "mlp.w2"))  # blocks add nothing at first
            if name.endswith("gain"):
                parameter[...] = 1
            elif parameter.ndim == 2 and not adds_to_x and ".conv" not in name:
                parameter[...] = random.normal(0, len(parameter) ** -0.5, parameter.shape)

    def part(self, prefix):
        """The parameters whose names begin so, by the rest of their names."""
        named = self.parameters.items()
        return {name.removeprefix(prefix): p for name, p in named if name.startswith(prefix)}

    def forward(self, ids, past=None, start=0, dropout=0.0, random=None):
        """ids (B, T) from position `start` on -> logits (N, V), cache.

        past: a Past, which calls for earlier positions have filled.
        """
        config = self.config
        ids = np.asarray(ids)
        stop = start + ids.shape[1]
        if not start < stop <= config.block_size:
            rule = f"it must have 1 to block_size, {config.block_size}, ids"
            raise ValueError(f"a sequence of {stop}: {rule}")
        if ids.min() < 0 or ids.max() >= config.vocab_size:
            rule = f"they must be 0 to {config.vocab_size - 1}"
            raise ValueError(f"ids go from {ids.min()} to {ids.max()}: {rule}")
        tokens = self.parameters["token_embedding"]
        positions = self.parameters["position_embedding"][start:]
        turns = self.turns[start:stop] if config.rotary else None
        x, embed = layers.embedding(ids, tokens, positions)
        caches = []
        for i, block in enumerate(self.blocks):
            seen = past and past.part(i, start, stop)
            shape = config.n_heads, ids.shape[1]
            x, cache = layers.block(x, block, *shape, turns, seen, dropout, random)
            caches.append(cache)
        logits = x @ self.parameters["head.weight"] + self.parameters["head.bias"]
        return logits, Cache(embedding=embed, blocks=caches, x=x)

    def backward(self, dlogits, cache):
        """dlogits (N, V) -> name -> gradient: the mirror of `forward`."""
        gradients = {"head.weight": cache.x.T @ dlogits, "head.bias": dlogits.sum(axis=0)}
        dx = dlogits @ self.parameters["head.weight"].T
        for i in reversed(range(self.config.n_layers)):
            dx, dblock = layers.block_backward(dx, cache.blocks[i])
            gradients |= {f"blocks.{i}.{name}": gradient for name, gradient in dblock.items()}
        _, dembedding = layers.embedding_backward(dx, cache.embedding)
        gradients["token_embedding"] = dembedding["tokens"]
        gradients["position_embedding"] = dembedding["positions"]
        return gradients

    def logits(self, ids):
        """ids (B, T) -> unnormalized log-probabilities of each next character, (B, T, V)."""
        return self.forward(ids)[0].reshape(*np.shape(ids), -1)

    def loss(self, ids, targets):
        """Mean cross-entropy, nats a character, of `targets` (B, T): the characters that follow
        `ids` (B, T).
        """
        return layers.cross_entropy(self.forward(ids)[0], np.ravel(targets))[0]

    def loss_and_gradients(self, ids, targets, dropout=0.0, seed=None):
        """The same loss, and its gradients: name -> array, with the names and shapes of
        `parameters`.

        dropout: the share of what each layer adds to x that is left out, at random, for this once.
        """
        random = np.random.default_rng(seed) if dropout else None
        logits, cache = self.forward(ids, dropout=dropout, random=random)
        loss, loss_cache = layers.cross_entropy(logits, np.ravel(targets))
        return loss, self.backward(layers.cross_entropy_backward(loss_cache), cache)

    def attention(self, ids):
        """For each layer the attention weights, (B, H, T, T): row i is what position i attends to,
        and sums to 1.
        """
        caches = self.forward(ids)[1].blocks
        return [layers.attention_map(cache.attention) for cache in caches]
