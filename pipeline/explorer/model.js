"use strict";
// The forward pass of baregpt/layers.py, function by function, for one sequence. Arrays are flat, in
// row-major order: x (N, D) holds the N positions from `start`. A `cache` per layer keeps the keys,
// values, attention weights and MLP activations of earlier positions.

const LAYER_NORM_EPSILON = 1e-5, GELU_SCALE = Math.sqrt(2 / Math.PI), GELU_CUBIC = 0.044715;

function float16(bits) {  // sign, 5 bits of exponent, 10 of fraction -> number
  const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function decode(base64) {  // little-endian float16 -> Float32Array
  const text = atob(base64), numbers = new Float32Array(text.length / 2);
  const table = Float32Array.from({length: 65536}, (_, bits) => float16(bits));
  for (let i = 0; i < numbers.length; i++) numbers[i] = table[text.charCodeAt(2 * i) | text.charCodeAt(2 * i + 1) << 8];
  return numbers;
}

function product(x, w, inner, bias) {  // x (N, inner) @ w (inner, outer) + bias, four rows of w at a time
  const outer = w.length / inner, rows = x.length / inner, y = new Float32Array(rows * outer);
  for (let r = 0; r < rows; r++) {
    const row = y.subarray(r * outer, (r + 1) * outer);
    if (bias) row.set(bias);
    let i = 0;
    for (; i + 3 < inner; i += 4) {
      const at = r * inner + i, a = x[at], b = x[at + 1], c = x[at + 2], d = x[at + 3];
      let k = i * outer, l = k + outer, m = l + outer, n = m + outer;
      for (let o = 0; o < outer; o++) row[o] += a * w[k++] + b * w[l++] + c * w[m++] + d * w[n++];
    }
    for (; i < inner; i++) for (let o = 0; o < outer; o++) row[o] += x[r * inner + i] * w[i * outer + o];
  }
  return y;
}

function embedding(ids, tokens, positions, start, width) {  // -> (N, D): token plus position
  const y = new Float32Array(ids.length * width);
  for (let n = 0; n < ids.length; n++) for (let i = 0; i < width; i++)
    y[n * width + i] = tokens[ids[n] * width + i] + positions[(start + n) * width + i];
  return y;
}

function layer_norm(x, gain, bias) {  // each row: gain (x - mean) / std + bias
  const width = gain.length, y = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += width) {
    let sum = 0, squares = 0;
    for (let i = 0; i < width; i++) sum += x[at + i];
    const mean = sum / width;
    for (let i = 0; i < width; i++) squares += (x[at + i] - mean) ** 2;
    const inverse_std = (squares / width + LAYER_NORM_EPSILON) ** -0.5;
    for (let i = 0; i < width; i++) y[at + i] = (x[at + i] - mean) * inverse_std * gain[i] + bias[i];
  }
  return y;
}

function gelu(x) { return x.map(v => v * (1 + Math.tanh(GELU_SCALE * (v + GELU_CUBIC * v * v * v))) / 2); }

function mlp(x, w1, b1, w2, b2, start, cache) {  // GELU(x W1 + b1) W2 + b2
  const hidden = gelu(product(x, w1, b2.length, b1));
  cache.hidden.set(hidden, start * b1.length);
  return product(hidden, w2, b1.length, b2);
}

function softmax(x) {
  const largest = x.reduce((a, b) => Math.max(a, b), -Infinity), y = x.map(v => Math.exp(v - largest));
  const sum = y.reduce((a, b) => a + b, 0);
  return y.map(v => v / sum);
}

function apply_rope(x, rope_phases, at) {  // rotate pairs of x (d,) by their phases at a position, in place
  for (let i = 0; i < x.length; i += 2) {
    const cos = rope_phases[at * x.length + i], sin = rope_phases[at * x.length + i + 1], real = x[i], imaginary = x[i + 1];
    x[i] = real * cos - imaginary * sin;
    x[i + 1] = real * sin + imaginary * cos;
  }
}

function attention(x, w_qkv, w_out, n_heads, start, rope_phases, cache, off) {  // off: set of heads that are switched off
  const D = Math.sqrt(w_out.length), d = D / n_heads, T = cache.key.length / D, rows = x.length / D;
  const qkv = product(x, w_qkv, D), head_out = new Float32Array(x.length);
  for (let n = 0; n < rows; n++) {
    const i = start + n, row = qkv.subarray(n * 3 * D, (n + 1) * 3 * D);
    if (rope_phases) for (let at = 0; at < 2 * D; at += d) apply_rope(row.subarray(at, at + d), rope_phases, i);
    cache.key.set(row.subarray(D, 2 * D), i * D);
    cache.value.set(row.subarray(2 * D), i * D);
    for (let h = 0; h < n_heads; h++) {
      const scores = new Float32Array(i + 1);
      for (let j = 0; j <= i; j++) {
        let score = 0;
        for (let k = h * d; k < h * d + d; k++) score += row[k] * cache.key[j * D + k];
        scores[j] = score / Math.sqrt(d);
      }
      const attn = softmax(scores);
      cache.attn.set(attn, (h * T + i) * T);
      if (off.has(h)) continue;
      for (let j = 0; j <= i; j++)
        for (let k = h * d; k < h * d + d; k++) head_out[n * D + k] += attn[j] * cache.value[j * D + k];
    }
  }
  return product(head_out, w_out, D);
}

