// The guided tour. Each step names the element that it is about, and may change the page.

const TOUR = [
  ["editor", "The task", "The model reads a text character by character. At every position it answers one question: which character is next? Its answer is a probability for each character that it knows."],
  ["editor", "Loss", "The color of a character is its loss: how much it surprised the model. Loss is −ln(probability), in nats. A probability of 100% costs 0 nats, of 37% costs 1, of 5% costs 3.", () => { $("color").value = "loss"; render_colors(); }],
  ["next", "Candidates and temperature", "These are the most likely next characters. A temperature below 1 sharpens the distribution; top-k keeps only the k most likely characters. Click a character to insert it."],
  ["overview", "A head that looks back", "A head is a part of a layer that reads from the current and the earlier positions. Each strip is one head: from the first character on the left to the current one, the deeper the color, the larger the attention weight. The selected head now colors the text.", () => {
    const ranked = answers.patterns.map((pattern, k) => [pattern && pattern.rule !== "the query itself" ? pattern.share - pattern.uniform : 0, k]).sort((a, b) => b[0] - a[0]);
    if (ranked[0]?.[0] > 0) select_head(Math.floor(ranked[0][1] / H), ranked[0][1] % H);
  }],
  ["layers", "The prediction, layer by layer", "Every layer adds to a vector, the residual stream. Here the output head reads this vector after each layer (the “logit lens”). A logit is the score of a character before the softmax turns scores into probabilities."],
  ["heads-section", "Switching a head off", "The table lists the heads by importance: how much the loss of this text increases without the head. If all effects have been measured, the most important head is now switched off: its output is zero, and everything is computed without it.", () => {
    const best = top_indices(answers.effects.map(v => v ?? -1), 1)[0];
    if (best !== undefined && answers.effects.every(v => v != null) && !selection.off.size) { switch_head(best, false); tour.undo = () => switch_head(best, true); }
  }],
  ["inside", "All the numbers", "The same prediction with its actual vectors, step by step, each with its function in layers.py. An MLP (multilayer perceptron) is the part of a layer that processes each position by itself.", () => { $("inside").open = true; }],
  ["controls", "Generating text", "Generate lets the model write: it samples a character, reads it, and samples the next. The same seed gives the same text. Undo, or Ctrl-Z, takes it back. Now change the text yourself."],
];

const tour = {at: -1, undo: null, from: null};

function show_tour(at) {
  tour.undo?.();
  tour.undo = null;
  document.querySelector(".toured")?.classList.remove("toured");
  if (at < 0 || at >= TOUR.length) { end_tour(); return; }
  const [id, title, words, action] = TOUR[tour.at = at];
  action?.();
  $("tour-title").textContent = title;
  $("tour-text").textContent = words;
  $("tour-count").textContent = `${at + 1} of ${TOUR.length}`;
  $("tour-back").disabled = at === 0;
  $("tour-next").textContent = at === TOUR.length - 1 ? "Finish" : "Next";
  $("tour").hidden = false;
  $(id).classList.add("toured");
  if (!$("top").contains($(id))) $(id).scrollIntoView({block: "start"});
  $("tour-title").focus();
}

function end_tour() {
  tour.at = -1;
  $("tour").hidden = true;
  tour.from?.focus();
}

$("start-tour").addEventListener("click", () => { tour.from = $("start-tour"); show_tour(0); });
$("tour-next").addEventListener("click", () => show_tour(tour.at + 1));
$("tour-back").addEventListener("click", () => show_tour(tour.at - 1));
$("tour-close").addEventListener("click", () => show_tour(-1));
$("tour").addEventListener("keydown", e => {
  const to = {Escape: -1, ArrowRight: tour.at + 1, ArrowLeft: Math.max(0, tour.at - 1)}[e.key];
  if (to === undefined) return;
  e.preventDefault();
  show_tour(to);
});
