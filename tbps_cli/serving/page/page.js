"use strict";
// The page of `tbps serve`. State lives in `state` and in the address, so that a search can be bookmarked; everything
// shown is made with textContent, so that no name or caption is ever taken as markup.

const PATIENCE = 250; // milliseconds for which an answer to what was typed before is waited for
const TOP = 60;
const MOST = 1000;
const SMALLEST = 8; // pixels of a box
const LEVELS = [null, 0.5, 0.8, 0.9, 0.95, 0.99];
const EXAMPLES = ["a woman in a red coat", "a man in a white shirt and black trousers", "somebody with a backpack"];
const $ = (id) => document.getElementById(id);

const state = {
  gallery: null, text: "", plus: [], minus: [], cameras: [], since: "", until: "", group: "auto", sort: "score",
  sure: 0, where: "", top: TOP,
};
let galleries = [];
let calibrated = false;
let blurred = false;
let answer = null;
let here = 0;
let running = null;
let begun = 0;
let later = null;
let timer = 0;
let lastFocus = null;
const chosen = new Map();

// Asking ---------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(said, hint, status, again) {
    super(said);
    this.hint = hint;
    this.status = status;
    this.again = again;
  }
}

async function ask(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached.", "Is tbps serve still running?", 0, 3);
  }
  if (reply.ok) return reply;
  let said = {};
  try { said = await reply.json(); } catch { /* a proxy's page */ }
  const again = Number(reply.headers.get("retry-after")) || 0;
  throw new Refused(said.error || `The server answered ${reply.status}.`, said.hint || "", reply.status, again);
}

const post = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

function request() {
  const body = { top: state.top, sort: state.sort };
  if (state.gallery) body.gallery = state.gallery;
  if (state.text.trim()) body.text = state.text.trim();
  if (state.plus.length) body.plus = state.plus.map(bare);
  if (state.minus.length) body.minus = state.minus.map(bare);
  if (state.cameras.length) body.cameras = state.cameras;
  for (const name of ["since", "until", "where"]) if (state[name].trim()) body[name] = state[name];
  if (grouped()) body.group = grouped();
  if (state.sure && calibrated && isPlain()) body.sure = LEVELS[state.sure];
  return body;
}

const bare = ({ text, picture, upload, box }) =>
  Object.fromEntries(Object.entries({ text, picture, upload, box }).filter(([, value]) => value != null));
const isPlain = () => !state.plus.length && !state.minus.length;
const served = () => galleries.find((one) => one.name === state.gallery);

// One hit a track where tracks are known, unless something else was chosen.
function grouped() {
  const known = served()?.groups || [];
  if (state.group !== "auto") return known.includes(state.group) ? state.group : "";
  return known.includes("track") ? "track" : "";
}
const asked = () => state.text.trim() || state.plus.length;

// While one types, each key is asked for at once; but only one question is on its way, and the newest is asked when it is
// answered: a server that is asked again and again for what nobody wants to see any more takes longer for what comes last.
function search({ keep = false, typing = false } = {}) {
  clearTimeout(timer);
  later = null;
  if (!keep) state.top = TOP;
  const since = performance.now() - begun;
  if (!typing || !running || since >= PATIENCE) return find({ keep, typing });
  later = { keep, typing };
  timer = setTimeout(find, PATIENCE - since, later);
}

async function find({ keep = false, typing = false, tries = 0 } = {}) {
  clearTimeout(timer);
  later = null;
  writeAddress(typing);
  if (!asked()) {
    running?.abort();
    running = answer = null;
    trouble(null);
    return show();
  }
  const body = request();
  if (typing && !running && $("trouble").hidden && answer?.body === JSON.stringify(body)) return; // a space more or less
  running?.abort();
  const mine = (running = new AbortController());
  begun = performance.now();
  $("hits").classList.add("old");
  try {
    const found = await (await post("/v1/search", body, mine.signal)).json();
    if (mine !== running) return;
    found.milliseconds = performance.now() - begun;
    found.body = JSON.stringify(body);
    running = null;
    const at = keep && answer?.hits[here]?.id;
    answer = found;
    here = at ? Math.max(0, found.hits.findIndex((hit) => hit.id === at)) : 0;
    trouble(null);
    if (later) find(later); // the server works while the page draws
    show();
    if (running) $("hits").classList.add("old");
    else if (found.indexing) timer = setTimeout(find, 2500, { keep: true });
  } catch (error) {
    if (error.name === "AbortError" || mine !== running) return;
    running = null;
    if (later) return find(later);
    $("hits").classList.remove("old");
    if (error.again && tries < 40) {
      $("status").textContent = error.message;
      timer = setTimeout(find, 1000 * Math.min(error.again, 3), { keep, tries: tries + 1 });
      if (error.status) return;
    }
    trouble(error);
  }
}

function trouble(error) {
  const box = $("trouble");
  box.hidden = !error;
  box.replaceChildren();
  box.dataset.away = error && !error.status ? "yes" : "";
  $("hits").classList.toggle("old", Boolean(error)); // what is there still answers another question
  if (!error) return;
  box.append(error.message);
  if (error.hint) box.append(make("small", { text: error.hint }));
  if (error.status === 401) box.append(make("p", {}, make("a", { href: "/", text: "Give the token" })));
  if (error.status >= 400 && error.status < 500) return; // the same question is refused again
  box.append(make("button", { text: "Try again", class: "tool", type: "button", on: () => find() }));
}

// The address ----------------------------------------------------------------------------------

function writeAddress(typing) {
  const known = new URLSearchParams();
  const put = (key, value) => value && known.set(key, value);
  put("q", state.text.trim());
  if (galleries.length > 1) put("gallery", state.gallery);
  for (const camera of state.cameras) known.append("camera", camera);
  for (const key of ["since", "until", "where"]) put(key, state[key]);
  if (state.group !== "auto") put("group", state.group || "image");
  if (state.sort !== "score") put("sort", state.sort);
  put("sure", state.sure);
  for (const sign of ["plus", "minus"])
    for (const part of state[sign]) if (!part.upload) known.append(sign, JSON.stringify(bare(part)));
  const address = known.size ? `?${known}` : location.pathname;
  if (address === (location.search || location.pathname)) return;
  if (typing) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
}

