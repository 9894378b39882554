// Putting the page together and starting it.

function render() {  // all that is shown for the current position
  const view = answers.view, nothing = !view || view.at >= seen.length;
  for (const node of document.querySelectorAll(".position")) node.hidden = nothing;
  render_colors();
  render_status();
  if (nothing) {
    for (const {canvas} of heads) paint(canvas, [], 1, () => 0);
    set_text($("loss"), "");
    set_text($("head-here"), "");
    render_summary();
    render_map();
    return;
  }
  keep_in_view();
  render_attention(view);
  render_candidates(view);
  render_lens(view);
}
on("view", render);

$("color").addEventListener("change", () => { render_colors(); save_soon(); });
$("seed").addEventListener("input", save_soon);

for (const id of ["inside", "neurons"]) $(id).addEventListener("toggle", () => { if ($(id).open) ask(); });
for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)", "print"]) matchMedia(query).addEventListener("change", repaint);
function repaint() {
  read_colors();
  render();
  render_map();
  if (answers.inside) render_inside(answers.inside);
  if (snapshots) render_snapshot();
}

function describe() {
  const training = Object.entries(data.metadata).map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" ? +value.toFixed(4) : value}`);
  $("about").append(
    element("p", `This page is ${(data.bytes / 1e6).toFixed(data.bytes < 1e6 ? 2 : 1)} MB and makes no network requests. It contains ` +
      `${data.parameters.toLocaleString("en")} parameters in half precision: ${plural(L, "layer")} of ${plural(H, "head")}, width ${config.d_model}, ` +
      `context ${T}${config.rotary ? ", rotary position embeddings" : ""}. Weights with MD5 ${data.md5}; ${training.join(", ") || "no training metadata"}.`),
    element("p", "The same seed, settings and text give the same continuation. The Python sampler uses a different random number generator, so its text differs."));
}

function start() {
  if (data.problem) { show_error(data.problem); return; }
  worker.postMessage({config, shapes: data.shapes, characters, weights: $("weights").textContent, check: data.check});
  $("weights").textContent = "";
  on("checked", ({passed}) => { if (!passed) show_error(data.mismatch); });
  read_colors();
  $("top-k").max = V;
  make_heads();
  make_steps();
  describe();
  legend($("loss-legend"), "loss in nats:", [0, 1, 2, 4, MAX_NATS].map(v => [v === MAX_NATS ? `${v} or more` : v, shade(loss_intensity(v))]));
  legend($("attention-legend"), "attention weight:", [0, .01, .1, .5, 1].map(v => [`${100 * v}%`, shade(attention_intensity(v))]));
  legend($("strip-legend"), "elements of a vector:", [["most negative", `rgb(${colors.cold})`], ["0", ""], ["most positive", `rgb(${colors.heat})`]]);
  restore(location.hash);
  if (snapshots) render_snapshot();
}
start();
