// Changing the text: sampling from the model, inserting characters, undo.

const edits = {undo: [], redo: [], now: null, kind: ""};  // states of the text: {value, caret}
let playing = false;

const snapshot = () => ({value: text.value, caret: text.selectionStart});

function remember(kind) {  // after a change; changes of the same kind, one after another, are undone together
  if (kind !== edits.kind || !kind) edits.undo.push(edits.now);
  Object.assign(edits, {redo: [], now: snapshot(), kind});
}

function restore_edit(from, to) {  // undo, or redo
  stop();
  if (!from.length) return;
  to.push(edits.now);
  edits.now = from.pop();
  edits.kind = "";
  text.value = edits.now.value;
  text.selectionStart = text.selectionEnd = edits.now.caret;
  update_text();
}

const undo = () => restore_edit(edits.undo, edits.redo), redo = () => restore_edit(edits.redo, edits.undo);

text.addEventListener("keydown", e => {
  if (!(e.ctrlKey || e.metaKey) || e.altKey) return;
  const key = e.key.toLowerCase();
  if (key !== "z" && key !== "y") return;
  e.preventDefault();
  if (key === "y" || e.shiftKey) redo(); else undo();
});
text.addEventListener("beforeinput", e => {  // the browser's own menu
  if (e.inputType === "historyUndo") { e.preventDefault(); undo(); }
  if (e.inputType === "historyRedo") { e.preventDefault(); redo(); }
});
text.addEventListener("input", e => {
  stop();
  const kind = e.inputType === "insertText" && e.data && e.data.trim() ? "typing" : e.inputType === "deleteContentBackward" ? "deleting" : "";
  remember(kind);
  update_text();
});

function distribution(logits) {  // probabilities after temperature and top-k
  const temperature = +$("temperature").value, k = Math.min(V, +$("top-k").value);
  const smallest_kept = Float32Array.from(logits).sort()[V - k];
  const kept = logits.map(v => v < smallest_kept ? -Infinity : v);
  if (temperature) return softmax(kept.map(v => v / temperature));
  const best = logits.indexOf(Math.max(...logits));
  return logits.map((_, i) => +(i === best));
}

function random(seed, place) {  // 0 to 1, from the seed and the place only: the same text continues the same way
  let x = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) + Math.imul(place + 1, 0xc2b2ae35) | 0;
  for (const factor of [0x7feb352d, 0x846ca68b]) { x = Math.imul(x ^ x >>> 16, factor); x ^= x >>> 15; }
  return (x >>> 0) / 2 ** 32;
}

function sample({at, logits}) {
  const probabilities = distribution(logits), target = random(+$("seed").value, skipped + at);
  let sum = 0, choice = 0;
  for (let id = 0; id < V; id++) if (probabilities[id]) { choice = id; if ((sum += probabilities[id]) > target) break; }
  return choice;
}

function insert(id, n, kind = "") {  // a character after position n
  const at = n < 0 ? 0 : seen[n].at + seen[n].c.length;
  text.value = text.value.slice(0, at) + characters[id] + text.value.slice(at);
  text.selectionStart = text.selectionEnd = at + characters[id].length;
  remember(kind);
  update_text();
}

let pending = 0;  // characters to sample as soon as the prediction at the end of the text is there

function step() {
  if (!seen.length) {
    stop();
    set_text($("notes"), "Type at least one character that the model knows; it then continues the text.");
    text.focus();
    return;
  }
  pending++;
  if (text.selectionStart !== text.value.length) text.selectionStart = text.selectionEnd = text.value.length;
  [pointed, tapped] = [-1, null];
  if (!sample_pending()) ask();
}

function sample_pending() {  // -> whether the prediction was there
  const end = seen.length - 1, view = answers.view;
  if (!view || view.id !== latest_id || view.at !== end) return false;
  if (pending) { pending--; insert(sample(view), end, playing ? "generated" : ""); }
  return true;
}

on("view", () => {
  if (pending) sample_pending();
  else if (playing) setTimeout(() => requestAnimationFrame(() => { if (playing && !pending) step(); }), 40);
});

function stop() {
  if (playing) edits.kind = "";
  [playing, pending] = [false, 0];
  set_text($("play"), "Generate");
}

$("play").addEventListener("click", () => {
  if (playing) { stop(); return; }
  playing = true;
  $("play").textContent = "Pause";
  edits.kind = "";
  step();
});
$("step").addEventListener("click", () => { if (playing) stop(); step(); });
$("undo").addEventListener("click", undo);
