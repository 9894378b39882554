// The prediction at the current position: the candidates, and the logit lens.

const CANDIDATES = 10, GUESSES = 5;

const candidates = Array.from({length: Math.min(CANDIDATES, V)}, () => {
  const row = element("tr"), cells = ["key", "bar", "share", "share"].map(name => element("td", "", name));
  const choose = button("", () => { stop(); insert(choose.id_, current()); });
  const bar = element("span");
  cells[0].append(choose);
  cells[1].append(bar);
  row.append(...cells);
  $("candidates").append(row);
  return {row, choose, bar, cells};
});

function render_candidates({at, logits}) {
  const after = distribution(logits), before = softmax(logits), best = top_indices(logits, candidates.length);
  candidates.forEach(({row, choose, bar, cells}, k) => {
    const id = best[k];
    choose.id_ = id;
    set_text(choose, visible(characters[id]));
    choose.setAttribute("aria-label", `Insert ${named(characters[id])}`);
    row.className = `${after[id] ? "" : "none"} ${seen[at + 1]?.id === id ? "actual" : ""}`;
    bar.style.width = `${100 * after[id]}%`;
    set_text(cells[2], percent(after[id]));
    set_text(cells[3], percent(before[id]));
  });
}

const lens_rows = Array.from({length: L + 1}, (_, l) => {
  const row = element("tr"), title = element("th", l ? `layer ${l}` : "embedding");
  title.scope = "row";
  const cells = Array.from({length: Math.min(GUESSES, V)}, () => {
    const cell = element("td"), letter = element("span"), share = element("small");
    cell.append(letter, share);
    return {cell, letter, share};
  });
  row.append(title, ...cells.map(one => one.cell));
  $("lens").append(row);
  return cells;
});

function render_lens({at, lens}) {
  lens_rows.forEach((cells, l) => {
    const probabilities = softmax(lens.subarray(l * V, (l + 1) * V));
    top_indices(probabilities, cells.length).forEach((id, k) => {
      const {cell, letter, share} = cells[k];
      cell.className = seen[at + 1]?.id === id ? "actual" : "";
      cell.style.background = shade(probabilities[id]);
      set_text(letter, visible(characters[id]));
      set_text(share, percent(probabilities[id]));
    });
  });
}

for (const id of ["temperature", "top-k"]) $(id).addEventListener("input", () => { sliders(); save_soon(); });
function sliders() {
  $("temperature-shown").textContent = (+$("temperature").value).toFixed(2);
  $("top-k-shown").textContent = $("top-k").value;
  if (answers.view) render_candidates(answers.view);
}
