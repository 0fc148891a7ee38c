/* Shared by all pages: safe text, numbers and times, requests, announcements to screen readers. */

const $ = (id) => document.getElementById(id);
const { words, ...given } = JSON.parse($("state").textContent);

// The same as in _html.py: control characters, turns of direction, halves of characters.
const UNPRINTABLE =
  /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]|\p{Cs}/gu;

function clean(text) {
  return String(text).replace(/[\t\n\r]+/g, " ").replace(UNPRINTABLE, "\ufffd");
}

/* Make an element. Children are elements or text; text never becomes HTML. */
function element(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map((each) => (each instanceof Node ? each : clean(each))));
  return node;
}

/* Set a text, and hide its element without one. A text that is equal is not announced again. */
function setText(id, text) {
  const node = $(id);
  const cleaned = clean(text);
  if (node.textContent !== cleaned) node.textContent = cleaned;
  node.hidden = !cleaned;
}

const count = (number) => Math.round(number).toLocaleString("en");
const percent = (share) => `${(share * 100).toFixed(1)}%`;

function duration(seconds) {
  for (const [unit, size] of [["days", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return `${(seconds / size).toFixed(1)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

const dayOf = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const timeOf = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

function time(iso, format = dayOf) {
  return element("time", { datetime: iso, title: iso }, format.format(new Date(iso)));
}

/* Times are in UTC where there is no script; here they are those of the reader. */
function localizeTimes(root = document) {
  for (const node of root.querySelectorAll("time")) node.replaceWith(time(node.dateTime));
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/* Request JSON. A refusal is thrown as an error with the status, sentence and problems in it. */
async function fetchJson(address, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  const answer = await fetch(address, { cache: "no-store", ...options, headers });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const error = new Error(body.error || `The server answered ${answer.status}.`);
  throw Object.assign(error, body, { status: answer.status });
}

/* Announce a text to screen readers, at most every few seconds; the newest replaces others. */
const QUIET_SECONDS = 5;
let spokenAt = -Infinity;
let toSpeak = null;

function announce(text) {
  const isPlanned = toSpeak !== null;
  toSpeak = text;
  if (!isPlanned) setTimeout(speak, Math.max(0, spokenAt + QUIET_SECONDS * 1000 - Date.now()));
}

function speak() {
  $("announcement").textContent = clean(toSpeak);
  toSpeak = null;
  spokenAt = Date.now();
}

localizeTimes();
