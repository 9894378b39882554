// The user interface of the explorer page. All text is inserted as text, never as markup.

const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), {config, characters} = data;
const {block_size: T, n_layers: L, n_heads: H, vocab_size: V} = config;
const model = new GPT(config, data.shapes, decode($("weights").textContent));
$("weights").textContent = "";
const reader = new Reader(model), id_of = new Map(characters.map((c, i) => [c, i]));
const names = {" ": "space", "\n": "newline", "\t": "tab"}, signs = {" ": "␣", "\n": "↵", "\t": "⇥"};
const named = c => names[c] || `“${c}”`, signed = c => signs[c] || c;
const percent = p => `${(100 * p).toFixed(p < .0995 ? 1 : 0)} %`;
const shade = value => `rgb(var(--accent) / ${(.85 * value).toFixed(3)})`;  // 0 to 1
const CANDIDATES = 10, PREDICTIONS = 5, NEURONS = 4, COLUMNS = 28, ROWS = 4, DROPPED = Math.max(1, T >> 2);
const text = $("text");
let shown = [];  // characters in view: {c, at: index in the text, n: position in the model or -1, span}
let seen = [];  // those that the model reads
let baseline = null;  // a second reader with all heads on, while a head is off
let pointed = -1, chosen = [L - 1, 0], skipped = 0, playing = false, busy = false;

function element(name, content = "", className = "") {
  const created = document.createElement(name);
  created.textContent = content;
  if (className) created.className = className;
  return created;
}

