// What all parts of the page share: the model's data, small helpers, colors, and the connection to the worker. Text is
// put in as text, never as markup.

const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), {config, characters} = data;
const {block_size: T, n_layers: L, n_heads: H, vocab_size: V} = config;
const id_of = new Map(characters.map((c, i) => [c, i]));
const NAMES = {" ": "space", "\n": "newline", "\t": "tab"}, VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"};
const MAX_NATS = 6;  // of the color scale of losses
const named = c => NAMES[c] || `“\u2068${visible(c)}\u2069”`;  // isolated: a Hebrew letter does not reverse the text around it
const visible = c => VISIBLE[c] || (/^\p{M}$/u.test(c) ? "◌" + c : c);  // a combining mark needs something to combine with
const percent = p => `${(100 * p).toFixed(p < .0995 ? 1 : 0)}%`;
const number = (v, digits = 2) => v.toFixed(digits).replace("-", "−");
const difference = v => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(3);
const plural = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;
const head_name = (l, h) => `Layer ${l + 1}, head ${h + 1}`;

function element(name, content = "", className = "") {
  const made = document.createElement(name);
  made.textContent = content;
  if (className) made.className = className;
  return made;
}

function button(label, action, className = "") {
  const made = element("button", label, className);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function set_text(node, content) { if (node.textContent !== content) node.textContent = content; }

// Colors: a fraction, or a signed number from -1 to 1, as a background on which text stays readable.

const shade = intensity => intensity > .01 ? `rgb(var(--heat) / ${Math.min(1, intensity).toFixed(3)})` : "";
const loss_intensity = loss => Math.min(1, loss / MAX_NATS), attention_intensity = weight => Math.sqrt(weight);
let colors;
function read_colors() {
  const style = getComputedStyle(document.documentElement);
  const rgb = name => style.getPropertyValue(name).trim().split(" ").map(Number);
  colors = {heat: rgb("--heat"), cold: rgb("--cold"), paper: rgb("--paper"), ink: style.getPropertyValue("--ink")};
}

function paint(canvas, values, width, intensity) {  // one pixel for each value; intensity(value) is -1 to 1
  const height = values.length / width || 1;
  [canvas.width, canvas.height] = [Math.max(1, width), Math.max(1, height)];
  const image = new ImageData(canvas.width, canvas.height);
  for (let k = 0; k < values.length; k++) {
    const s = Math.max(-1, Math.min(1, intensity(values[k]))), color = s < 0 ? colors.cold : colors.heat;
    for (let c = 0; c < 3; c++) image.data[4 * k + c] = colors.paper[c] + (color[c] - colors.paper[c]) * Math.abs(s);
    image.data[4 * k + 3] = 255;
  }
  canvas.getContext("2d", {willReadFrequently: true}).putImageData(image, 0, 0);
}

function legend(node, title, stops) {  // stops: [label, background]
  node.className = "legend";
  node.replaceChildren(element("span", title), ...stops.map(([label, background]) => {
    const stop = element("span", label, "stop");
    stop.style.background = background;
    return stop;
  }));
}

// The worker: the newest request is answered, in several messages; an answer to an older one is dropped.

const worker = new Worker(URL.createObjectURL(new Blob(
  [$("shared").textContent, $("worker").textContent], {type: "text/javascript"})));
const listeners = {};  // kind of message -> functions
const on = (kind, handler) => (listeners[kind] ||= []).push(handler);
let latest_id = 0;
worker.onmessage = ({data: message}) => {
  if (message.id === undefined || message.id === latest_id) for (const handler of listeners[message.kind] || []) handler(message);
};
worker.onerror = event => show_error(`The model's thread stopped: ${event.message}`);

function show_error(sentence) {  // show nothing rather than wrong numbers
  $("error").textContent = sentence;
  $("error").hidden = false;
  for (const node of document.querySelectorAll("main, #tools")) node.hidden = true;
}

const answers = {view: null, losses: [], baseline: 0, patterns: [], effects: [], map: null, inside: null};  // the newest answers
const selection = {head: [L - 1, 0], off: new Set()};  // the selected head; heads that are off, as layer * H + head
let asked = false;

function ask() {  // at most once per task: what was asked for in between would be out of date
  $("main").setAttribute("aria-busy", "true");
  latest_id++;
  if (asked) return;
  asked = true;
  queueMicrotask(() => {
    asked = false;
    worker.postMessage({id: latest_id, ids: seen.map(one => one.id), off: [...selection.off].sort((a, b) => a - b), at: current(),
      head: selection.head, open: {inside: $("inside").open, neurons: $("neurons").open}});
  });
}

on("view", view => { answers.view = view; });
on("settled", () => $("main").setAttribute("aria-busy", "false"));
