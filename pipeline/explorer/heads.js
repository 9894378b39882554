// Attention heads: the overview of all layers and heads, the table by importance, and the selected head in full.

const UNIFORM = .9;  // attention whose entropy is above this fraction of that of uniform attention counts as uniform
const MIXED = .2;  // a head whose best rule covers less of its attention than this counts as mixed
const MIN_EFFECT = .0005;  // nats: an effect below it shows as zero
const heads = [];  // {l, h, k, cell, canvas, mark, row, effect, pattern, box}

function pattern_text(pattern) {
  if (!pattern) return "";
  const {rule, share, uniform, entropy} = pattern;
  if (entropy > UNIFORM) return `nearly uniform (entropy ${percent(entropy)} of the maximum)`;
  return `${share < MIXED ? "mixed; " : ""}${percent(share)} on ${rule} (uniform: ${percent(uniform)})`;
}

const effect_text = effect => effect == null ? "…" : difference(Math.abs(effect) < MIN_EFFECT ? 0 : effect);

function select_head(l, h) {
  selection.head = [l, h];
  $("color").value = "head";
  render_selection();
  render_colors();
  ask();
  save_soon();
}

function switch_head(k, is_on) {
  if (is_on) selection.off.delete(k); else selection.off.add(k);
  render_selection();
  ask();
  save_soon();
}

function make_heads() {
  const grid = $("grid");
  grid.style.setProperty("--heads", H);
  grid.append(element("span"), ...Array.from({length: H}, (_, h) => element("span", `head ${h + 1}`, "label")));
  for (let l = 0; l < L; l++) {
    grid.append(element("span", `layer ${l + 1}`, "label"));
    for (let h = 0; h < H; h++) {
      const k = l * H + h, canvas = element("canvas"), mark = element("span", "", "mark");
      const cell = button("", () => select_head(l, h), "cell");
      canvas.setAttribute("aria-hidden", "true");
      cell.append(canvas, mark);
      grid.append(cell);
      const row = element("tr"), title = element("th"), effect = element("td", "", "share"), pattern = element("td", "", "words"), last_cell = element("td");
      const box = element("input");
      Object.assign(box, {type: "checkbox", checked: true});
      box.setAttribute("aria-label", `${head_name(l, h)} is on`);
      box.addEventListener("change", () => switch_head(k, box.checked));
      title.scope = "row";
      title.append(button(`${l + 1}.${h + 1}`, () => select_head(l, h)));
      title.firstChild.setAttribute("aria-label", head_name(l, h));
      last_cell.append(box);
      row.append(title, effect, pattern, last_cell);
      $("heads").append(row);
      heads.push({l, h, k, cell, canvas, mark, row, title, effect, pattern, box});
    }
  }
  $("head-on").addEventListener("change", () => switch_head(selection.head[0] * H + selection.head[1], $("head-on").checked));
}

function render_selection() {
  const [l, h] = selection.head, k = l * H + h;
  for (const one of heads) {
    const mine = one.k === k, off = selection.off.has(one.k);
    one.cell.setAttribute("aria-pressed", mine);
    one.title.firstChild.setAttribute("aria-pressed", mine);
    for (const node of [one.cell, one.row]) { node.classList.toggle("chosen", mine); node.classList.toggle("off", off); }
    one.box.checked = !off;
  }
  $("head-on").checked = !selection.off.has(k);
  set_text($("head-name"), head_name(l, h));
  set_text($("head-pattern"), answers.patterns[k] ? `Averaged over the text: ${pattern_text(answers.patterns[k])}.` : "");
  set_text($("head-effect"), answers.effects[k] == null ? "" : `Switched off: ${effect_text(answers.effects[k])} nats per character.`);
}

