// The state in the URL, so that a link reproduces the view; reset; copy link; print.

const FIELDS = ["temperature", "top-k", "seed", "color"];
const defaults = () => ({temperature: "0.8", "top-k": String(Math.min(20, V)), seed: "1", color: "loss"});

function state_hash() {  // only what differs from the page as it opens
  const parts = new URLSearchParams(), [l, h] = selection.head, usual = defaults();
  if (text.value !== data.text) parts.set("text", text.value);
  if (text.selectionStart !== text.value.length) parts.set("at", text.selectionStart);
  if (l !== L - 1 || h) parts.set("head", `${l + 1}.${h + 1}`);
  if (selection.off.size) parts.set("off", [...selection.off].map(k => `${Math.floor(k / H) + 1}.${k % H + 1}`).join());
  for (const id of FIELDS) if ($(id).value !== usual[id]) parts.set(id, $(id).value);
  return parts.toString();
}

function restore(hash) {  // values that do not fit this model are ignored
  const parts = new URLSearchParams(hash.replace(/^#/, "")), usual = defaults();
  const head_of = name => {
    const [l, h] = name.split(".").map(v => v - 1);
    return l >= 0 && l < L && h >= 0 && h < H && Number.isInteger(l) && Number.isInteger(h) ? [l, h] : null;
  };
  text.value = parts.get("text") ?? data.text;
  const at = parts.has("at") ? Math.min(text.value.length, Math.max(0, Math.floor(+parts.get("at")) || 0)) : text.value.length;
  text.selectionStart = text.selectionEnd = at;
  selection.head = head_of(parts.get("head") || "") || [L - 1, 0];
  selection.off = new Set((parts.get("off") || "").split(",").map(head_of).filter(Boolean).map(([l, h]) => l * H + h));
  for (const id of FIELDS) {
    $(id).value = usual[id];
    const value = parts.get(id);
    if (value !== null && (id === "color" ? ["loss", "head"].includes(value) : Number.isFinite(+value) && value !== "")) $(id).value = value;
  }
  Object.assign(edits, {undo: [], redo: [], now: snapshot(), kind: ""});
  sliders();
  render_selection();
  update_text();
}

function save_soon() {
  clearTimeout(save_soon.timer);
  save_soon.timer = setTimeout(save_now, 300);
}

function save_now() {
  const hash = state_hash();
  if (hash === location.hash.slice(1)) return;
  try { history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search); } catch { /* a frame without a URL */ }
}

addEventListener("hashchange", () => { stop(); restore(location.hash); });
$("reset").addEventListener("click", () => { stop(); restore(""); text.focus(); });
$("link").addEventListener("click", () => {
  save_now();
  const said = copied => { set_text($("link"), copied ? "Link copied" : "Link is in the address bar"); setTimeout(() => set_text($("link"), "Copy link"), 2000); };
  navigator.clipboard ? navigator.clipboard.writeText(location.href).then(() => said(true), () => said(false)) : said(false);
});
$("print").addEventListener("click", () => print());
