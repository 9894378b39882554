// Watch it learn: how the model predicted a held-out excerpt at a few steps of its training.

const bytes = base64 => Uint8Array.from(atob(base64), c => c.charCodeAt(0));
const snapshots = data.snapshots?.snapshots.map(({predictions, losses, attn}) =>
  ({predictions, losses: bytes(losses), attn: bytes(attn)}));

function render_snapshot() {
  const s = +$("snapshot").value, {text: excerpt, steps, max_nats} = data.snapshots, {predictions, losses, attn} = snapshots[s];
  const letters = Array.from(excerpt), N = letters.length;
  const values = letters.map((_, i) => i ? losses[i - 1] / 255 * max_nats : 0);
  set_text($("snapshot-step"), `step ${steps[s].toLocaleString("en")}: ${number(mean(values.slice(1)), 2)} nats per character`);
  $("snapshot").setAttribute("aria-valuetext", $("snapshot-step").textContent);
  const cell = (content, share, name) => { const made = element(name, content); made.style.background = shade(share); return made; };
  const rows = [["the text", i => cell(visible(letters[i]), i ? loss_intensity(values[i]) : 0, "td")],
    ["predicted", i => cell(i ? visible(characters[predictions[i - 1]]) : "", 0, "td")]];
  $("snapshot-line").tBodies[0].replaceChildren(...rows.map(([title, make]) => {
    const row = element("tr"), head = element("th", title);
    head.scope = "row";
    row.append(head, ...letters.map((_, i) => make(i)));
    return row;
  }));
  const size = N * N;
  snapshot_maps.forEach((canvas, k) => paint(canvas, attn.subarray(k * size, (k + 1) * size), N, v => attention_intensity(v / 255)));
}

const snapshot_maps = [];
if (snapshots) {
  $("learn").hidden = false;
  $("snapshot").max = snapshots.length - 1;
  $("snapshot").value = 0;
  for (let k = 0; k < L * H; k++) {
    const figure = element("figure"), canvas = element("canvas");
    canvas.setAttribute("aria-hidden", "true");
    figure.append(canvas, element("figcaption", `${Math.floor(k / H) + 1}.${k % H + 1}`));
    $("snapshot-maps").append(figure);
    snapshot_maps.push(canvas);
  }
  $("snapshot-maps").style.setProperty("--heads", H);
  $("snapshot").addEventListener("input", render_snapshot);
}
