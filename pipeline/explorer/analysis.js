// What the page shows about a text that a Reader has read: numbers only, no drawing.

const NEURONS = 4, EXAMPLES = 4, KEYS = 8;  // shown: neurons per layer; positions per neuron; keys per query
const FIRST_QUERY = 8;  // averages over queries begin here: the first few have hardly any choice

function top_indices(values, count) {  // of the largest values, in descending order
  const best = [];
  for (let i = 0; i < values.length; i++) {
    if (best.length === count && values[i] <= values[best[count - 1]]) continue;
    let k = best.length;
    while (k && values[best[k - 1]] < values[i]) k--;
    best.splice(k, 0, i);
    if (best.length > count) best.pop();
  }
  return best;
}

const mean = values => values.length ? values.reduce((a, b) => a + b, 0) / values.length : 0;

function losses(reader) {  // of the second character to the last that is computed, in nats
  return Float32Array.from({length: Math.max(0, reader.done - 1)}, (_, i) => reader.loss(i));
}

function view(reader, i) {  // the prediction and the attention of position i
  const {n_layers: L, n_heads: H, vocab_size: V} = reader.model.config;
  const lens = new Float32Array((L + 1) * V), attn = new Float32Array(L * H * (i + 1));
  for (let l = 0; l <= L; l++) lens.set(reader.lens(l, i), l * V);
  for (let k = 0; k < L * H; k++) attn.set(reader.attn(Math.floor(k / H), k % H, i), k * (i + 1));
  return {at: i, logits: reader.at(reader.logits, i, V).slice(), lens, attn};
}

function attention_map(reader, layer, head) {  // (N, N)
  const N = reader.ids.length, map = new Float32Array(N * N);
  for (let i = 0; i < N; i++) map.set(reader.attn(layer, head, i), i * N);
  return map;
}

// Attention patterns: name -> function of query i and key j, whether i attends to j.
function rules(ids, characters) {
  const is = c => ids.map(id => characters[id] === c), newline = is("\n"), space = is(" ");
  let line = 0, word = 0;
  const starts = ids.map((_, i) => { const start = line; if (newline[i]) line = i + 1; return Math.min(start, i); });
  const words = ids.map((_, i) => { const start = word; if (newline[i] || space[i]) word = i + 1; return Math.min(start, i); });
  return {
    "the query itself": (i, j) => j === i,
    "the previous character": (i, j) => j === i - 1,
    "the character 2 back": (i, j) => j === i - 2,
    "the character 3 back": (i, j) => j === i - 3,
    "earlier characters of the same word": (i, j) => j >= words[i] && j < i,
    "the start of the line": (i, j) => j === starts[i] || j === starts[i] - 1,
    "the start of the text": (i, j) => j === 0,
    "the same character, earlier": (i, j) => j < i && ids[j] === ids[i],
    "what followed the same character earlier": (i, j) => j > 0 && j < i && ids[j - 1] === ids[i],
    "spaces": (i, j) => space[j] && j < i,
    "newlines": (i, j) => newline[j] && j < i,
  };
}

function divergence(share, uniform) {  // KL divergence from uniform attention, in nats; 0 if the share is not larger
  if (share <= uniform) return 0;
  const term = (p, q) => p > 0 && q > 0 ? p * Math.log(p / q) : 0;
  return term(share, uniform) + term(1 - share, 1 - uniform);
}