function readAddress() {
  const known = new URLSearchParams(location.search);
  state.text = (known.get("q") || "").slice(0, 2000);
  state.gallery = known.get("gallery");
  state.cameras = known.getAll("camera");
  for (const key of ["since", "until", "where"]) state[key] = known.get(key) || "";
  const group = known.get("group") || "auto";
  state.group = group === "image" ? "" : group;
  state.sort = known.get("sort") === "time" ? "time" : "score";
  state.sure = Math.min(LEVELS.length - 1, Math.max(0, Math.round(Number(known.get("sure"))) || 0));
  for (const sign of ["plus", "minus"]) {
    state[sign] = known.getAll(sign).flatMap((text) => {
      try {
        const part = JSON.parse(text);
        return typeof part === "object" && part ? [bare(part)] : [];
      } catch { return []; }
    });
  }
  if (state.gallery && galleries.length && !galleries.some((one) => one.name === state.gallery)) {
    toast(`The gallery ${state.gallery} of this bookmark is not served here.`);
    state.gallery = null;
  }
  state.gallery ||= galleries[0]?.name || null;
}

// Elements -------------------------------------------------------------------------------------

function make(name, { text, on, ...rest } = {}, ...inside) {
  const made = document.createElement(name);
  if (text != null) made.textContent = text;
  for (const [key, value] of Object.entries(rest)) if (value != null && value !== false) made.setAttribute(key, value === true ? "" : value);
  if (on) made.addEventListener("click", on);
  made.append(...inside.filter(Boolean));
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const pictureAt = (id, view = "thumbnail") => `/v1/pictures/${encodeURIComponent(id)}?view=${view}`;

function image(id, alt, view) {
  const made = make("img", { src: pictureAt(id, view), alt, loading: "lazy", decoding: "async", draggable: "false" });
  made.addEventListener("error", () => { made.parentElement?.classList.add("lost"); made.remove(); });
  return made;
}

function toast(text, picture) {
  const made = make("div", { class: "toast" }, picture && image(picture, ""), make("span", { text }));
  $("toasts").append(made);
  setTimeout(() => made.remove(), 6000);
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String((seconds % 60).toFixed(1)).padStart(4, "0")}`;
const amount = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many || `${one}s`}`;
// Marks that turn the direction of writing could make a name look like another.
const nameOf = (path) => path.split("/").pop().replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

function whenOf(hit) {
  if (hit.first != null && hit.last != null && hit.first !== hit.last) return `${moment(hit.first)} – ${moment(hit.last)}`;
  return hit.time == null ? "" : moment(hit.time);
}
const moment = (time) => (typeof time === "number" ? `${clock(time)} into the video` : time.replace("T", " "));
// Never rounded up: no image is above all of a gallery that it is in.
const share = (percentile) => Math.min(99.9, Math.floor(10 * percentile) / 10).toFixed(1);
// As short as a card needs: "11-21 10:00" or "0:22".
function shortWhen(hit) {
  if (hit.time == null) return "";
  return typeof hit.time === "number" ? clock(hit.time).replace(/\.\d$/, "") : hit.time.slice(5, 16).replace("T", " ");
}
const titleOf = (hit) => (hit.person != null ? `person ${hit.person}` : hit.track != null ? `track ${hit.track}` : nameOf(hit.source || hit.path));

// Showing --------------------------------------------------------------------------------------

function show() {
  showChips();
  showNotes();
  showStatus();
  showLine();
  showHits();
  showEmpty();
  showFilters();
}

function showStatus() {
  const now = served();
  const parts = [];
  if (answer) {
    const of = answer.candidates == null ? amount(answer.size, "image") : `${answer.candidates.toLocaleString("en")} of ${amount(answer.size, "image")}`;
    parts.push(`${of}, ${Math.max(1, Math.round(answer.milliseconds))} ms`);
    if (answer.sure) parts.push(sureText(answer.sure));
  } else if (now?.state === "ready") parts.push(amount(now.images, "image"));
  if (now?.state === "indexing") {
    const { done, total } = now.progress || {};
    parts.push(total ? `being indexed: ${done.toLocaleString("en")} of ${total.toLocaleString("en")}` : "being opened");
  }
  if (now?.state === "ready" && now.trouble) parts.push(`not brought up to date: ${now.trouble.message}`);
  $("status").textContent = parts.join(" · ");
}

function sureText(sure) {
  const often = `${Math.round(100 * sure.level)} of 100 searches`;
  if (!sure.confident) return `no confident match: the best image scores ${sure.best_score.toFixed(3)}, ${whyNot(sure)}`;
  return `the person is in ${amount(sure.size, "image")} of them in ${often}, if anywhere here`;
}

const whyNot = (sure) => (sure.best_score < sure.lowest_score
  ? `people who are there ${sure.lowest_score.toFixed(3)} or more`
  : `and so does the best of as many images of strangers in ${Math.round(100 * sure.strangers_score_as_high)} of 100 searches`);

function showChips() {
  const made = [];
  for (const sign of ["plus", "minus"]) {
    state[sign].forEach((part, place) => {
      const what = part.text || (part.box ? "a part of an image" : "an image");
      made.push(chip(sign === "plus" ? "like" : "not", what, part, sign === "minus", () => {
        state[sign].splice(place, 1);
        search();
      }));
    });
  }
  for (const remark of answer?.understood?.remarks || []) {
    if (!remark.cut) continue;
    const minus = remark.kind === "minus";
    made.push(chip(minus || remark.done.includes(remark.kind) ? "" : remark.kind, minus ? remark.words : remark.done, null, minus, () => {
      const [start, end] = remark.cut;
      const letters = Array.from(answer.understood.question);
      setText([...letters.slice(0, start), ...letters.slice(end)].join("").replace(/\s+/g, " ").trim());
      search();
    }));
  }
  for (const camera of state.cameras) made.push(chip("camera", camera, null, false, () => { state.cameras = state.cameras.filter((one) => one !== camera); search(); }));
  for (const [key, called] of [["since", "from"], ["until", "to"], ["where", "filter"]])
    if (state[key]) made.push(chip(called, state[key].replace("T", " "), null, false, () => { state[key] = ""; search(); }));
  $("chips").replaceChildren(...made);
}

function chip(kind, text, part, minus, away) {
  const shown = part?.picture ? image(part.picture, "") : part?.upload ? make("img", { src: `/v1/images/${encodeURIComponent(part.upload)}`, alt: "" }) : null;
  return make("span", { class: minus ? "chip minus" : "chip", title: text }, kind && make("i", { text: kind }), shown, make("span", { text }),
    make("button", { type: "button", text: "×", "aria-label": `Take away: ${kind} ${text}`.replace("  ", " "), on: away }));
}

function showNotes() {
  const notes = [];
  for (const remark of answer?.understood?.remarks || []) {
    if (remark.cut) continue;
    const text = remark.kind === "missing" ? `Not named: ${remark.done}. The more is named, the better.` : `${remark.words ? `“${remark.words}”: ` : ""}${remark.done}`;
    const line = make("p", { text });
    if (remark.offer) line.append(" ", make("button", { type: "button", text: remark.offer, on: () => { setText(remark.offer); search(); } }));
    notes.push(line);
  }
  const misspelt = answer?.understood?.suggestions?.[0];
  if (misspelt?.offer) notes.push(make("p", { text: "Did you mean " }, make("button", { type: "button", text: misspelt.offer, on: () => { setText(misspelt.offer); search(); } }), "?"));
  $("notes").replaceChildren(...notes);
}

function showHits() {
  const list = $("hits");
  list.classList.remove("old");
  const hits = answer?.hits || [];
  here = Math.min(here, Math.max(0, hits.length - 1));
  const focused = list.contains(document.activeElement) && document.activeElement !== list;
  const had = new Map([...list.children].map((card) => [card.dataset.id, card]));
  const cards = hits.map((hit, place) => fill(had.get(hit.id) || CARD.cloneNode(true), hit, place));
  for (const hit of hits) had.delete(hit.id);
  for (const gone of had.values()) gone.querySelector("img")?.removeAttribute("src"); // nobody waits for it any more
  list.replaceChildren(...cards);
  if (focused) move(here, true);
  $("more").hidden = !hits.length || hits.length < state.top || state.top >= MOST;
}

const CARD = make("li", { class: "hit" },
  make("button", { type: "button", class: "open" },
    make("span", { class: "photo" }, make("span", { class: "rank" })),
    make("span", { class: "told" }, make("b"), make("i"), make("span"), make("span", { class: "seen" }, make("span"), make("span")), make("span"))),
  make("div", { class: "do" },
    make("button", { type: "button", "data-do": "more", text: "More", title: "More like this (M)" }),
    make("button", { type: "button", "data-do": "less", text: "Not", title: "Not like this (N)" }),
    make("button", { type: "button", "data-do": "choose", title: "Choose (C)" })));

// A card with what is known of a hit; one that was there already keeps its image, so that it does not flicker.
function fill(card, hit, place) {
  const title = titleOf(hit);
  const [open, acts] = card.children;
  const [photo, told] = open.children;
  const [score, worth, name, seen, members] = told.children;
  const said = `${hit.rank}: ${title}, score ${hit.score.toFixed(3)}${hit.camera ? `, camera ${hit.camera}` : ""}`;
  Object.assign(card.dataset, { id: hit.id, place });
  card.classList.toggle("here", false);
  open.setAttribute("aria-label", `Open hit ${said}`);
  open.tabIndex = place === here ? 0 : -1;
  if (!photo.querySelector("img")) {
    photo.classList.remove("lost");
    photo.prepend(image(hit.id, title));
  }
  put(photo.lastChild, hit.rank);
  put(score, hit.score.toFixed(3));
  put(worth, hit.probability != null ? ` ${Math.round(100 * hit.probability)} % likely` : hit.percentile != null ? ` above ${share(hit.percentile)} %` : "",
    hit.probability != null ? "if the person is in the gallery" : "images of the gallery that score lower");
  put(name, title, hit.path);
  put(seen.firstChild, hit.camera || (hit.source ? nameOf(hit.source) : ""));
  put(seen.lastChild, shortWhen(hit));
  seen.title = [hit.camera, whenOf(hit)].filter(Boolean).join(" · ");
  members.hidden = !(hit.members > 1);
  if (!members.hidden) put(members, `one of ${amount(hit.members, "image")}`);
  acts.children[0].setAttribute("aria-label", `More like hit ${hit.rank}`);
  acts.children[1].setAttribute("aria-label", `Not like hit ${hit.rank}`);
  acts.children[2].setAttribute("aria-label", `Choose hit ${hit.rank}`);
  showPressed(card, chosen.has(hit.id));
  return card;
}

function put(element, text, title) {
  element.textContent = text;
  if (title != null) element.title = title;
}

function showPressed(card, pressed) {
  const button = card.lastChild.lastChild;
  card.classList.toggle("chosen", pressed);
  button.textContent = pressed ? "Chosen" : "Choose";
  button.setAttribute("aria-pressed", String(pressed));
}

function showEmpty() {
  const box = $("empty");
  box.replaceChildren();
  const now = served();
  if (!asked()) {
    if (now?.state === "failed") {
      box.append(make("h2", { text: "This gallery cannot be opened" }), make("p", { text: `${now.trouble.message} ${now.trouble.hint || ""}` }));
      return;
    }
    box.append(make("h2", { text: "Describe a person to find their images" }),
      make("p", { text: "Say what is worn and carried: colours, coat, trousers, shoes, bag, hat. Camera and time may stand in the sentence too. Or drop an image anywhere to find people who look alike." }),
      make("ul", {}, ...EXAMPLES.map((text) => make("li", {}, make("button", { type: "button", text, on: () => { setText(text); search(); } })))));
  } else if (answer && !answer.hits.length) {
    const filtered = answer.candidates === 0;
    box.append(make("h2", { text: answer.sure && !answer.sure.confident ? "No confident match" : "No image fits" }),
      make("p", { text: filtered ? "No image passes the filters: take one of them away above." : answer.sure ? "Nobody here looks enough like the description. Say more, or turn How sure down." : "There is nothing to rank." }));
    if (filtered) box.append(make("ul", {}, make("li", {}, make("button", { type: "button", text: "Clear all filters", on: clearFilters }))));
  }
}

// The line of time -----------------------------------------------------------------------------

const LANES = 5;
let allLanes = false;
let lineWidth = 600; // known as soon as it is shown

function showLine() {
  const box = $("line");
  const hits = (answer?.hits || []).filter((hit) => hit.time != null && (hit.camera || hit.source));
  const dated = hits.some((hit) => typeof hit.time === "string");
  const at = (time) => (typeof time === "string" ? Date.parse(time) / 1000 : time);
  const seen = hits.filter((hit) => dated === (typeof hit.time === "string") && Number.isFinite(at(hit.time)))
    .map((hit) => ({ hit, lane: hit.camera || nameOf(hit.source), at: at(hit.time), stay: stayOf(hit).map(at) }));
  const times = seen.flatMap((one) => [one.at, ...one.stay]);
  box.hidden = new Set(times).size < 2;
  box.replaceChildren();
  if (box.hidden) return;
  const [from, to] = [Math.min(...times), Math.max(...times)];
  const margin = Math.max(0.03 * (to - from), 0.5);
  const [low, high] = [from - margin, to + margin];
  const part = (time) => (time - low) / (high - low);
  const width = lineWidth - (narrow() ? 90 : 130);
  const lanes = group(seen);
  const shown = [...lanes].slice(0, allLanes ? lanes.size : narrow() ? LANES - 2 : LANES);
  for (const [name, ones] of shown) box.append(make("div", { class: "lane" }, make("span", { text: name, title: name }), make("div", { class: "track" })));
  const ticks = make("div", { class: "track" });
  for (const time of roundTimes(low, high, dated, narrow() ? 3 : 6)) {
    const tick = make("em", { text: tickText(time, low, high, dated) });
    tick.style.left = `clamp(24px, ${100 * part(time)}%, 100% - 24px)`;
    ticks.append(tick);
  }
  box.append(make("div", { class: "lane axis" }, make("span", { text: dated ? dayText(from, to) : "into the video" }), ticks));
  if (lanes.size > shown.length || allLanes && lanes.size > LANES)
    box.append(make("button", { type: "button", class: "link", text: allLanes ? "Fewer" : `All ${lanes.size} ${hits[0].camera ? "cameras" : "sources"}`, "aria-expanded": String(allLanes), on: () => { allLanes = !allLanes; showLine(); $("line").querySelector(".link")?.focus(); } }));
  shown.forEach(([name, ones], place) => fillLane(box.children[place].lastChild, width, name, ones, part));
}

// From when to when somebody was followed; only where that is one camera's.
const stayOf = (hit) => (grouped() === "track" && hit.first != null && hit.first !== hit.last && typeof hit.first === typeof hit.last ? [hit.first, hit.last] : []);

// The best hits have their rank; one that would lie on a better one is a thin mark.
function fillLane(track, width, name, ones, part) {
  const taken = [];
  for (const { hit, at, stay } of ones) {
    const large = hit.rank > 99 ? 32 : 24, half = large / 2;
    const middle = Math.min(width - half, Math.max(half, part(at) * width));
    const thin = taken.some(([from, to]) => middle + half > from && middle - half < to);
    if (!thin) taken.push([middle - half, middle + half]);
    const said = hit.members > 1 && stay.length ? `${moment(hit.first)} to ${moment(hit.last)}` : moment(hit.time);
    const mark = make("button", { type: "button", class: thin ? "thin" : large > 24 ? "wide" : null, text: hit.rank, title: `${hit.rank}: ${said}`, "aria-label": `Hit ${hit.rank}, ${name}, ${said}`, on: () => move(answer.hits.indexOf(hit), true) });
    mark.style.left = `${thin ? Math.max(0, part(at) * width - 2.5) : middle - half}px`;
    if (stay.length) {
      const line = make("i");
      line.style.left = `${100 * part(stay[0])}%`;
      line.style.width = `${100 * (part(stay[1]) - part(stay[0]))}%`;
      track.prepend(line);
    }
    track.append(mark);
  }
}

function group(seen) {
  const lanes = new Map();
  for (const one of seen) lanes.set(one.lane, [...(lanes.get(one.lane) || []), one]);
  return lanes;
}

const narrow = () => window.innerWidth < 700;
const DAY = 86400;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 91 * DAY, 365 * DAY];
const stepOf = (span, most) => STEPS.find((step) => span / step <= most) || Math.ceil(span / most / DAY) * DAY;