function add(x, y) { return x.map((v, i) => v + y[i]); }

function block(x, p, n_heads, start, rope_phases, cache, off) {
  const normed1 = layer_norm(x, p["ln1.gain"], p["ln1.bias"]);
  const attn_out = attention(normed1, p["attention.qkv"], p["attention.out"], n_heads, start, rope_phases, cache, off);
  const residual = add(x, attn_out), normed2 = layer_norm(residual, p["ln2.gain"], p["ln2.bias"]);
  return add(residual, mlp(normed2, p["mlp.w1"], p["mlp.b1"], p["mlp.w2"], p["mlp.b2"], start, cache));
}

class GPT {
  constructor(config, shapes, flat) {  // shapes: [name, shape] of each parameter, in the order of `flat`
    this.config = config;
    this.parameters = {};
    let at = 0;
    for (const [name, shape] of shapes) this.parameters[name] = flat.subarray(at, at += shape.reduce((a, b) => a * b));
    this.blocks = Array.from({length: config.n_layers}, (_, l) => this.subset(`blocks.${l}.`));
    if (!config.rotary) return;
    const d = config.d_model / config.n_heads;
    this.rope_phases = Float32Array.from({length: config.block_size * d}, (_, i) => {
      const angle = Math.floor(i / d) * 1000 ** -(2 * (i % d >> 1) / d);
      return i % 2 ? Math.sin(angle) : Math.cos(angle);
    });
  }

  subset(prefix) {  // the parameters of a prefix, by the rest of their names
    const named = Object.entries(this.parameters).filter(([name]) => name.startsWith(prefix));
    return Object.fromEntries(named.map(([name, p]) => [name.slice(prefix.length), p]));
  }
}

class Reader {  // the model on one text; when the text changes, computes only the positions from the first change
  constructor(model) {
    const {block_size: T, d_model: D, n_heads: H, n_layers: L, vocab_size: V} = this.config = model.config;
    this.model = model;
    this.ids = [];
    this.off = Array.from({length: L}, () => new Set());
    this.x = Array.from({length: L + 1}, () => new Float32Array(T * D));  // the residual stream before each block and after the last
    this.logits = new Float32Array(T * V);
    this.caches = Array.from({length: L}, () => ({key: new Float32Array(T * D), value: new Float32Array(T * D),
      attn: new Float32Array(H * T * T), hidden: new Float32Array(T * 4 * D)}));
  }

  read(ids) {  // -> number of positions computed
    let start = 0;
    while (start < ids.length && ids[start] === this.ids[start]) start++;
    this.ids = [...ids];
    if (start === ids.length) return 0;
    const {d_model: D, n_layers: L} = this.config, p = this.model.parameters;
    this.x[0].set(embedding(ids.slice(start), p.token_embedding, p.position_embedding, start, D), start * D);
    this.run(0, start);
    return ids.length - start;
  }

  run(layer, start) {  // the blocks from `layer`, for the positions from `start`
    const {d_model: D, n_heads, n_layers, vocab_size: V} = this.config, stop = this.ids.length;
    for (let l = layer; l < n_layers; l++) {
      const x = this.x[l].subarray(start * D, stop * D);
      this.x[l + 1].set(block(x, this.model.blocks[l], n_heads, start, this.model.rope_phases, this.caches[l], this.off[l]), start * D);
    }
    this.logits.set(this.head(this.x[n_layers].subarray(start * D, stop * D)), start * V);
  }

  head(x) { return product(x, this.model.parameters["head.weight"], this.config.d_model, this.model.parameters["head.bias"]); }

  lens(layer, i) {  // logits (V,): the head applied to the residual stream before block `layer`, position i
    return this.head(this.x[layer].subarray(i * this.config.d_model, (i + 1) * this.config.d_model));
  }

  weights(layer, head, i) {  // attention weights of query i over keys 0 to i
    const T = this.config.block_size, at = (head * T + i) * T;
    return this.caches[layer].attn.subarray(at, at + i + 1);
  }

  switch(layer, head, on) {
    if (on) this.off[layer].delete(head); else this.off[layer].add(head);
    if (this.ids.length) this.run(layer, 0);
  }

  loss(i) {  // of the prediction of character i + 1, in nats
    const V = this.config.vocab_size;
    return -Math.log(Math.max(1e-30, softmax(this.logits.subarray(i * V, (i + 1) * V))[this.ids[i + 1]]));
  }
}
