// What the page shows of the model, and what it does when somebody types, points or clicks. All text
// is put in as text, never as markup.

const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), {config, characters} = data;
const {block_size: T, n_layers: L, n_heads: H, vocab_size: V} = config;
const model = new GPT(config, data.shapes, decode($("weights").textContent));
$("weights").textContent = "";
const reader = new Reader(model), id_of = new Map(characters.map((c, i) => [c, i]));
const names = {" ": "space", "\n": "newline", "\t": "tab"}, signs = {" ": "␣", "\n": "↵", "\t": "⇥"};
const named = c => names[c] || `“${c}”`, signed = c => signs[c] || c;
const percent = p => `${(100 * p).toFixed(p < .0995 ? 1 : 0)} %`;
const shade = share => `rgb(var(--accent) / ${(.85 * share).toFixed(3)})`;
const CANDIDATES = 10, GUESSES = 5, NEURONS = 4, COLUMNS = 28, ROWS = 4, READ_AGAIN = Math.max(1, T >> 2);
const text = $("text");
let shown = [];  // of the window: {c, at: place in the text, n: position in the model or -1, span}
let seen = [];  // those of them that the model reads
let whole = null;  // a second reader with all heads on, once one is off
let pointed = -1, chosen = [L - 1, 0], skipped = 0, playing = false, busy = false;

function element(name, content = "", className = "") {
  const made = document.createElement(name);
  made.textContent = content;
  if (className) made.className = className;
  return made;
}