// Full hours, midnights and the like, at most so many.
function roundTimes(low, high, dated, most) {
  const step = stepOf(high - low, most);
  const west = dated ? 60 * new Date(1000 * low).getTimezoneOffset() : 0;
  const made = [];
  for (let time = Math.ceil((low - west) / step) * step + west; time <= high; time += step) if (dated || time >= 0) made.push(time);
  return made;
}

function tickText(at, low, high, dated) {
  if (!dated) return clock(at).replace(/\.0$/, "");
  const day = new Date(at * 1000);
  const hour = day.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(high - low < 600 ? { second: "2-digit" } : {}) });
  if (high - low > 300 * DAY) return dateOf(at).slice(0, 7);
  return high - low > 10 * DAY || (hour.startsWith("00:00") && high - low > DAY / 2) ? dateOf(at).slice(5) : hour;
}

const dateOf = (at) => new Date(at * 1000).toLocaleDateString("en-CA");

// What the marks of the axis do not say: the day, or of several days the year.
function dayText(from, to) {
  const [first, last] = [dateOf(from), dateOf(to)];
  if (first === last) return first;
  return first.slice(0, 4) === last.slice(0, 4) ? first.slice(0, 4) : `${first.slice(0, 4)}–${last.slice(0, 4)}`;
}

