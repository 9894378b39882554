"use strict";
// The forward pass of baregpt/layers.py, function by function, for one sequence. Rows lie one after
// another in a Float32Array: x (N, D) are the N positions from `start` on. What earlier positions
// left behind, keys and values above all, is in `past`, so that only what changed is computed.

const LAYER_NORM_EPSILON = 1e-5, GELU_SCALE = Math.sqrt(2 / Math.PI), GELU_CUBIC = 0.044715;

function float16(bits) {  // sign, 5 bits of exponent, 10 of fraction -> number
  const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function decode(base64) {  // little-endian halves -> Float32Array
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

function mlp(x, w1, b1, w2, b2, start, past) {  // widen, GELU, narrow
  const hidden = gelu(product(x, w1, b2.length, b1));
  past.hidden.set(hidden, start * b1.length);
  return product(hidden, w2, b1.length, b2);
}

function softmax(x) {
  const largest = x.reduce((a, b) => Math.max(a, b), -Infinity), y = x.map(v => Math.exp(v - largest));
  const sum = y.reduce((a, b) => a + b, 0);
  return y.map(v => v / sum);
}

function rotate(x, turns, at) {  // neighbours in x (d,), as complex numbers, times their turns at a position
  for (let i = 0; i < x.length; i += 2) {
    const cos = turns[at * x.length + i], sin = turns[at * x.length + i + 1], real = x[i], imaginary = x[i + 1];
    x[i] = real * cos - imaginary * sin;
    x[i + 1] = real * sin + imaginary * cos;
  }
}

function attention(x, qkv, out, n_heads, start, turns, past, off) {  // off: heads that add nothing
  const D = Math.sqrt(out.length), d = D / n_heads, T = past.key.length / D, rows = x.length / D;
  const heads = product(x, qkv, D), mixed = new Float32Array(x.length);
  for (let n = 0; n < rows; n++) {
    const i = start + n, all = heads.subarray(n * 3 * D, (n + 1) * 3 * D);
    if (turns) for (let at = 0; at < 2 * D; at += d) rotate(all.subarray(at, at + d), turns, i);
    past.key.set(all.subarray(D, 2 * D), i * D);
    past.value.set(all.subarray(2 * D), i * D);
    for (let h = 0; h < n_heads; h++) {
      const scores = new Float32Array(i + 1);
      for (let j = 0; j <= i; j++) {
        let score = 0;
        for (let k = h * d; k < h * d + d; k++) score += all[k] * past.key[j * D + k];
        scores[j] = score / Math.sqrt(d);
      }
      const weights = softmax(scores);
      past.weights.set(weights, (h * T + i) * T);
      if (off.has(h)) continue;
      for (let j = 0; j <= i; j++)
        for (let k = h * d; k < h * d + d; k++) mixed[n * D + k] += weights[j] * past.value[j * D + k];
    }
  }
  return product(mixed, out, D);
}

function convolution(x, w, start, past) {  // y[t] = x[t] + sum of w[k] x[t - k]; past (T, D): all that x was
  if (!w) return x;
  const D = w.length / 4, before = start * D;
  past.set(x, before);
  return x.map((v, at) => {
    for (let k = 0; k < 4 && k * D <= before + at; k++) v += w[k * D + at % D] * past[before + at - k * D];
    return v;
  });
}

function add(x, y) { return x.map((v, i) => v + y[i]); }

function block(x, p, n_heads, start, turns, past, off) {
  const mixed1 = convolution(layer_norm(x, p["ln1.gain"], p["ln1.bias"]), p["conv1.weight"], start, past.inputs1);
  const attended = attention(mixed1, p["attention.qkv"], p["attention.out"], n_heads, start, turns, past, off);
  const middle = add(x, attended), normed2 = layer_norm(middle, p["ln2.gain"], p["ln2.bias"]);
  const mixed2 = convolution(normed2, p["conv2.weight"], start, past.inputs2);
  return add(middle, mlp(mixed2, p["mlp.w1"], p["mlp.b1"], p["mlp.w2"], p["mlp.b2"], start, past));
}

class GPT {
  constructor(config, shapes, flat) {  // shapes: [name, shape] of each parameter, as they lie in `flat`
    this.config = config;
    this.parameters = {};
    let at = 0;
    for (const [name, shape] of shapes) this.parameters[name] = flat.subarray(at, at += shape.reduce((a, b) => a * b));
    this.blocks = Array.from({length: config.n_layers}, (_, l) => this.part(`blocks.${l}.`));
    if (!config.rotary) return;
    const d = config.d_model / config.n_heads;
    this.turns = Float32Array.from({length: config.block_size * d}, (_, i) => {
      const angle = Math.floor(i / d) * 10000 ** -(2 * (i % d >> 1) / d);
      return i % 2 ? Math.sin(angle) : Math.cos(angle);
    });
  }

  part(prefix) {
    const named = Object.entries(this.parameters).filter(([name]) => name.startsWith(prefix));
    return Object.fromEntries(named.map(([name, p]) => [name.slice(prefix.length), p]));
  }
}

class Reader {  // one text as the model reads it; knows what it read last, and computes only what differs
  constructor(model) {
    const {block_size: T, d_model: D, n_heads: H, n_layers: L, vocab_size: V} = this.config = model.config;
    this.model = model;
    this.ids = [];
    this.off = Array.from({length: L}, () => new Set());
    this.x = Array.from({length: L + 1}, () => new Float32Array(T * D));  // what each block is given, and the last gives
    this.logits = new Float32Array(T * V);
    this.past = Array.from({length: L}, () => ({key: new Float32Array(T * D), value: new Float32Array(T * D),
      weights: new Float32Array(H * T * T), hidden: new Float32Array(T * 4 * D),
      inputs1: new Float32Array(T * D), inputs2: new Float32Array(T * D)}));
  }

  read(ids) {  // -> how many positions were computed
    let start = 0;
    while (start < ids.length && ids[start] === this.ids[start]) start++;
    this.ids = [...ids];
    if (start === ids.length) return 0;
    const {d_model: D, n_layers: L} = this.config, p = this.model.parameters;
    this.x[0].set(embedding(ids.slice(start), p.token_embedding, p.position_embedding, start, D), start * D);
    this.run(0, start);
    return ids.length - start;
  }

  run(layer, start) {  // the blocks from this one on, for the positions from `start` on
    const {d_model: D, n_heads, n_layers, vocab_size: V} = this.config, stop = this.ids.length;
    for (let l = layer; l < n_layers; l++) {
      const x = this.x[l].subarray(start * D, stop * D);
      this.x[l + 1].set(block(x, this.model.blocks[l], n_heads, start, this.model.turns, this.past[l], this.off[l]), start * D);
    }
    this.logits.set(this.head(this.x[n_layers].subarray(start * D, stop * D)), start * V);
  }

  head(x) { return product(x, this.model.parameters["head.weight"], this.config.d_model, this.model.parameters["head.bias"]); }

  lens(layer, i) {  // logits (V,) read off the residual stream at position i before block `layer`
    return this.head(this.x[layer].subarray(i * this.config.d_model, (i + 1) * this.config.d_model));
  }

  weights(layer, head, i) {  // what position i takes of each up to itself
    const T = this.config.block_size, at = (head * T + i) * T;
    return this.past[layer].weights.subarray(at, at + i + 1);
  }

  switch(layer, head, on) {
    if (on) this.off[layer].delete(head); else this.off[layer].add(head);
    if (this.ids.length) this.run(layer, 0);
  }

  loss(i) {  // nats: how much the character at i + 1 surprised
    const V = this.config.vocab_size;
    return -Math.log(Math.max(1e-30, softmax(this.logits.subarray(i * V, (i + 1) * V))[this.ids[i + 1]]));
  }
}