function render_attention({at, attn}) {
  for (const {k, canvas} of heads) paint(canvas, attn.subarray(k * (at + 1), (k + 1) * (at + 1)), at + 1, attention_intensity);
  const [l, h] = selection.head, row = attn.subarray((l * H + h) * (at + 1), (l * H + h + 1) * (at + 1));
  const places = top_indices(row, 3).map(i => `${percent(row[i])} on ${named(seen[i].c)} ${i === at ? "(itself)" : `${at - i} back`}`);
  set_text($("head-here"), `Here: ${places.join(", ")} (uniform: ${percent(1 / (at + 1))} each).`);
}

function render_summary() {  // what is known of each head
  const largest = Math.max(MIN_EFFECT, ...answers.effects.map(v => v || 0));
  for (const {l, h, k, cell, mark, effect, pattern} of heads) {
    const known = answers.effects[k] != null, text = effect_text(answers.effects[k]);
    set_text(mark, known ? text : "");
    set_text(effect, text);
    effect.style.setProperty("--share", known ? Math.max(0, answers.effects[k] / largest) : 0);
    cell.style.setProperty("--share", known ? Math.max(0, answers.effects[k] / largest) : 0);
    set_text(pattern, pattern_text(answers.patterns[k]));
    cell.setAttribute("aria-label", `${head_name(l, h)}: ${pattern_text(answers.patterns[k])}${known ? `; switched off: ${text} nats` : ""}`);
  }
  render_selection();
}

function sort_heads() {  // the most important first; rows stay where they are while one of them has the focus
  if ($("heads").contains(document.activeElement) || answers.effects.some(v => v == null)) return;
  const sorted = [...heads].sort((a, b) => answers.effects[b.k] - answers.effects[a.k]);
  if (sorted.some(({row}, i) => $("heads").children[i] !== row)) $("heads").append(...sorted.map(one => one.row));
}

function render_loss() {
  const loss = mean(answers.losses), all = answers.baseline;
  set_text($("loss"), seen.length < 2 ? "" : `Loss of this text: ${number(loss, 3)} nats per character` +
    (selection.off.size ? `; with all heads on, ${number(all, 3)}: a difference of ${difference(loss - all)}.` : "."));
}

on("read", ({losses, baseline}) => { Object.assign(answers, {losses, baseline}); render_loss(); render_colors(); render_status(); });
on("progress", ({done, losses}) => {
  if (!losses) { set_text($("loss"), "Computing …"); return; }
  const kept = new Float32Array(Math.max(0, seen.length - 1));  // what is not yet computed keeps its former color
  kept.set(answers.losses.subarray?.(0, kept.length) || []);
  kept.set(losses.subarray(0, kept.length));
  answers.losses = kept;
  if (done < seen.length) set_text($("loss"), `Computing: ${done} of ${seen.length} characters …`);
  render_colors();
});
on("patterns", ({patterns}) => { answers.patterns = patterns; render_summary(); });
on("effects", ({values}) => { answers.effects = values; render_summary(); sort_heads(); });
on("map", message => { answers.map = message; render_map(); });

function render_map() {  // row: query, column: key
  const {size, map} = answers.map || {size: 0, map: []};
  $("map").hidden = !size;
  if (size) paint($("map"), map, size, attention_intensity);
}

function save_map() {  // the map of the selected head as a PNG, with a title, scaled to at least 512 pixels
  if (!answers.map) return;
  const {size, head: [l, h]} = answers.map, scale = Math.max(2, Math.ceil(512 / size)), margin = 40;
  const canvas = element("canvas"), pen = canvas.getContext("2d");
  [canvas.width, canvas.height] = [size * scale + 2 * margin, size * scale + 2 * margin];
  pen.fillStyle = `rgb(${colors.paper})`;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingEnabled = false;
  pen.drawImage($("map"), margin, margin, size * scale, size * scale);
  pen.fillStyle = colors.ink;
  pen.font = "16px system-ui, sans-serif";
  pen.fillText(`${head_name(l, h)}: attention weights, rows are queries, columns are keys`, margin, margin - 12, size * scale);
  const link = element("a");
  link.href = canvas.toDataURL("image/png");
  link.download = `layer-${l + 1}-head-${h + 1}.png`;
  link.click();
}
$("save-map").addEventListener("click", save_map);