// Filters --------------------------------------------------------------------------------------

function showFilters() {
  const now = served();
  $("gallery").value = state.gallery || "";
  $("cameras-set").hidden = !(now?.cameras.length);
  $("time-set").hidden = !now?.first || !(now.fields || []).includes("time");
  $("camera-find").hidden = (now?.cameras.length || 0) < 12;
  $("cameras-count").textContent = now?.cameras.length > 8 ? now.cameras.length : "";
  showCameras(now?.cameras || []);
  if (now?.first) $("span").textContent = `Images are from ${now.first.slice(0, 16).replace("T", " ")} to ${now.last.slice(0, 16).replace("T", " ")}.`;
  for (const key of ["since", "until", "where"]) if (document.activeElement !== $(key)) $(key).value = key === "where" ? state[key] : minutes(state[key]);
  const groups = ["", ...(now?.groups || [])];
  if (groups.join() !== [...$("group").options].map((one) => one.value).join())
    $("group").replaceChildren(...groups.map((name) => make("option", { value: name, text: name === "near-duplicate" ? "set of images that look the same" : name || "image" })));
  $("group").value = grouped();
  $("sort").value = state.sort;
  $("sure").value = state.sure;
  $("sure").disabled = !calibrated || !isPlain();
  $("sure-text").textContent = !calibrated ? "This model was never calibrated: tbps eval --calibration does it." : !isPlain() ? "For a sentence alone." : state.sure ? `The smallest set that holds the person in ${Math.round(100 * LEVELS[state.sure])} of 100 searches.` : "Off: the best images, however good.";
  $("sure").setAttribute("aria-valuetext", state.sure ? `${Math.round(100 * LEVELS[state.sure])} %` : "off");
  $("fields").textContent = now?.fields.length ? `Known here: ${now.fields.join(", ")}.` : "";
  if (document.activeElement !== $("text")) $("text").value = state.text;
}

