// The model's thread. The page sends what it wants to see; only the newest request is worked on. Between portions of
// work the thread looks for a newer one, so it never finishes outdated work.

const TIME_SLICE = 12;  // milliseconds of work between checks for a newer request
let model, check, characters, whole, variant, scratch;  // readers: with all heads on, with the user's selection, with one head off
let reader = null;  // whole or variant
let wanted = null, working = false;
let sent = "", sent_map = "", effects = {key: "", values: []};

onmessage = ({data: message}) => {
  if (message.weights) { load(message); return; }
  wanted = message;
  if (!working) work();
};

function load(message) {
  characters = message.characters;
  model = new GPT(message.config, message.shapes, decode(message.weights));
  whole = new Reader(model);
  [variant, scratch] = [new Reader(model, whole), new Reader(model, whole)];
  reader = whole;
  const {ids, logits} = message.check;
  whole.read(ids);
  const ours = whole.at(whole.logits, ids.length - 1, logits.length);
  const largest = Math.max(...logits.map(Math.abs)), error = Math.max(...logits.map((v, i) => Math.abs(v - ours[i])));
  postMessage({kind: "checked", error, passed: error <= .01 * (1 + largest)});  // false also for NaN
}

const channel = new MessageChannel();
function pause() { return new Promise(resolve => { channel.port1.onmessage = resolve; channel.port2.postMessage(0); }); }

async function work() {
  working = true;
  while (wanted) {
    const request = wanted;
    wanted = null;
    for (const message of answer(request)) {
      if (message) postMessage({id: request.id, ...message});
      await pause();
      if (wanted) break;
    }
  }
  working = false;
}

function* complete(one, request = null) {  // read the rest of the text, and report on the way if there is a request
  const needed = request && request.at >= 0 ? request.at : -1;
  if (needed >= 0 && needed < one.done) yield {kind: "view", ...view(one, request.at)};
  while (one.done < one.ids.length) {
    const before = one.done, stop = performance.now() + TIME_SLICE;
    do one.advance(4); while (one.done < one.ids.length && performance.now() < stop);
    if (needed >= before && needed < one.done) yield {kind: "view", ...view(one, request.at)};
    yield request && {kind: "progress", done: one.done, losses: losses(one)};
  }
}

function* answer(request) {
  const {ids, off, at, head, open} = request, key = `${ids.join()}|${off.join()}`;
  reader = off.length ? variant : whole;
  whole.set_request(ids);
  if (off.length && whole.done < ids.length) yield {kind: "progress", done: 0, losses: null};
  yield* complete(whole, off.length ? null : request);
  if (off.length) {
    variant.set_request(ids, off);
    yield* complete(variant, request);
  }
  const baseline = mean(losses(whole));
  if (key !== sent) {
    yield {kind: "read", losses: losses(reader), baseline};
    const summary = yield* patterns(reader, characters);
    yield {kind: "patterns", patterns: summary};
  }
  if (open.neurons && at >= 0) yield {kind: "neurons", lists: neurons(reader, at)};
  if (open.inside && at >= 0) yield {kind: "inside", ...inside(reader, at, ...head)};
  const map_key = `${key}|${head.join()}`;
  if (map_key !== sent_map) yield {kind: "map", size: ids.length, head, map: attention_map(reader, ...head)};
  [sent, sent_map] = [key, map_key];
  yield {kind: "settled"};
  yield* measure_effects(ids, baseline);
}

function* measure_effects(ids, baseline) {  // how much the loss of the text increases when one head is off, head by head
  const {n_layers: L, n_heads: H} = model.config;
  if (effects.key !== ids.join()) effects = {key: ids.join(), values: new Array(L * H).fill(null)};
  if (ids.length < 2) { yield {kind: "effects", values: effects.values}; return; }
  for (let k = 0; k < L * H; k++) {
    if (effects.values[k] !== null) continue;
    scratch.set_request(ids, [k]);
    yield* complete(scratch);
    effects.values[k] = mean(losses(scratch)) - baseline;
    yield {kind: "effects", values: effects.values};
  }
  yield {kind: "effects", values: effects.values};
}
