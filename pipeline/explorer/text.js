// The text that the model reads: a textarea with transparent letters over a layer of colored spans.

const text = $("text"), DROPPED = Math.max(1, T >> 2);  // characters that leave a full context at once
let shown = [];  // characters of the layer: {c, at: offset in the text, n: position in the model or -1, span}
let seen = [];  // those of them that the model reads
const RIGHT_TO_LEFT = /^\P{L}*[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}]/u;
let skipped = 0, pointed = -1, tapped = null;

function update_text() {  // after any change to the text
  let at = 0;
  const all = Array.from(text.value, c => ({c, at: (at += c.length) - c.length, id: id_of.get(c) ?? -1, n: -1}));
  const known = all.filter(one => one.id >= 0), unknown = all.length - known.length;
  skipped = Math.max(0, Math.ceil((known.length - T) / DROPPED) * DROPPED);
  seen = known.slice(skipped);
  seen.forEach((one, n) => { one.n = n; });
  const begin = skipped ? seen[0].at : 0;
  [pointed, tapped] = [-1, null];
  render_text(text.value.slice(0, begin), all.filter(one => one.at >= begin));
  $("notes").textContent = [
    skipped && `The model reads at most ${T} characters, here the last ${seen.length}; the earlier ones, in gray, are ignored. ` +
      `Each time the text outgrows ${T} characters, the oldest ${DROPPED} are dropped.`,
    unknown && `${plural(unknown, "character")} ${unknown === 1 ? "is" : "are"} not in the model's vocabulary, and therefore struck out and skipped.`,
  ].filter(Boolean).join(" ");
  cancelAnimationFrame(filling);
  answers.inside = null;
  if (!seen.length) Object.assign(answers, {view: null, losses: [], patterns: [], effects: [], map: null});
  render_status();
  if (!seen.length) render();
  ask();
  save_soon();
}

function render_text(before, now) {  // a span for each character; only what differs is changed
  const layer = $("shown");
  if (!render_text.end) layer.append(render_text.before = element("span", "", "before"), render_text.end = element("span", "\u200b"));
  $("editor").dir = RIGHT_TO_LEFT.test(text.value) ? "rtl" : "ltr";  // one direction for all lines, because browsers handle per-line direction in spans differently
  set_text(render_text.before, before);
  now.forEach((one, k) => {
    const old = shown[k];
    one.span = old ? old.span : element("span");
    if (!old) render_text.end.before(one.span);
    if (!old || old.c !== one.c) one.span.textContent = one.c;
    one.span.place = k;
  });
  shown.slice(now.length).forEach(one => one.span.remove());
  shown = now;
}

function current() {  // the position that everything is shown for: under the pointer, else tapped, else before the caret
  for (const place of [pointed, tapped && tapped.caret === text.selectionStart ? tapped.place : -1])
    if (place >= 0 && shown[place]?.n >= 0) return shown[place].n;
  let n = seen.length - 1;
  while (n > 0 && seen[n].at >= text.selectionStart) n--;
  return n;
}

function render_colors() {
  const now = current(), by_loss = $("color").value === "loss", view = answers.view;
  const [l, h] = selection.head, attn = view && view.attn.subarray((l * H + h) * (view.at + 1), (l * H + h + 1) * (view.at + 1));
  for (const {n, c, span} of shown) {
    const kind = n < 0 ? "unknown" : (n === now ? "now " : "") + (c === "\n" ? "break" : "");
    const share = n < 0 ? 0 : by_loss ? loss_intensity(answers.losses[n - 1] || 0) : attn && n <= view.at ? attention_intensity(attn[n]) : 0;
    const background = shade(share);
    if (span.className !== kind) span.className = kind;
    if (span.background !== background) span.style.background = span.background = background;
  }
}

function render_status() {
  const now = current(), one = seen[now], loss = answers.losses[now - 1];
  const loss_here = loss === undefined ? "" : `, loss ${number(loss)} nats`;
  set_text($("status"), one ? `At ${named(one.c)}, character ${now + 1} of ${seen.length}${loss_here}.` :
    "Type some text" + (text.value ? ` in characters that the model knows, such as ${named(characters.find(c => /\p{L}/u.test(c)) || characters[0])}.` : "."));
  announce();
}

function keep_in_view() {  // the current character, while the caret decides which one it is
  if (pointed >= 0) return;
  const editor = $("editor"), span = seen[current()]?.span;
  if (!span) return;
  const box = span.getBoundingClientRect(), frame = editor.getBoundingClientRect();
  if (box.bottom > frame.bottom) editor.scrollTop += box.bottom - frame.bottom + 8;
  if (box.top < frame.top) editor.scrollTop -= frame.top - box.top + 8;
}

function announce() {  // for screen readers: once the page has been quiet for a second
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => { if (!playing) set_text($("live"), $("status").textContent); }, 1000);
}

function show_place(place) {  // at most once a frame
  if (place === pointed) return;
  pointed = place;
  if (!show_place.due) requestAnimationFrame(() => { show_place.due = false; if (seen.length) { render_colors(); render_status(); ask(); } });
  show_place.due = true;
}

const place_under = e => document.elementsFromPoint(e.clientX, e.clientY).find(one => one.place !== undefined)?.place ?? -1;
text.addEventListener("pointermove", e => { if (e.pointerType !== "touch" && !playing) show_place(place_under(e)); });
text.addEventListener("pointerleave", () => show_place(-1));
text.addEventListener("click", e => {  // the caret goes to the nearer side of a letter, but the letter itself is meant
  tapped = {place: place_under(e), caret: text.selectionStart};
  if (seen.length) { render_colors(); render_status(); ask(); }
});
document.addEventListener("selectionchange", () => {
  if (document.activeElement !== text || playing || !seen.length) return;
  pointed = -1;
  render_colors(); render_status(); ask();
  save_soon();
});