let camerasShown = "";

function showCameras(cameras) {
  const wanted = $("camera-find").value.toLowerCase();
  const shown = JSON.stringify([state.gallery, wanted, state.cameras, cameras]);
  if (shown === camerasShown) return;
  camerasShown = shown;
  const boxes = cameras.filter((one) => one.name.toLowerCase().includes(wanted) || state.cameras.includes(one.name)).map((one) => {
    const box = make("input", { type: "checkbox", value: one.name });
    box.checked = state.cameras.includes(one.name);
    box.addEventListener("change", () => {
      state.cameras = box.checked ? [...state.cameras, one.name] : state.cameras.filter((name) => name !== one.name);
      search();
    });
    return make("label", {}, box, make("span", { text: one.name, title: one.name }), make("small", { text: one.images?.toLocaleString("en") }));
  });
  const focused = document.activeElement?.closest("#cameras") ? document.activeElement.value : null;
  $("cameras").replaceChildren(...boxes);
  if (focused != null) [...$("cameras").querySelectorAll("input")].find((box) => box.value === focused)?.focus();
}

function chooseGallery(name) {
  Object.assign(state, { gallery: name, cameras: [], plus: state.plus.filter((part) => !part.picture), minus: state.minus.filter((part) => !part.picture), group: "auto" });
  answer = null;
  show();
}

const minutes = (time) => (/^\d{4}-\d\d-\d\d$/.test(time) ? `${time}T00:00` : time.slice(0, 16));

function clearFilters() {
  Object.assign(state, { cameras: [], since: "", until: "", where: "", group: "auto", sort: "score", sure: 0 });
  search();
}

function setText(text) {
  state.text = text;
  $("text").value = text;
}

// The filter that lets through what a hit was put together with.
function othersOf(hit) {
  const quoted = (text) => `"${String(text).replace(/[\\"]/g, "\\$&")}"`;
  const source = hit.source == null ? "source == none" : `source == ${quoted(hit.source)}`;
  if (grouped() === "person" && hit.person != null) return `person == ${typeof hit.person === "number" ? hit.person : quoted(hit.person)}`;
  if (grouped() === "track" && hit.track != null) return `track == ${quoted(hit.track)} and ${source}`;
  return grouped() === "source" && hit.source != null ? source : "";
}

// What is done with hits -----------------------------------------------------------------------

function more(hit) {
  if (!state.plus.some((part) => part.picture === hit.id && !part.box)) state.plus.push({ picture: hit.id });
  search();
}

function less(hit) {
  if (!state.minus.some((part) => part.picture === hit.id)) state.minus.push({ picture: hit.id });
  search();
}

function choose(hit) {
  if (chosen.has(hit.id)) chosen.delete(hit.id);
  else chosen.set(hit.id, hit);
  showTray();
  const card = document.querySelector(`.hit[data-id="${CSS.escape(hit.id)}"]`);
  if (card) showPressed(card, chosen.has(hit.id));
}

function showTray() {
  $("tray").hidden = !chosen.size;
  $("chosen").replaceChildren(...[...chosen.values()].map((hit) => make("li", {}, make("button", { type: "button", title: `${titleOf(hit)}: take back`, "aria-label": `Take back ${titleOf(hit)}`, on: () => choose(hit) }, image(hit.id, "")))));
  $("chosen-count").textContent = `${chosen.size} chosen`;
  $("compare").disabled = chosen.size < 2;
}

function compare() {
  const pair = [...chosen.values()].slice(-2);
  if (pair.length < 2) return toast("Choose two hits first.");
  $("pair").replaceChildren(...pair.map((hit) => make("div", {}, image(hit.id, titleOf(hit), "crop"),
    make("p", {}, make("b", { text: hit.score.toFixed(3) }), ` ${titleOf(hit)}`, make("br"), [hit.camera, whenOf(hit)].filter(Boolean).join(" · ")))));
  open_($("both"));
}

async function exportChosen(form) {
  try {
    const reply = await post("/v1/export", { form, pictures: [...chosen.keys()], title: state.text.trim() || "Chosen hits" });
    const link = make("a", { href: URL.createObjectURL(await reply.blob()), download: { csv: "hits.csv", html: "hits.html", zip: "hits.zip" }[form] });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) { toast(error.message); }
}

function move(place, focus) {
  const hits = answer?.hits || [];
  if (!hits.length) return;
  here = Math.min(hits.length - 1, Math.max(0, place));
  for (const card of document.querySelectorAll(".hit")) {
    const mine = Number(card.dataset.place) === here;
    card.classList.toggle("here", mine);
    card.querySelector(".open").tabIndex = mine ? 0 : -1;
    if (mine && focus) card.querySelector(".open").focus();
  }
}

// The detail view ------------------------------------------------------------------------------

let detail = null;

function open_(dialog) {
  if (!dialog.open) {
    lastFocus = document.activeElement;
    dialog.showModal();
  }
}

async function openDetail(place, hits = answer.hits) {
  const hit = hits[place];
  if (!hit) return;
  if (hits === answer?.hits) move(place, false);
  detail = { hit, hits, place, view: "crop", facts: null, words: null };
  $("detail-title").textContent = `${hit.rank}. ${titleOf(hit)}`;
  $("d-before").disabled = place === 0;
  $("d-after").disabled = place === hits.length - 1;
  $("d-all").hidden = !(hit.members > 1 && othersOf(hit));
  $("d-all").textContent = `Show all ${amount(hit.members || 1, "image")} of this ${grouped()}`;
  showChosen();
  $("words").replaceChildren(make("p", { class: "hint", text: state.text.trim() ? "…" : "For a sentence only." }));
  $("facts").replaceChildren();
  showTabs();
  open_($("detail"));
  showView("crop");
  const mine = detail;
  try {
    mine.facts = await (await ask(`/v1/pictures/${encodeURIComponent(hit.id)}/facts`)).json();
    if (mine === detail) { showFacts(); showTabs(); if (mine.view === "frame") showView("frame"); }
  } catch (error) { if (mine === detail) $("stage-hint").textContent = error.message; }
  if (!state.text.trim()) return;
  try {
    const text = answer?.understood?.text?.trim() || state.text.trim();
    mine.words = (await (await post("/v1/explain", { text, picture: hit.id })).json()).words;
    if (mine === detail) showWords();
  } catch (error) { if (mine === detail) $("words").replaceChildren(make("p", { class: "hint", text: error.message })); }
}