function top_indices(values, count) {  // indices of the largest values, in descending order
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

// Reading

function read() {  // run the model, after any change of the text
  let at = 0;
  const all = Array.from(text.value, c => ({c, at: (at += c.length) - c.length, id: id_of.get(c) ?? -1, n: -1}));
  const in_vocabulary = all.filter(one => one.id >= 0);
  skipped = Math.max(0, Math.ceil((in_vocabulary.length - T) / DROPPED) * DROPPED);
  seen = in_vocabulary.slice(skipped);
  seen.forEach((one, n) => { one.n = n; });
  const begin = skipped ? seen[0].at : 0;
  reader.read(seen.map(one => one.id));
  if (baseline) baseline.read(reader.ids);
  render_text(text.value.slice(0, begin), all.filter(one => one.at >= begin));
  update_averages();
  $("notes").textContent = [
    skipped && `The model reads at most ${T} characters: here the last ${seen.length}, without the pale ones before them. ` +
      `When they reach ${T}, the first ${DROPPED} are dropped.`,
    in_vocabulary.length < all.length && `${all.length - in_vocabulary.length} characters are not in its vocabulary; they are struck out and skipped.`,
  ].filter(Boolean).join(" ");
  show();
}

function render_text(before, now) {  // one span per character, behind the textarea; updates only what differs
  if (!render_text.before) $("shown").append(render_text.before = element("span", "", "before"), render_text.end = element("span", "\u200b"));
  if (render_text.before.textContent !== before) render_text.before.textContent = before;
  now.forEach((one, k) => {
    const old = shown[k];
    one.span = old ? old.span : element("span");
    if (!old) render_text.end.before(one.span);
    if (!old || old.c !== one.c) one.span.textContent = one.c;
    one.span.index_ = k;
  });
  shown.slice(now.length).forEach(one => one.span.remove());
  shown = now;
}

function current() {  // the marked position: under the pointer, else before the caret
  if (pointed >= 0 && pointed < shown.length && shown[pointed].n >= 0) return shown[pointed].n;
  let n = seen.length - 1;
  while (n > 0 && seen[n].at >= text.selectionStart) n--;
  return n;
}

// Drawing

function show() {
  const now = current();
  render_color(now);
  for (const id of ["candidates", "lens", "neurons"]) $(id).hidden = now < 0;
  render_status(now);
  render_heads(now);
  if (now < 0) return;
  render_candidates(now);
  render_lens(now);
  render_neurons(now);
}

function render_color(now) {
  const by_loss = $("color").value === "loss", attn = now >= 0 && reader.weights(...chosen, now);
  for (const {n, c, span} of shown) {
    const kind = n < 0 ? "unknown" : (n === now ? "now " : "") + (c === "\n" ? "break" : "");
    const value = n < 0 ? 0 : by_loss ? (n ? Math.min(1, losses()[n - 1] / 6) : 0) : n <= now ? Math.sqrt(attn[n]) : 0;
    const back = value > .01 ? shade(value) : "";
    if (span.className !== kind) span.className = kind;
    if (span.back !== back) span.style.background = span.back = back;
  }
}

function losses(of = reader) {  // nats, from the second character; cached until the text or the heads change
  const key = of.ids.join() + of.off.map(set => [...set].join()).join("|");
  if (of.key !== key) Object.assign(of, {key, losses: of.ids.slice(1).map((_, i) => of.loss(i))});
  return of.losses;
}

function mean(values) { return values.reduce((a, b) => a + b, 0) / values.length; }

function render_status(now) {
  const one = seen[now], loss_here = now > 0 ? `, loss ${losses()[now - 1].toFixed(2)} nats` : "";
  $("says").textContent = one ? `At ${named(one.c)}, character ${now + 1} of ${seen.length}${loss_here}.` : "Type some text.";
  const loss = seen.length > 1 ? mean(losses()) : 0;
  $("loss").textContent = seen.length < 2 ? "" : `Loss of this text: ${loss.toFixed(3)} nats per character` +
    (baseline ? `; with all heads ${mean(losses(baseline)).toFixed(3)}, a difference of ${loss < mean(losses(baseline)) ? "−" : "+"}${Math.abs(loss - mean(losses(baseline))).toFixed(3)}.` : ".");
}

function distribution(logits) {  // probabilities after temperature and top-k
  const temperature = +$("temperature").value, k = Math.min(V, +$("top-k").value);
  const threshold = Float32Array.from(logits).sort()[V - k];
  const kept = logits.map(v => v < threshold ? -Infinity : v);
  if (temperature) return softmax(kept.map(v => v / temperature));
  const best = logits.indexOf(Math.max(...logits));
  return logits.map((_, i) => +(i === best));
}

const logits_at = n => reader.logits.subarray(n * V, (n + 1) * V);

const rows = Array.from({length: Math.min(CANDIDATES, V)}, () => {
  const li = element("li"), button = element("button"), parts = ["key", "bar", "percent"].map(name => element("span", "", name));
  button.type = "button";
  button.append(...parts);
  button.addEventListener("click", () => { stop(); insert(button.id_, current()); });
  li.append(button);
  $("candidates").append(li);
  return {li, button, parts};
});

function render_candidates(now) {
  const probabilities = distribution(logits_at(now)), best = top_indices(logits_at(now), rows.length);
  rows.forEach(({li, button, parts: [key, bar, label]}, k) => {
    const id = best[k], p = probabilities[id];
    button.id_ = id;
    button.className = p ? "" : "none";
    button.setAttribute("aria-label", `${named(characters[id])}, ${percent(p)}: append it`);
    li.className = seen[now + 1]?.id === id ? "came" : "";
    key.textContent = signed(characters[id]);
    bar.style.width = `${100 * p}%`;
    label.textContent = percent(p);
  });
}

function render_lens(now) {
  $("lens").replaceChildren(...Array.from({length: L + 1}, (_, l) => {
    const row = element("tr"), probabilities = softmax(reader.lens(l, now));
    const title = element("th", l ? `layer ${l}` : "embedding");
    title.scope = "row";
    row.append(title, ...top_indices(probabilities, PREDICTIONS).map(id => {
      const cell = element("td", signed(characters[id]), seen[now + 1]?.id === id ? "came" : "");
      cell.append(element("small", percent(probabilities[id])));
      cell.style.background = shade(probabilities[id] * .6);
      return cell;
    }));
    return row;
  }));
}

const cards = [];
for (let l = 0; l < L; l++) for (let h = 0; h < H; h++) {
  const card = element("div", "", "head"), row = element("div", "", "row"), title = element("button", `Layer ${l + 1}, head ${h + 1}`);
  const label = element("label", "on "), box = element("input"), canvas = element("canvas"), most = element("div");
  title.type = "button"; box.type = "checkbox"; box.checked = true;
  box.setAttribute("aria-label", `Layer ${l + 1}, head ${h + 1} is on`);
  canvas.setAttribute("aria-hidden", "true");
  const choose = () => { chosen = [l, h]; $("color").value = "head"; show(); };
  title.addEventListener("click", choose);
  canvas.addEventListener("click", choose);
  box.addEventListener("change", () => {
    reader.switch(l, h, box.checked);
    card.classList.toggle("off", !box.checked);
    baseline = reader.off.some(set => set.size) ? baseline || new Reader(model) : null;
    if (baseline) baseline.read(reader.ids);
    update_averages();
    show();
  });
  label.append(box);
  row.append(title, label);
  card.append(row, canvas, most);
  $("heads").append(card);
  cards.push({l, h, card, title, canvas, most, average: "", in_view: true});
}

const observer = new IntersectionObserver(entries => {  // only heads in view are drawn
  for (const {target, isIntersecting} of entries) cards.find(one => one.card === target).in_view = isIntersecting;
  render_heads(current());
}, {rootMargin: "200px"});
for (const {card} of cards) observer.observe(card);

function update_averages() {  // the mean attention weight of each head on some relative positions, and on the line start
  const n = seen.length;
  let line = 0;
  const starts = seen.map((one, i) => { const start = line; if (one.c === "\n") line = i + 1; return Math.min(start, i); });
  for (const card of cards) {
    const places = {"itself": 0, "the previous character": 0, "2 back": 0, "3 back": 0, "the line start": 0};
    let count = 0;
    for (let i = 8; i < n; i++) {  // near the beginning these are the same few characters
      if (i - starts[i] < 4) continue;
      const w = reader.weights(card.l, card.h, i);
      count++;
      places["itself"] += w[i]; places["the previous character"] += w[i - 1]; places["2 back"] += w[i - 2]; places["3 back"] += w[i - 3];
      places["the line start"] += w[starts[i]] + (starts[i] ? w[starts[i] - 1] : 0);  // and the newline before it
    }
    const [[place, sum]] = Object.entries(places).sort((a, b) => b[1] - a[1]);
    card.average = count ? `On average ${percent(sum / count)} on ${place}.` : "";
  }
}

let ink, accent;
function read_colors() { const style = getComputedStyle(document.documentElement); ink = style.getPropertyValue("--ink"); accent = style.getPropertyValue("--accent").trim().replaceAll(" ", ","); }

function render_heads(now) {
  if (!ink) read_colors();
  for (const {l, h, card, title, canvas, most, average, in_view} of cards) {
    const mine = l === chosen[0] && h === chosen[1], attn = now < 0 ? [] : reader.weights(l, h, now);
    card.classList.toggle("chosen", mine);
    title.setAttribute("aria-pressed", mine);
    const places = top_indices(attn, 2).map(i => `${named(seen[i].c)} ${i === now ? "itself" : now - i + " back"} ${percent(attn[i])}`);
    most.textContent = `Here ${places.join(", ")}. ${average}`;
    if (!in_view) continue;
    if (canvas.width !== COLUMNS * 18) { canvas.width = COLUMNS * 18; canvas.height = ROWS * 44; }
    const pen = canvas.getContext("2d"), first = Math.max(0, now + 1 - COLUMNS * ROWS);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.font = "26px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
    pen.textAlign = "center"; pen.textBaseline = "middle";
    for (let i = first; i <= now; i++) {
      const x = (i - first) % COLUMNS * 18, y = Math.floor((i - first) / COLUMNS) * 44;
      if (attn[i] > .001) { pen.fillStyle = `rgba(${accent},${.85 * Math.sqrt(attn[i])})`; pen.fillRect(x, y + 2, 18, 40); }
      pen.fillStyle = ink;
      if (seen[i].c !== " ") pen.fillText(signed(seen[i].c), x + 9, y + 23);
      if (i === now) { pen.fillStyle = `rgb(${accent})`; pen.fillRect(x, y + 39, 18, 4); }
    }
  }
}

function render_neurons(now) {
  const width = 4 * config.d_model;
  $("neurons").replaceChildren(...reader.caches.map((cache, l) => {
    const part = element("div"), list = element("ol");
    part.append(element("h3", `layer ${l + 1}`), list);
    for (const k of top_indices(cache.hidden.subarray(now * width, (now + 1) * width), NEURONS)) {
      const item = element("li", `${k + 1} (${cache.hidden[now * width + k].toFixed(1)}) `);
      const activations = seen.map((_, i) => cache.hidden[i * width + k]);
      for (const i of top_indices(activations, 4)) {
        const code = element("code", seen.slice(Math.max(0, i - 3), i).map(one => signed(one.c)).join(""));
        code.append(element("b", signed(seen[i].c)));
        item.append(code);
      }
      list.append(item);
    }
    return part;
  }));
}

// Generating

function random(seed, index) {  // 0 to 1, a function of the seed and the position: generation is repeatable
  let x = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) + Math.imul(index + 1, 0xc2b2ae35) | 0;
  for (const factor of [0x7feb352d, 0x846ca68b]) { x = Math.imul(x ^ x >>> 16, factor); x ^= x >>> 15; }
  return (x >>> 0) / 2 ** 32;
}