function largest(values, count) {  // places of the largest values, the largest first
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

function read() {  // after any change of the text
  let at = 0;
  const all = Array.from(text.value, c => ({c, at: (at += c.length) - c.length, id: id_of.get(c) ?? -1, n: -1}));
  const known = all.filter(one => one.id >= 0);
  skipped = Math.max(0, Math.ceil((known.length - T) / READ_AGAIN) * READ_AGAIN);
  seen = known.slice(skipped);
  seen.forEach((one, n) => { one.n = n; });
  const begin = skipped ? seen[0].at : 0;
  reader.read(seen.map(one => one.id));
  if (whole) whole.read(reader.ids);
  spread(text.value.slice(0, begin), all.filter(one => one.at >= begin));
  habits();
  $("notes").textContent = [
    skipped && `The model sees at most ${T} characters: it reads the last ${seen.length} here, the pale ones before no longer. ` +
      `When they are ${T}, the first ${READ_AGAIN} of them are left behind and the others read again.`,
    known.length < all.length && `${all.length - known.length} characters are not in its vocabulary: struck out and left out.`,
  ].filter(Boolean).join(" ");
  show();
}

function spread(before, now) {  // the text behind the caret, a span for each character; only what differs is made
  if (!spread.before) $("shown").append(spread.before = element("span", "", "before"), spread.end = element("span", "\u200b"));
  if (spread.before.textContent !== before) spread.before.textContent = before;
  now.forEach((one, k) => {
    const old = shown[k];
    one.span = old ? old.span : element("span");
    if (!old) spread.end.before(one.span);
    if (!old || old.c !== one.c) one.span.textContent = one.c;
    one.span.place = k;
  });
  shown.slice(now.length).forEach(one => one.span.remove());
  shown = now;
}

function here() {  // the position that everything is shown for: under the pointer, else before the caret
  if (pointed >= 0 && pointed < shown.length && shown[pointed].n >= 0) return shown[pointed].n;
  let n = seen.length - 1;
  while (n > 0 && seen[n].at >= text.selectionStart) n--;
  return n;
}

// Drawing

function show() {
  const now = here();
  colour(now);
  for (const id of ["candidates", "lens", "neurons"]) $(id).hidden = now < 0;
  says(now);
  heads(now);
  if (now < 0) return;
  candidates(now);
  lens(now);
  neurons(now);
}

function colour(now) {
  const by_loss = $("colour").value === "loss", looks = now >= 0 && reader.weights(...chosen, now);
  for (const {n, c, span} of shown) {
    const kind = n < 0 ? "unknown" : (n === now ? "now " : "") + (c === "\n" ? "break" : "");
    const share = n < 0 ? 0 : by_loss ? (n ? Math.min(1, losses()[n - 1] / 6) : 0) : n <= now ? Math.sqrt(looks[n]) : 0;
    const back = share > .01 ? shade(share) : "";
    if (span.className !== kind) span.className = kind;
    if (span.back !== back) span.style.background = span.back = back;
  }
}

function losses(of = reader) {  // nats, of the second character on; worked out once for each reading
  const key = of.ids.join() + of.off.map(set => [...set].join()).join("|");
  if (of.key !== key) Object.assign(of, {key, losses: of.ids.slice(1).map((_, i) => of.loss(i))});
  return of.losses;
}

function mean(values) { return values.reduce((a, b) => a + b, 0) / values.length; }

function says(now) {
  const one = seen[now], said = now > 0 ? `, surprise ${losses()[now - 1].toFixed(2)} nats` : "";
  $("says").textContent = one ? `At ${named(one.c)}, character ${now + 1} of ${seen.length}${said}.` : "Type something for the model to read.";
  const loss = seen.length > 1 ? mean(losses()) : 0;
  $("loss").textContent = seen.length < 2 ? "" : `Loss of this text: ${loss.toFixed(3)} nats a character` +
    (whole ? `; with all heads ${mean(losses(whole)).toFixed(3)}, so ${loss < mean(losses(whole)) ? "−" : "+"}${Math.abs(loss - mean(losses(whole))).toFixed(3)}.` : ".");
}

function reshaped(logits) {  // probabilities as they are drawn from
  const temperature = +$("temperature").value, k = Math.min(V, +$("top-k").value);
  const worst = Float32Array.from(logits).sort()[V - k];
  const kept = logits.map(v => v < worst ? -Infinity : v);
  if (temperature) return softmax(kept.map(v => v / temperature));
  const best = logits.indexOf(Math.max(...logits));
  return logits.map((_, i) => +(i === best));
}

const logits_at = n => reader.logits.subarray(n * V, (n + 1) * V);

const rows = Array.from({length: Math.min(CANDIDATES, V)}, () => {
  const li = element("li"), button = element("button"), parts = ["key", "bar", "share"].map(name => element("span", "", name));
  button.type = "button";
  button.append(...parts);
  button.addEventListener("click", () => { stop(); write(button.id_, here()); });
  li.append(button);
  $("candidates").append(li);
  return {li, button, parts};
});

function candidates(now) {
  const shares = reshaped(logits_at(now)), best = largest(logits_at(now), rows.length);
  rows.forEach(({li, button, parts: [key, bar, share]}, k) => {
    const id = best[k], p = shares[id];
    button.id_ = id;
    button.className = p ? "" : "none";
    button.setAttribute("aria-label", `${named(characters[id])}, ${percent(p)}: choose it`);
    li.className = seen[now + 1]?.id === id ? "came" : "";
    key.textContent = signed(characters[id]);
    bar.style.width = `${100 * p}%`;
    share.textContent = percent(p);
  });
}

function lens(now) {
  $("lens").replaceChildren(...Array.from({length: L + 1}, (_, l) => {
    const row = element("tr"), shares = softmax(reader.lens(l, now));
    const title = element("th", l ? `layer ${l}` : "embedding");
    title.scope = "row";
    row.append(title, ...largest(shares, GUESSES).map(id => {
      const cell = element("td", signed(characters[id]), seen[now + 1]?.id === id ? "came" : "");
      cell.append(element("small", percent(shares[id])));
      cell.style.background = shade(shares[id] * .6);
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
  const choose = () => { chosen = [l, h]; $("colour").value = "head"; show(); };
  title.addEventListener("click", choose);
  canvas.addEventListener("click", choose);
  box.addEventListener("change", () => {
    reader.switch(l, h, box.checked);
    card.classList.toggle("off", !box.checked);
    whole = reader.off.some(set => set.size) ? whole || new Reader(model) : null;
    if (whole) whole.read(reader.ids);
    habits();
    show();
  });
  label.append(box);
  row.append(title, label);
  card.append(row, canvas, most);
  $("heads").append(card);
  cards.push({l, h, card, title, canvas, most, habit: "", in_view: true});
}

const watch = new IntersectionObserver(entries => {  // heads out of view are not drawn
  for (const {target, isIntersecting} of entries) cards.find(one => one.card === target).in_view = isIntersecting;
  heads(here());
}, {rootMargin: "200px"});
for (const {card} of cards) watch.observe(card);

function habits() {  // where each head looks on average over the text: so many back, or at where the line starts
  const n = seen.length;
  let line = 0;
  const starts = seen.map((one, i) => { const start = line; if (one.c === "\n") line = i + 1; return Math.min(start, i); });
  for (const card of cards) {
    const places = {"itself": 0, "the character before": 0, "2 back": 0, "3 back": 0, "the line's start": 0};
    let count = 0;
    for (let i = 8; i < n; i++) {  // near the beginning all of these are the same few characters
      if (i - starts[i] < 4) continue;
      const w = reader.weights(card.l, card.h, i);
      count++;
      places["itself"] += w[i]; places["the character before"] += w[i - 1]; places["2 back"] += w[i - 2]; places["3 back"] += w[i - 3];
      places["the line's start"] += w[starts[i]] + (starts[i] ? w[starts[i] - 1] : 0);  // and the newline before it
    }
    const [[place, sum]] = Object.entries(places).sort((a, b) => b[1] - a[1]);
    card.habit = count ? `On average ${percent(sum / count)} on ${place}.` : "";
  }
}

let ink, accent;
function inks() { const style = getComputedStyle(document.documentElement); ink = style.getPropertyValue("--ink"); accent = style.getPropertyValue("--accent").trim().replaceAll(" ", ","); }

function heads(now) {
  if (!ink) inks();
  for (const {l, h, card, title, canvas, most, habit, in_view} of cards) {
    const mine = l === chosen[0] && h === chosen[1], looks = now < 0 ? [] : reader.weights(l, h, now);
    card.classList.toggle("chosen", mine);
    title.setAttribute("aria-pressed", mine);
    const places = largest(looks, 2).map(i => `${named(seen[i].c)} ${i === now ? "itself" : now - i + " back"} ${percent(looks[i])}`);
    most.textContent = `Here ${places.join(", ")}. ${habit}`;
    if (!in_view) continue;
    if (canvas.width !== COLUMNS * 18) { canvas.width = COLUMNS * 18; canvas.height = ROWS * 44; }
    const pen = canvas.getContext("2d"), first = Math.max(0, now + 1 - COLUMNS * ROWS);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.font = "26px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
    pen.textAlign = "center"; pen.textBaseline = "middle";
    for (let i = first; i <= now; i++) {
      const x = (i - first) % COLUMNS * 18, y = Math.floor((i - first) / COLUMNS) * 44;
      if (looks[i] > .001) { pen.fillStyle = `rgba(${accent},${.85 * Math.sqrt(looks[i])})`; pen.fillRect(x, y + 2, 18, 40); }
      pen.fillStyle = ink;
      if (seen[i].c !== " ") pen.fillText(signed(seen[i].c), x + 9, y + 23);
      if (i === now) { pen.fillStyle = `rgb(${accent})`; pen.fillRect(x, y + 39, 18, 4); }
    }
  }
}

function neurons(now) {
  const width = 4 * config.d_model;
  $("neurons").replaceChildren(...reader.past.map((past, l) => {
    const part = element("div"), list = element("ol");
    part.append(element("h3", `layer ${l + 1}`), list);
    for (const k of largest(past.hidden.subarray(now * width, (now + 1) * width), NEURONS)) {
      const item = element("li", `no. ${k + 1} (${past.hidden[now * width + k].toFixed(1)}) `);
      const fires = seen.map((_, i) => past.hidden[i * width + k]);
      for (const i of largest(fires, 4)) {
        const code = element("code", seen.slice(Math.max(0, i - 3), i).map(one => signed(one.c)).join(""));
        code.append(element("b", signed(seen[i].c)));
        item.append(code);
      }
      list.append(item);
    }
    return part;
  }));
}

// Writing

function random(seed, place) {  // 0 to 1, of the seed and the place only: the same text goes on the same way
  let x = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) + Math.imul(place + 1, 0xc2b2ae35) | 0;
  for (const factor of [0x7feb352d, 0x846ca68b]) { x = Math.imul(x ^ x >>> 16, factor); x ^= x >>> 15; }
  return (x >>> 0) / 2 ** 32;
}

function draw(n) {
  const shares = reshaped(logits_at(n)), target = random(+$("seed").value, skipped + n);
  let sum = 0, last = 0;
  for (let id = 0; id < V; id++) if (shares[id]) { last = id; if ((sum += shares[id]) > target) break; }
  return last;
}

function write(id, n) {  // put a character after position n
  const at = n < 0 ? 0 : seen[n].at + seen[n].c.length;
  text.value = text.value.slice(0, at) + characters[id] + text.value.slice(at);
  text.selectionStart = text.selectionEnd = at + characters[id].length;
  pointed = -1;
  read();
}

function step() {  // the model writes where the text ends
  if (!seen.length) { stop(); return; }
  text.selectionStart = text.selectionEnd = text.value.length;
  write(draw(seen.length - 1), seen.length - 1);
  $("desk").scrollTop = $("desk").scrollHeight;
}

function play() {
  if (!playing) return;
  step();
  setTimeout(() => requestAnimationFrame(play), 40);
}

function stop() { playing = false; $("play").textContent = "Write"; }

$("play").addEventListener("click", () => {
  if (playing) { stop(); return; }
  playing = true;
  $("play").textContent = "Pause";
  play();
});
$("step").addEventListener("click", () => { stop(); step(); });

// Listening

text.addEventListener("input", () => { stop(); pointed = -1; read(); });
document.addEventListener("selectionchange", () => { if (document.activeElement === text && !playing) soon(-1); });
text.addEventListener("pointermove", e => {
  const span = document.elementsFromPoint(e.clientX, e.clientY).find(one => one.place !== undefined);
  if (span && !playing && span.place !== pointed) soon(span.place);
});
text.addEventListener("pointerleave", () => { if (pointed >= 0) soon(-1); });

function soon(place) {  // at most once a frame
  pointed = place;
  if (!busy) requestAnimationFrame(() => { busy = false; show(); });
  busy = true;
}

for (const id of ["temperature", "top-k"]) $(id).addEventListener("input", () => { sliders(); if (here() >= 0) candidates(here()); });
function sliders() {
  $("temperature-shown").textContent = (+$("temperature").value).toFixed(2);
  $("top-k-shown").textContent = $("top-k").value;
}
$("colour").addEventListener("change", show);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { inks(); show(); });

$("top-k").max = V;
$("top-k").value = Math.min(20, V);
sliders();
const facts = Object.entries(data.metadata).map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" ? +value.toFixed(4) : value}`);
$("about").append(
  element("p", `This page is ${(data.bytes / 1e6).toFixed(data.bytes < 1e6 ? 2 : 1)} MB and asks nothing of any network. It holds ` +
    `${data.parameters.toLocaleString("en")} parameters in half precision: ${L} layers of ${H} heads, width ${config.d_model}, ` +
    `context ${T}${config.rotary ? ", rotary positions" : ""}. Made from weights with the md5 ${data.md5}; ${facts.join(", ") || "nothing is known of their training"}.`),
  element("p", "The same seed, settings and text give the same continuation here; Python's sampler draws from other random numbers, so the same seed need not give its text."));
text.value = data.text;
text.selectionStart = text.selectionEnd = text.value.length;
read();