function showChosen() {
  const pressed = chosen.has(detail.hit.id);
  $("d-choose").setAttribute("aria-pressed", String(pressed));
  $("d-choose").textContent = pressed ? "Chosen" : "Choose";
}

function showTabs() {
  const video = detail.hit.seconds != null;
  for (const tab of $("detail").querySelectorAll("[data-view]")) {
    tab.setAttribute("aria-pressed", String(tab.dataset.view === detail.view));
    tab.disabled = tab.dataset.view === "clip" && (!video || blurred);
    tab.title = !tab.disabled ? "" : video ? "Not while heads are blurred" : "Of videos only";
  }
}

function showView(view) {
  detail.view = view;
  showTabs();
  const { hit } = detail;
  const canvas = $("canvas");
  if (view === "clip") {
    const video = make("video", { src: pictureAt(hit.id, "clip"), controls: true, autoplay: true, loop: true, playsinline: true });
    video.muted = true;
    const said = (text) => { if (canvas.contains(video)) $("stage-hint").textContent = text; };
    video.addEventListener("error", () => said("The clip cannot be shown."));
    video.addEventListener("loadeddata", () => said("Three seconds before and after."));
    canvas.replaceChildren(video);
    said("The clip is being made: this takes some seconds.");
    return;
  }
  const shown = image(hit.id, titleOf(hit), view);
  shown.loading = "eager";
  const sheet = make("div", { class: view === "frame" ? "sheet whole" : "sheet" }, shown);
  const focused = canvas.contains(document.activeElement);
  canvas.replaceChildren(sheet);
  $("stage-hint").replaceChildren(...(view === "frame" ? ["Draw a box to search by that part of the frame. ", make("span", { class: "keyed", text: "With keys: arrows move a box, with Shift they change its size, Enter searches." })] : []));
  if (view === "frame" && detail.facts) drawBoxes(sheet);
  if (focused || detail.byKeys) sheet.focus(); // where nothing is drawn yet, as soon as it is
}

function drawBoxes(sheet) {
  const { width, height } = detail.facts.frame;
  const layer = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
  for (const [x, y, w, h] of detail.facts.others || []) layer.append(svg("rect", { x, y, width: w, height: h }));
  if (detail.facts.box) {
    const [x, y, w, h] = detail.facts.box;
    layer.append(svg("rect", { x, y, width: w, height: h, class: "here" }));
  }
  sheet.append(layer);
  sheet.classList.add("drawable");
  let start = null, drawn = null;
  const show = (box) => {
    if (!drawn) layer.append((drawn = svg("rect", { class: "drawn" })));
    const [x, y, w, h] = box;
    for (const [key, value] of Object.entries({ x, y, width: w, height: h })) drawn.setAttribute(key, value);
  };
  const forget = () => { drawn?.remove(); start = drawn = null; };
  const searchBy = (box) => {
    state.plus = [{ picture: detail.hit.id, box }];
    state.minus = [];
    setText("");
    $("detail").close();
    search();
  };
  const at = (event) => {
    const box = sheet.getBoundingClientRect();
    const inside = (value, most) => Math.min(most, Math.max(0, value));
    return [inside(((event.clientX - box.left) / box.width) * width, width), inside(((event.clientY - box.top) / box.height) * height, height)];
  };
  const sides = (from, to) => {
    const x = Math.floor(Math.min(from[0], to[0])), y = Math.floor(Math.min(from[1], to[1]));
    return [x, y, Math.min(width - x, Math.ceil(Math.abs(from[0] - to[0]))), Math.min(height - y, Math.ceil(Math.abs(from[1] - to[1])))];
  };
  sheet.addEventListener("pointerdown", (event) => {
    forget();
    keyed = null;
    start = at(event);
    sheet.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  sheet.addEventListener("pointermove", (event) => { if (start) show(sides(start, at(event))); });
  sheet.addEventListener("pointercancel", forget);
  sheet.addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = sides(start, at(event));
    if (box[2] < SMALLEST || box[3] < SMALLEST) return forget();
    searchBy(box);
  });
  // The same with keys: the first one shows a box where the hit is, or in the middle.
  let keyed = null, saying = 0;
  Object.assign(sheet, { tabIndex: 0 });
  for (const [key, value] of Object.entries({ role: "application", "aria-label": "Box on the frame", "aria-describedby": "stage-hint" })) sheet.setAttribute(key, value);
  const say = () => {
    clearTimeout(saying);
    const [x, y, w, h] = keyed;
    saying = setTimeout(() => { $("box-said").textContent = `Box ${w} wide and ${h} high, ${x} from the left, ${y} from the top, of a frame of ${width} by ${height}.`; }, 300);
  };
  sheet.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape" && keyed) {
      keyed = null;
      forget();
      $("box-said").textContent = "No box.";
    } else if (event.key === "Enter" && keyed) searchBy(keyed);
    else if (steps || event.key === "Enter" || event.key === " ") {
      const begun = !keyed;
      keyed ||= detail.facts.box ? [...detail.facts.box] : middle(width, height);
      if (steps && !begun) {
        const [across, down] = [steps[0] * Math.max(1, Math.round(width / 50)), steps[1] * Math.max(1, Math.round(height / 50))];
        const within = (value, low, high) => Math.min(Math.max(low, high), Math.max(low, value));
        let [x, y, w, h] = keyed;
        if (event.shiftKey) [w, h] = [within(w + across, SMALLEST, width - x), within(h + down, SMALLEST, height - y)];
        else [x, y] = [within(x + across, 0, width - w), within(y + down, 0, height - h)];
        keyed = [x, y, w, h];
      }
      show(keyed);
      say();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

function middle(width, height) {
  const [w, h] = [width, height].map((side) => Math.min(side, Math.max(SMALLEST, Math.round(side / 3))));
  return [Math.round((width - w) / 2), Math.round((height - h) / 2), w, h];
}

function showWords() {
  const most = Math.max(...detail.words.map((word) => word.support), 1e-9);
  $("words").replaceChildren(...detail.words.map((word) => {
    const bar = make("b");
    bar.style.width = `${Math.max(0, Math.round((100 * word.support) / most))}%`;
    const none = word.support <= 0;
    const made = make("button", { type: "button", class: none ? "none" : "", title: none ? "The image does not support it" : "Point at it to see where" }, word.word, none ? null : bar);
    if (word.grid && !none) for (const name of ["mouseenter", "focus", "click"]) made.addEventListener(name, () => heat(word.grid));
    if (word.grid && !none) for (const name of ["mouseleave", "blur"]) made.addEventListener(name, () => $("canvas").querySelector("canvas")?.remove());
    return made;
  }));
}

function heat(grid) {
  if (detail.view !== "crop") showView("crop");
  const sheet = $("canvas").querySelector(".sheet");
  if (!sheet) return;
  sheet.querySelector("canvas")?.remove();
  const small = make("canvas", { width: grid[0].length, height: grid.length });
  const pen = small.getContext("2d"), pixels = pen.createImageData(grid[0].length, grid.length);
  grid.flat().forEach((value, place) => {
    pixels.data.set([255, Math.round(255 * Math.min(1, Math.max(0, 1.6 - 1.6 * value))), 0, Math.round(190 * Math.min(1, Math.max(0, value)))], 4 * place);
  });
  pen.putImageData(pixels, 0, 0);
  const large = make("canvas", { width: 24 * grid[0].length, height: 24 * grid.length });
  const brush = large.getContext("2d");
  brush.imageSmoothingQuality = "high";
  brush.drawImage(small, 0, 0, large.width, large.height);
  sheet.append(large);
}

function showFacts() {
  const { facts, hit } = detail;
  const rows = [["score", hit.score.toFixed(4)]];
  if (hit.percentile != null) rows.push(["above", `${share(hit.percentile)} % of the gallery`]);
  if (hit.probability != null) rows.push(["likely", `${Math.round(100 * hit.probability)} %, if the person is here`]);
  if (hit.members > 1) rows.push(["images", hit.members]);
  for (const key of ["person", "camera", "time", "seconds", "track", "detection", "source", "path"]) if (facts[key] != null) rows.push([key, key === "time" ? facts[key].replace("T", " ") : key === "seconds" ? clock(facts[key]) : facts[key]]);
  $("facts").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
}

// Images that are sent -------------------------------------------------------------------------

async function send(file) {
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) return toast(`${file.name} is not an image.`);
  if (file.size > 20 * 1024 * 1024) return toast(`${file.name} is larger than 20 MB.`);
  $("status").textContent = "Reading the image…";
  try {
    const made = await (await ask("/v1/images", { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } })).json();
    state.plus.push({ upload: made.id });
    search();
  } catch (error) { showStatus(); toast(error.message); }
}

