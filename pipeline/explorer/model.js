"use strict";
// The forward pass of baregpt/layers.py, function by function, for one sequence. A matrix (N, D) is a Float32Array with
// its rows one after another. The N rows are the positions from `start` on. `kv` is the KV cache. `saved` holds the
// activations of all positions that the page shows. A change here needs the same change in baregpt/layers.py.

const LAYER_NORM_EPSILON = 1e-5, GELU_SCALE = Math.sqrt(2 / Math.PI), GELU_CUBIC = 0.044715;

function float16(bits) {  // sign, 5 bits of exponent, 10 of fraction -> number
  const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function decode(base64) {  // little-endian half-precision numbers -> Float32Array
  const text = atob(base64), numbers = new Float32Array(text.length / 2);
  const table = Float32Array.from({length: 65536}, (_, bits) => float16(bits));
  for (let i = 0; i < numbers.length; i++)
    numbers[i] = table[text.charCodeAt(2 * i) | text.charCodeAt(2 * i + 1) << 8];
  return numbers;
}

function matmul(x, w, inner, bias) {  // x (N, inner) @ w (inner, outer) + bias, four rows of w at a time
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

function embedding(ids, tokens, positions, start, D) {  // token plus position embedding -> (N, D)
  const y = new Float32Array(ids.length * D);
  for (let n = 0; n < ids.length; n++) for (let i = 0; i < D; i++)
    y[n * D + i] = tokens[ids[n] * D + i] + positions[(start + n) * D + i];
  return y;
}

function layer_norm(x, gain, bias) {  // each row: gain (x - mean) / std + bias
  const D = gain.length, y = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += D) {
    let sum = 0, squares = 0;
    for (let i = 0; i < D; i++) sum += x[at + i];
    const mean = sum / D;
    for (let i = 0; i < D; i++) squares += (x[at + i] - mean) ** 2;
    const inverse_std = (squares / D + LAYER_NORM_EPSILON) ** -0.5;
    for (let i = 0; i < D; i++) y[at + i] = (x[at + i] - mean) * inverse_std * gain[i] + bias[i];
  }
  return y;
}

function gelu(x) { return x.map(v => v * (1 + Math.tanh(GELU_SCALE * (v + GELU_CUBIC * v * v * v))) / 2); }

function mlp(x, w1, b1, w2, b2, start, saved) {  // hidden = GELU(x W1 + b1), y = hidden W2 + b2
  const hidden = gelu(matmul(x, w1, b2.length, b1));
  saved.hidden.set(hidden, start * b1.length);
  return matmul(hidden, w2, b1.length, b2);
}

function softmax(x) {
  const largest = x.reduce((a, b) => Math.max(a, b), -Infinity), y = x.map(v => Math.exp(v - largest));
  const sum = y.reduce((a, b) => a + b, 0);
  return y.map(v => v / sum);
}

function apply_rope(x, phases) {  // rotates each pair of adjacent elements; phases: cos and sin of each pair
  for (let i = 0; i < x.length; i += 2) {
    const real = x[i], imaginary = x[i + 1];
    x[i] = real * phases[i] - imaginary * phases[i + 1];
    x[i + 1] = real * phases[i + 1] + imaginary * phases[i];
  }
}

function attention(x, w_qkv, w_out, n_heads, start, rope_phases, kv, saved, off) {  // off: heads that add nothing
  const D = Math.sqrt(w_out.length), d = D / n_heads, T = kv.key.length / D, rows = x.length / D;
  const qkv = matmul(x, w_qkv, D), head_out = new Float32Array(x.length);
  for (let n = 0; n < rows; n++) {
    const i = start + n, [query, key, value] = [0, D, 2 * D].map(at => qkv.subarray(n * 3 * D + at, n * 3 * D + at + D));
    if (rope_phases) for (const heads of [query, key]) for (let at = 0; at < D; at += d)
      apply_rope(heads.subarray(at, at + d), rope_phases.subarray(i * d, (i + 1) * d));
    for (let k = 0; k < D; k++) query[k] *= d ** -0.5;
    kv.key.set(key, i * D);
    kv.value.set(value, i * D);
    saved.query.set(query, i * D);
    for (let h = 0; h < n_heads; h++) {
      const scores = new Float32Array(i + 1);  // later positions are masked, so their scores are not computed
      for (let j = 0; j <= i; j++)
        for (let k = h * d; k < h * d + d; k++) scores[j] += query[k] * kv.key[j * D + k];
      const attn = softmax(scores);
      saved.attn.set(attn, (h * T + i) * T);
      if (off.has(h)) continue;
      for (let j = 0; j <= i; j++)
        for (let k = h * d; k < h * d + d; k++) head_out[n * D + k] += attn[j] * kv.value[j * D + k];
    }
  }
  saved.head_out.set(head_out, start * D);
  return matmul(head_out, w_out, D);
}

function add(x, y) { return x.map((v, i) => v + y[i]); }

function block(x, p, n_heads, start, rope_phases, kv, saved, off) {  // x (N, D) -> (N, D)
  const normed = layer_norm(x, p["ln1.gain"], p["ln1.bias"]), D = p["ln1.gain"].length;
  const attn_out = attention(normed, p["attention.qkv"], p["attention.out"], n_heads, start, rope_phases, kv, saved, off);
  const residual = add(x, attn_out);
  const normed2 = layer_norm(residual, p["ln2.gain"], p["ln2.bias"]);
  const mlp_out = mlp(normed2, p["mlp.w1"], p["mlp.b1"], p["mlp.w2"], p["mlp.b2"], start, saved);
  saved.attn_out.set(attn_out, start * D);
  saved.mlp_out.set(mlp_out, start * D);
  return add(residual, mlp_out);
}

class GPT {
  constructor(config, shapes, flat) {  // shapes: [name, shape] of each parameter, in their order in `flat`
    this.config = config;
    this.parameters = {};
    let at = 0;
    for (const [name, shape] of shapes)
      this.parameters[name] = flat.subarray(at, at += shape.reduce((a, b) => a * b));
    this.blocks = Array.from({length: config.n_layers}, (_, l) => this.with_prefix(`blocks.${l}.`));
    if (!config.rotary) return;
    const d = config.d_model / config.n_heads;
    this.rope_phases = Float32Array.from({length: config.block_size * d}, (_, i) => {
      const angle = Math.floor(i / d) * 1000 ** -(2 * (i % d >> 1) / d);
      return i % 2 ? Math.sin(angle) : Math.cos(angle);
    });
  }

  with_prefix(prefix) {
    const named = Object.entries(this.parameters).filter(([name]) => name.startsWith(prefix));
    return Object.fromEntries(named.map(([name, p]) => [name.slice(prefix.length), p]));
  }

  head(x) { return matmul(x, this.parameters["head.weight"], this.config.d_model, this.parameters["head.bias"]); }
}