function sample(n) {
  const probabilities = distribution(logits_at(n)), target = random(+$("seed").value, skipped + n);
  let sum = 0, last = 0;
  for (let id = 0; id < V; id++) if (probabilities[id]) { last = id; if ((sum += probabilities[id]) > target) break; }
  return last;
}

function insert(id, n) {  // insert a character after position n
  const at = n < 0 ? 0 : seen[n].at + seen[n].c.length;
  text.value = text.value.slice(0, at) + characters[id] + text.value.slice(at);
  text.selectionStart = text.selectionEnd = at + characters[id].length;
  pointed = -1;
  read();
}

function step() {  // append a sampled character to the text
  if (!seen.length) { stop(); return; }
  text.selectionStart = text.selectionEnd = text.value.length;
  insert(sample(seen.length - 1), seen.length - 1);
  $("desk").scrollTop = $("desk").scrollHeight;
}

function play() {
  if (!playing) return;
  step();
  setTimeout(() => requestAnimationFrame(play), 40);
}

function stop() { playing = false; $("play").textContent = "Generate"; }

$("play").addEventListener("click", () => {
  if (playing) { stop(); return; }
  playing = true;
  $("play").textContent = "Pause";
  play();
});
$("step").addEventListener("click", () => { stop(); step(); });

// Events