// Saved questions ------------------------------------------------------------------------------

let unread = 0;

async function showWatching() {
  open_($("watching"));
  unread = 0;
  showUnread();
  const now = served();
  $("watch-form").hidden = !now?.watchable;
  $("watch-text").value = state.text.trim();
  $("watch-trouble").hidden = true;
  try {
    const known = await (await ask("/v1/watch")).json();
    $("watch-hint").textContent = now?.watchable
      ? `A saved question is asked of everything that arrives from now on. Over all of them at most ${budgetText(known.budget)} come, on the average.`
      : now?.unwatchable || "";
    $("questions").replaceChildren(...known.questions.map((one) => make("li", {},
      make("span", {}, one.text, galleries.length > 1 && make("small", { text: one.gallery })),
      make("button", { type: "button", class: "tool", text: "Ask now", "aria-label": `Ask now: ${one.text}`, on: () => askNow(one) }),
      make("button", { type: "button", class: "tool", text: "Delete", "aria-label": `Delete ${one.text}`, on: () => unwatch(one) }))));
    $("alerts").replaceChildren(...(known.alerts.length ? known.alerts.map(alertLine) : [make("li", { class: "hint", text: "None so far." })]));
  } catch (error) { watchTrouble(error); }
}

function budgetText(budget) {
  const [, count, time] = /^\s*([\d.]+)\s*(?:\/|per|an?)\s*(\w)/i.exec(budget);
  return `${amount(Number(count), "alert")} ${{ h: "an hour", d: "a day", w: "a week", m: "a month" }[time.toLowerCase()]}`;
}

function askNow(question) {
  $("watching").close();
  setText(question.text);
  if (question.gallery !== state.gallery) chooseGallery(question.gallery);
  search();
}