function* patterns(reader, characters) {  // for each head: the rule that best distinguishes its attention from uniform attention
  const {n_layers: L, n_heads: H} = reader.model.config, ids = reader.ids, N = ids.length;
  const tests = Object.entries(rules(ids, characters)), found = [];
  for (let l = 0; l < L; l++) {
    yield;
    for (let h = 0; h < H; h++) {
      const shares = tests.map(() => 0), uniform = tests.map(() => 0);
      let entropy = 0;
      for (let i = FIRST_QUERY; i < N; i++) {
        const attn = reader.attn(l, h, i);
        for (let j = 0; j <= i; j++) if (attn[j] > 0) entropy -= attn[j] * Math.log(attn[j]) / Math.log(i + 1) / (N - FIRST_QUERY);
        tests.forEach(([, allows], k) => {
          for (let j = 0; j <= i; j++) if (allows(i, j)) {
            shares[k] += attn[j] / (N - FIRST_QUERY);
            uniform[k] += 1 / (i + 1) / (N - FIRST_QUERY);
          }
        });
      }
      const [k] = top_indices(shares.map((share, k) => divergence(share, uniform[k])), 1);
      found.push(N > FIRST_QUERY ? {rule: tests[k][0], share: shares[k], uniform: uniform[k], entropy} : null);
    }
  }
  return found;
}

function neurons(reader, i) {  // of each layer: the most active neurons at position i, and the positions that activate each most
  const width = 4 * reader.model.config.d_model, N = reader.ids.length;
  return reader.saved.map(({hidden}) => top_indices(reader.at(hidden, i, width), NEURONS).map(k => ({
    neuron: k, activation: hidden[i * width + k],
    positions: top_indices(Array.from({length: N}, (_, j) => hidden[j * width + k]), EXAMPLES),
  })));
}

function inside(reader, i, layer, head) {  // the steps of the prediction at position i, with one head of one block in full
  const {d_model: D, n_heads: H, n_layers: L, vocab_size: V} = reader.model.config, d = D / H, N = reader.ids.length;
  const p = reader.model.parameters, part = reader.model.blocks[layer], saved = reader.saved[layer], kv = reader.kv[layer];
  const of_head = rows => reader.at(rows, i).slice(head * d, (head + 1) * d), x = reader.at(reader.x[layer], i).slice();
  const query = of_head(saved.query), attn = reader.attn(layer, head, i);
  const score = j => query.reduce((sum, q, k) => sum + q * kv.key[j * D + head * d + k], 0);
  const keys = [...top_indices(attn, KEYS).sort((a, b) => a - b), i + 1, i + 2].filter(j => j < N);
  const attn_out = reader.at(saved.attn_out, i).slice(), residual = add(x, attn_out);
  const mlp_out = reader.at(saved.mlp_out, i).slice();
  const best = top_indices(reader.at(reader.logits, i, V), 1)[0];
  const to_logit = v => v.reduce((sum, value, k) => sum + value * p["head.weight"][k * V + best], 0);
  const token = reader.at(p.token_embedding, reader.ids[i]).slice(), position = reader.at(p.position_embedding, i).slice();
  return {
    at: i, layer, head, token, position, x, residual, attn_out, mlp_out, query,
    normed: layer_norm(x, part["ln1.gain"], part["ln1.bias"]),
    keys: keys.map(j => ({j, key: reader.at(kv.key, j).slice(head * d, (head + 1) * d), score: score(j), attn: j <= i ? attn[j] : 0,
      value: reader.at(kv.value, j).slice(head * d, (head + 1) * d)})),
    head_out: of_head(saved.head_out),
    hidden: reader.at(saved.hidden, i, 4 * D).slice(),
    y: add(residual, mlp_out),
    best, logit: reader.logits[i * V + best],
    terms: [  // there is no final LayerNorm, so the logit is exactly the sum of these
      ["token_embedding", to_logit(token)], ["position_embedding", to_logit(position)],
      ...reader.saved.flatMap((saved_block, l) => [[`blocks.${l}: attn_out`, to_logit(reader.at(saved_block.attn_out, i))],
        [`blocks.${l}: mlp_out`, to_logit(reader.at(saved_block.mlp_out, i))]]),
      ["head.bias", p["head.bias"][best]],
    ],
    norms: Array.from({length: L + 1}, (_, l) => Math.hypot(...reader.at(reader.x[l], i))),
  };
}
