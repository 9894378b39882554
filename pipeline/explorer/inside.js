// How the prediction at the current position is computed, with the actual vectors; and the neurons.

const SHOWN = 4;  // numbers of a vector that are written out

const canvases = [];  // of all strips: used again, because creating one is slow
let used = 0;
function strip(values) {
  const canvas = canvases[used++] ||= element("canvas"), largest = Math.max(1e-9, ...Array.from(values, Math.abs));
  canvas.setAttribute("aria-hidden", "true");
  canvas.style.width = "";
  paint(canvas, values, values.length, v => v / largest);
  return canvas;
}

function vector(name, values) {  // name, a strip of colors, the first numbers, the norm
  const line = element("div", "", "vector"), canvas = strip(values), size = Math.hypot(...values);
  canvas.style.width = `${Math.min(100, Math.max(20, values.length / 2.56))}%`;
  const numbers = Array.from(values.slice(0, SHOWN), v => number(v)).join(", ");
  line.append(element("code", name), canvas, element("small", `[${numbers}${values.length > SHOWN ? ", …" : ""}] ${values.length} numbers, norm ${number(size, 1)}`));
  return line;
}

function source(name) {  // a function of baregpt/layers.py, expanded on demand
  const details = element("details", "", "code"), summary = element("summary");
  summary.append(element("code", name), ` in baregpt/layers.py, line ${data.sources[name].line}`);
  details.append(summary, element("pre", data.sources[name].source));
  return details;
}

function table(caption, titles, rows) {  // rows: arrays of text or nodes
  const made = element("table"), head = element("tr");
  head.append(...titles.map(title => { const th = element("th", title); th.scope = "col"; return th; }));
  made.append(element("caption", caption), element("thead"), element("tbody"));
  made.tHead.append(head);
  made.tBodies[0].append(...rows.map(cells => {
    const row = element("tr");
    row.append(...cells.map(cell => { const td = element("td"); td.append(cell); return td; }));
    return row;
  }));
  const scroll = element("div", "", "scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", caption);
  scroll.append(made);
  return scroll;
}

const steps = [];  // of the list: made once, filled at each view, so that an expanded function stays expanded
function add_step(title, name) {
  const item = element("li"), body = element("div");
  item.append(element("h3", title), body);
  if (name && data.sources[name]) item.append(source(name));
  $("steps").append(item);
  steps.push(body);
}

function make_steps() {
  add_step("The embedding: one vector for the character, one for its position", "embedding");
  add_step("LayerNorm normalizes the vector", "layer_norm");
  add_step("The head compares its query with the key of every position", "attention");
  add_step("The causal mask and the softmax turn scores into weights", "softmax");
  add_step("The head averages the values with these weights", null);
  add_step("The MLP processes the position by itself", "mlp");
  add_step("The block adds both to the residual stream", "block");
  add_step("The output head turns the residual stream into logits", null);
}

let filling = 0;  // a frame in which the next step will be filled in

function render_inside(it) {  // one step a frame, so that typing is not delayed
  cancelAnimationFrame(filling);
  used = 0;
  const parts = inside_parts(it);
  const fill = k => {
    if (k === steps.length) return;
    steps[k].replaceChildren(...parts[k]());
    filling = requestAnimationFrame(() => fill(k + 1));
  };
  filling = requestAnimationFrame(() => fill(0));
}

function inside_parts(it) {  // what each step shows, as functions that make it
  const {at, layer: l, head: h} = it, c = named(seen[at].c), d = config.d_model / H, block_name = `block ${l + 1}, head ${h + 1}`;
  const place = j => `${named(seen[j].c)} ${j === at ? "(itself)" : j < at ? `${at - j} back` : `${j - at} ahead`}`;
  const active = it.hidden.filter(v => v > .1).length, p = softmax(answers.view.logits)[it.best];
  return [
    () => [element("p", `${c} is character ${at + 1} of the context. x is the sum of its token embedding and its position embedding.`),
      vector("tokens[id]", it.token), vector("positions[t]", it.position),
      ...(l ? [element("p", `Blocks 1 to ${l} then add to it. Before block ${l + 1}, it is:`)] : []), vector("x", it.x)],
    () => [vector("normed", it.normed)],
    () => [element("p", `In ${block_name}, w_qkv turns normed into a query, a key and a value of ${d} numbers each. The score of a key is its dot product with the query, divided by √${d}.`),
      vector("query / √d", it.query)],
    () => [element("p", "Before the mask, later positions have scores, too; the mask sets them to −∞, so the softmax gives them a weight of 0."),
      table(`Keys with the largest weights, and the next two positions (${block_name})`, ["position", "key", "score", "with the mask", "attn"],
        it.keys.map(({j, key, score, attn}) => [place(j), strip(key), number(score), j <= at ? number(score) : "−∞", percent(attn)]))],
    () => [table("head_out is the sum of attn · value", ["position", "attn", "value"], it.keys.filter(one => one.j <= at).map(({j, attn, value}) => [place(j), percent(attn), strip(value)])),
      vector("head_out", it.head_out),
      element("p", selection.off.has(l * H + h) ? "This head is switched off, so its head_out is zero." : `head_out of all ${H} heads, side by side, times w_out is attn_out.`), vector("attn_out", it.attn_out)],
    () => [element("p", `The MLP (multilayer perceptron) widens the vector to ${it.hidden.length} neurons; ${active} of them are above 0.1 here. Then it projects the result back to the width of the model.`),
      vector("hidden", it.hidden), vector("mlp_out", it.mlp_out)],
    () => [vector("residual = x + attn_out", it.residual), vector("y = residual + mlp_out", it.y),
      table("The norm of the residual stream at this position", ["stream", ...it.norms.map((_, i) => i ? `after block ${i}` : "embedding")], [["norm", ...it.norms.map(v => number(v, 1))]])],
    () => [element("p", `A logit is the score of a character before the softmax. The best one here is that of ${named(characters[it.best])}: ${number(it.logit)}, or ${percent(p)} after the softmax (before temperature and top-k). No LayerNorm follows the last block, so the logit is exactly the sum of these parts:`),
      table(`Parts of the logit of ${named(characters[it.best])}`, ["part", "adds"], [...it.terms.map(([name, v]) => [name, number(v)]), ["logit", number(it.logit)]])],
  ];
}

function render_neurons(neurons_by_layer) {
  $("neuron-lists").replaceChildren(...neurons_by_layer.map((list, l) => {
    const part = element("div"), items = element("ol");
    part.append(element("h3", `layer ${l + 1}`), items);
    for (const {neuron, activation, positions} of list) {
      const item = element("li", `${neuron + 1} (${number(activation, 1)}) `);
      for (const i of positions) {
        const code = element("code", seen.slice(Math.max(0, i - 3), i).map(one => visible(one.c)).join(""));
        code.append(element("b", visible(seen[i].c)));
        item.append(code);
      }
      items.append(item);
    }
    return part;
  }));
}

on("inside", it => { answers.inside = it; render_inside(it); });
on("neurons", ({lists}) => render_neurons(lists));