async function unwatch(question) {
  try {
    await ask(`/v1/watch/${encodeURIComponent(question.id)}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) return watchTrouble(error); // 404: another page was quicker
  }
  await showWatching();
  $("watch-text").focus();
}

function alertLine(alert) {
  return make("li", {}, image(alert.picture, ""), make("div", {}, alert.query,
    make("small", { text: [alert.score.toFixed(3), alert.camera, alert.time ? moment(alert.time) : null, nameOf(alert.source || alert.path)].filter(Boolean).join(" · ") })));
}

function watchTrouble(error) {
  $("watch-trouble").hidden = false;
  $("watch-trouble").textContent = `${error.message} ${error.hint || ""}`;
}

function showUnread() {
  $("unread").hidden = !unread;
  $("unread").textContent = unread;
}

// Only the page that is looked at listens: a browser opens six connections to a server, and each page would hold one.
let events = null;
let lastEvent = "";

function listen() {
  if (document.hidden) {
    events?.close();
    events = null;
    return;
  }
  if (events) return;
  events = new EventSource(`/v1/watch/events${lastEvent ? `?after=${encodeURIComponent(lastEvent)}` : ""}`);
  events.addEventListener("now", (event) => { lastEvent = event.lastEventId; });
  events.addEventListener("alert", (event) => {
    lastEvent = event.lastEventId;
    const alert = JSON.parse(event.data);
    if ($("watching").open) showWatching();
    else { unread += 1; showUnread(); }
    toast(`${alert.query}: ${[alert.camera, alert.time ? moment(alert.time) : null].filter(Boolean).join(" · ") || nameOf(alert.path)}`, alert.picture);
  });
}

// The galleries --------------------------------------------------------------------------------

async function look() {
  try {
    const known = await (await ask("/v1/galleries")).json();
    const before = galleries.map((one) => one.images).join();
    galleries = known.galleries;
    calibrated = known.calibrated;
    blurred = known.blurred;
    if ($("trouble").dataset.away) {
      trouble(null); // the server is back
      if (asked()) find({ keep: true });
    }
    $("galleries").hidden = galleries.length < 2;
    if (galleries.map((one) => one.name).join("\n") !== [...$("gallery").options].map((one) => one.value).join("\n"))
      $("gallery").replaceChildren(...galleries.map((one) => make("option", { value: one.name, text: one.name })));
    state.gallery ||= galleries[0].name;
    if (!answer && before !== galleries.map((one) => one.images).join()) showEmpty();
    showFilters();
    showStatus();
    const busy = galleries.some((one) => one.state === "indexing");
    setTimeout(look, busy ? 1500 : 15000);
  } catch (error) {
    if (!answer || !error.status) trouble(error);
    if (error.status !== 401) setTimeout(look, 4000);
  }
}

// Events ---------------------------------------------------------------------------------------

const placeOf = (event) => Number(event.target.closest(".hit")?.dataset.place ?? NaN);
$("hits").addEventListener("focusin", (event) => { if (event.target.matches(".open")) move(placeOf(event), false); });
$("hits").addEventListener("click", (event) => {
  const button = event.target.closest("button"), place = placeOf(event), hit = answer?.hits[place];
  if (!button || !hit) return;
  const does = { more, less, choose }[button.dataset.do];
  if (does) does(hit);
  else openDetail(place);
});
$("form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("text").addEventListener("input", (event) => { state.text = event.target.value; search({ typing: true }); });
$("pick").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", (event) => { send(event.target.files[0]); event.target.value = ""; });
$("gallery").addEventListener("change", (event) => { chooseGallery(event.target.value); search(); });
$("camera-find").addEventListener("input", showFilters);
for (const key of ["since", "until", "group", "sort"]) $(key).addEventListener("change", (event) => { state[key] = event.target.value; search(); });
$("where").addEventListener("change", (event) => { state.where = event.target.value.trim(); search(); });
$("sure").addEventListener("input", (event) => { state.sure = Number(event.target.value); showFilters(); search({ typing: true }); });
$("clear").addEventListener("click", clearFilters);
$("more").addEventListener("click", () => { state.top = Math.min(MOST, 2 * state.top); search({ keep: true }); });
$("compare").addEventListener("click", compare);
$("empty-tray").addEventListener("click", () => { chosen.clear(); showTray(); showHits(); });
for (const button of document.querySelectorAll("[data-export]")) button.addEventListener("click", () => exportChosen(button.dataset.export));
$("watch-open").addEventListener("click", showWatching);
$("keys-open").addEventListener("click", () => open_($("keys")));
$("filters-open").addEventListener("click", () => {
  const open = document.querySelector("aside").classList.toggle("open");
  $("filters-open").setAttribute("aria-expanded", String(open));
});
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    if (!$("detail").open) $("canvas").replaceChildren();
    if (document.activeElement !== document.body) return; // the browser gave the focus back, or a key has moved it since
    if (lastFocus?.isConnected) lastFocus.focus();
    else move(here, true);
  });
}
for (const tab of $("detail").querySelectorAll("[data-view]")) tab.addEventListener("click", () => { detail.byKeys = false; showView(tab.dataset.view); });
$("d-more").addEventListener("click", () => { $("detail").close(); more(detail.hit); });
$("d-less").addEventListener("click", () => { $("detail").close(); less(detail.hit); });
$("d-choose").addEventListener("click", () => { choose(detail.hit); showChosen(); });
$("d-all").addEventListener("click", () => {
  const others = othersOf(detail.hit);
  $("detail").close();
  Object.assign(state, { group: "", where: state.where ? `(${state.where}) and ${others}` : others });
  search();
});
$("d-before").addEventListener("click", () => openDetail(detail.place - 1, detail.hits));
$("d-after").addEventListener("click", () => openDetail(detail.place + 1, detail.hits));
$("watch-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await post("/v1/watch", { text: $("watch-text").value, gallery: state.gallery });
    showWatching();
  } catch (error) { watchTrouble(error); }
});

const carriesFile = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
addEventListener("dragover", (event) => { if (carriesFile(event)) { event.preventDefault(); $("drop").hidden = false; } });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", (event) => { if (carriesFile(event)) { event.preventDefault(); $("drop").hidden = true; send(event.dataTransfer.files[0]); } });
addEventListener("paste", (event) => { const file = event.clipboardData?.files[0]; if (file) { event.preventDefault(); send(file); } });
document.addEventListener("visibilitychange", listen);
new ResizeObserver(([seen]) => {
  const width = Math.round(seen.contentRect.width);
  if (width && width !== lineWidth) { lineWidth = width; showLine(); }
}).observe($("line"));
addEventListener("popstate", () => { readAddress(); setText(state.text); find(); });

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=checkbox]):not([type=range]), textarea, select");
  if (document.querySelector("dialog[open]")) {
    if ($("detail").open && !typing && event.target.tagName !== "VIDEO") {
      if (event.key === "ArrowLeft" && detail.place > 0) openDetail(detail.place - 1, detail.hits);
      if (event.key === "ArrowRight" && detail.place < detail.hits.length - 1) openDetail(detail.place + 1, detail.hits);
      if (event.key.toLowerCase() === "b") { detail.byKeys = true; showView("frame"); }
    }
    return;
  }
  if (event.target === $("text") && event.key === "ArrowDown") { event.preventDefault(); return move(here, true); }
  if (typing) return;
  const hit = answer?.hits[here];
  const columns = getComputedStyle($("hits")).gridTemplateColumns.split(" ").length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  if (event.key === "/") { event.preventDefault(); $("text").focus(); $("text").select(); }
  else if (event.key === "?") open_($("keys"));
  else if (steps[event.key] && !event.target.matches("input[type=range]") && hit) {
    event.preventDefault();
    if (event.key === "ArrowUp" && here < columns) $("text").focus();
    else move(here + steps[event.key], true);
  } else if (hit && event.key.toLowerCase() === "m") more(hit);
  else if (hit && event.key.toLowerCase() === "n") less(hit);
  else if (hit && event.key.toLowerCase() === "c") choose(hit);
  else if (event.key.toLowerCase() === "v") compare();
});

(async () => {
  await look();
  readAddress();
  setText(state.text);
  show();
  if (asked()) find();
  else $("text").focus();
  listen();
})();
