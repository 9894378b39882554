"""The same model in PyTorch, in the usual fast form: fused attention, fused Adam."""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.n_heads = config.d_model, config.n_heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.w1, self.w2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, kv_cache):
        batch, length, width = x.shape
        heads = (
            self.qkv(self.ln1(x)).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        )
        query, key, value = heads.unbind(0)
        if kv_cache is not None:
            if kv_cache:
                key, value = torch.cat([kv_cache[0], key], 2), torch.cat([kv_cache[1], value], 2)
            kv_cache[:] = [key, value]
        head_out = functional.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
        x = x + self.out(head_out.transpose(1, 2).reshape(batch, length, width))
        return x + self.w2(functional.gelu(self.w1(self.ln2(x)), approximate="tanh"))


class TorchGPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Parameter(torch.zeros(config.block_size, config.d_model))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.head = nn.Linear(config.d_model, config.vocab_size)

    def forward(self, ids, kv_cache=None, start=0):
        x = self.tokens(ids) + self.positions[start : start + ids.shape[1]]
        for i, block in enumerate(self.blocks):
            x = block(x, kv_cache[i] if kv_cache is not None else None)
        return self.head(x)

    def loss(self, ids, targets):
        return functional.cross_entropy(self(ids).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def load(self, parameters):
        """Copy the parameters of a baregpt model."""
        p = {name: torch.from_numpy(array) for name, array in parameters.items()}
        self.tokens.weight.copy_(p["token_embedding"])
        self.positions.copy_(p["position_embedding"])
        self.head.weight.copy_(p["head.weight"].T)
        self.head.bias.copy_(p["head.bias"])
        for i, block in enumerate(self.blocks):
            for layer in ("ln1", "ln2"):
                getattr(block, layer).weight.copy_(p[f"blocks.{i}.{layer}.gain"])
                getattr(block, layer).bias.copy_(p[f"blocks.{i}.{layer}.bias"])
            block.qkv.weight.copy_(p[f"blocks.{i}.attention.qkv"].T)
            block.out.weight.copy_(p[f"blocks.{i}.attention.out"].T)
            for layer in ("1", "2"):
                getattr(block, f"w{layer}").weight.copy_(p[f"blocks.{i}.mlp.w{layer}"].T)
                getattr(block, f"w{layer}").bias.copy_(p[f"blocks.{i}.mlp.b{layer}"])

    @torch.inference_mode()
    def generate(self, ids, count, temperature, top_k, cached):
        """Yield `count` ids that continue the list `ids`.

        With a KV cache, keep only the last quarter of the context when it is full.
        """
        size = self.config.block_size
        new, kv_cache, start = ids[-size:], [[] for _ in self.blocks], 0
        for _ in range(count):
            if not cached:
                new, kv_cache, start = ids[-size:], None, 0
            elif start + len(new) > size:
                new, kv_cache, start = ids[-(size // 4) :], [[] for _ in self.blocks], 0
            logits = self(torch.tensor([new]), kv_cache, start)[0, -1] / temperature
            start += len(new)
            values, candidates = torch.topk(logits, top_k)
            choice = candidates[torch.multinomial(functional.softmax(values, dim=-1), 1)].item()
            new, ids = [choice], [*ids[-size:], choice]
            yield choice


def train_step(model, compiled):
    """Return a function of (inputs, targets) that runs one training step."""
    loss_of = torch.compile(model.loss) if compiled else model.loss
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)

    def step(inputs, targets):
        loss = loss_of(torch.from_numpy(inputs), torch.from_numpy(targets))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step
