// One text as the model reads it. A change to the text or to a head recomputes only the positions and layers that
// depend on it, in portions that the caller asks for.

class Reader {
  constructor(model, base = null) {  // base: a reader of the same text with all heads on, whose activations are shared
    const {block_size: T, d_model: D, n_heads: H, n_layers: L, vocab_size: V} = model.config;
    this.model = model;
    this.base = base;
    this.ids = [];
    this.off = Array.from({length: L}, () => new Set());
    this.valid = new Array(L + 1).fill(0);  // of x[l]: the number of positions that are computed
    const make = size => new Float32Array(size);
    this.own_x = Array.from({length: L + 1}, () => make(T * D));
    this.own_kv = Array.from({length: L}, () => ({key: make(T * D), value: make(T * D)}));
    this.own_saved = Array.from({length: L}, () => ({query: make(T * D), attn: make(H * T * T), head_out: make(T * D),
      attn_out: make(T * D), hidden: make(T * 4 * D), mlp_out: make(T * D)}));
    this.x = [...this.own_x];  // the input of each block, and the output of the last: the residual stream
    this.kv = [...this.own_kv];
    this.saved = [...this.own_saved];
    this.logits = make(T * V);
  }

  set_request(ids, off = []) {  // the text to read, and the heads to switch off: numbers layer * n_heads + head
    const {n_heads: H, n_layers: L} = this.model.config;
    const sets = this.off.map((_, l) => new Set(off.filter(k => Math.floor(k / H) === l).map(k => k % H)));
    const differs = sets.findIndex((set, l) => [...set].sort().join() !== [...this.off[l]].sort().join());
    let same = 0;
    while (same < ids.length && ids[same] === this.ids[same]) same++;
    this.valid = this.valid.map((count, l) => differs >= 0 && l > differs ? 0 : Math.min(count, same));
    this.ids = [...ids];
    this.off = sets;
    if (!this.base) return;
    const first = sets.findIndex(set => set.size);  // up to this layer nothing differs from the base
    for (let l = 0; l <= L; l++) {
      const shared = first < 0 || l <= first;
      this.x[l] = (shared ? this.base.x : this.own_x)[l];
      if (shared) this.valid[l] = this.base.valid[l];
      if (l === L) break;
      this.kv[l] = (l < first ? this.base.kv : this.own_kv)[l];
      this.saved[l] = (l < first ? this.base.saved : this.own_saved)[l];
    }
  }

  get done() { return this.valid.at(-1); }

  advance(count) {  // compute at most `count` more positions, through all layers
    const {d_model: D, n_heads, n_layers: L, vocab_size: V} = this.model.config, p = this.model.parameters;
    const from = this.done, stop = Math.min(from + count, this.ids.length);
    if (this.valid[0] < stop) {
      const start = this.valid[0], ids = this.ids.slice(start, stop);
      this.x[0].set(embedding(ids, p.token_embedding, p.position_embedding, start, D), start * D);
      this.valid[0] = stop;
    }
    for (let l = 0; l < L; l++) {
      const start = this.valid[l + 1], x = this.x[l].subarray(start * D, stop * D);
      if (start >= stop) continue;
      const phases = this.model.rope_phases;
      this.x[l + 1].set(block(x, this.model.blocks[l], n_heads, start, phases, this.kv[l], this.saved[l], this.off[l]), start * D);
      this.valid[l + 1] = stop;
    }
    this.logits.set(this.model.head(this.x[L].subarray(from * D, stop * D)), from * V);
  }

  read(ids, off) {  // all at once -> the number of positions that were computed
    this.set_request(ids, off);
    const count = this.ids.length - this.done;
    if (count) this.advance(count);
    return count;
  }

  lens(layer, i) {  // logits (V,) of the residual stream at position i before block `layer`
    return this.model.head(this.at(this.x[layer], i));
  }

  at(rows, i, width = this.model.config.d_model) { return rows.subarray(i * width, (i + 1) * width); }

  attn(layer, head, i) {  // the attention weights of position i, over the positions up to itself
    const T = this.model.config.block_size, at = (head * T + i) * T;
    return this.saved[layer].attn.subarray(at, at + i + 1);
  }

  loss(i) {  // nats: the cross-entropy of the character at i + 1
    return -Math.log(Math.max(1e-30, softmax(this.at(this.logits, i, this.model.config.vocab_size))[this.ids[i + 1]]));
  }
}