text.addEventListener("input", () => { stop(); pointed = -1; read(); });
document.addEventListener("selectionchange", () => { if (document.activeElement === text && !playing) show_soon(-1); });
text.addEventListener("pointermove", e => {
  const span = document.elementsFromPoint(e.clientX, e.clientY).find(one => one.index_ !== undefined);
  if (span && !playing && span.index_ !== pointed) show_soon(span.index_);
});
text.addEventListener("pointerleave", () => { if (pointed >= 0) show_soon(-1); });

function show_soon(index) {  // at most once per frame
  pointed = index;
  if (!busy) requestAnimationFrame(() => { busy = false; show(); });
  busy = true;
}

for (const id of ["temperature", "top-k"]) $(id).addEventListener("input", () => { sliders(); if (current() >= 0) render_candidates(current()); });
function sliders() {
  $("temperature-shown").textContent = (+$("temperature").value).toFixed(2);
  $("top-k-shown").textContent = $("top-k").value;
}
$("color").addEventListener("change", show);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { read_colors(); show(); });

$("top-k").max = V;
$("top-k").value = Math.min(20, V);
sliders();
const training = Object.entries(data.metadata).map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" ? +value.toFixed(4) : value}`);
$("about").append(
  element("p", `This page is ${(data.bytes / 1e6).toFixed(data.bytes < 1e6 ? 2 : 1)} MB and makes no network requests. It contains ` +
    `${data.parameters.toLocaleString("en")} parameters in half precision: ${L} layers of ${H} heads, width ${config.d_model}, ` +
    `context ${T}${config.rotary ? ", rotary position embeddings" : ""}. Weights with MD5 ${data.md5}; ${training.join(", ") || "no training metadata"}.`),
  element("p", "The same seed, settings and text give the same continuation. The Python sampler uses a different random number generator, so its text differs."));
text.value = data.text;
text.selectionStart = text.selectionEnd = text.value.length;
read();
