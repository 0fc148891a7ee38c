/* Draws the page of a job from `job`, whenever that changes. The server decides what it means. */

let { job, merges } = given;

function draw() {
  drawPhase();
  drawTiles();
  drawBar();
  drawMeasures();
  drawFailures();
  drawCurves();
}

function drawPhase() {
  $("phase").dataset.phase = job.phase;
  setText("phase", words.phases[job.phase]);
  setText("sentence", job.sentence);
  const share = job.counts.ended / (job.merges || 1);
  const source = clean(job.source);
  document.title = job.phase === "running" ? `${Math.floor(share * 100)}% · ${source}` : source;
}

function drawTiles() {
  for (const tile of document.querySelectorAll("[data-tile]")) {
    const number = job.counts[tile.dataset.tile];
    tile.querySelector("dd").textContent = count(number);
    tile.hidden = !number && !("always" in tile.dataset);
  }
}

function drawBar() {
  let start = 0;
  for (const part of document.querySelectorAll("[data-part]")) {
    const width = (100 * job.counts[part.dataset.part]) / (job.merges || 1);
    part.setAttribute("x", `${start}%`);
    part.setAttribute("width", `${width}%`);
    start += width;
  }
  const { ended } = job.counts;
  const bar = $("bar");
  bar.setAttribute("aria-valuemax", job.merges);
  bar.setAttribute("aria-valuenow", ended);
  bar.setAttribute("aria-valuetext", `${count(ended)} of ${count(job.merges)} merges have ended`);
  bar.hidden = false;
}

function drawMeasures() {
  const measures = job.phase === "running" ? measuresOf(job.progress || {}) : [];
  const nodes = measures.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value)),
  );
  $("measures").replaceChildren(...nodes);
  $("measures").hidden = !nodes.length;
}

function measuresOf(progress) {
  const of = (part, all) => (all ? `${count(part)} of ${count(all)}` : count(part));
  const { per_minute, seconds_left, calls, minute_left, month_used, month_limit } = progress;
  return [
    ["Merges a minute", per_minute == null ? null : count(per_minute)],
    ["Time left", seconds_left == null ? "not known yet" : `about ${duration(seconds_left)}`],
    ["Waits for", progress.waiting_for || "nothing"],
    ["Calls of this run", calls == null ? null : count(calls)],
    ["Calls left in the minute", minute_left == null ? null : of(minute_left, progress.minute_limit)],
    ["Month's calls used", month_used == null ? null : monthOf(month_used, month_limit)],
  ].filter(([, value]) => value !== null);
}

function monthOf(used, limit) {
  return limit ? `${percent(used / limit)} of ${count(limit)}` : count(used);
}

/* Failures: existing rows are kept as they are, so that a selection in them survives. */

const rowOf = new WeakMap();

function drawFailures() {
  const known = job.counts.not_merged;
  const isNew = job.phase === "new";
  const shown = job.failures.length;
  $("failures").hidden = !shown;
  setText("failures-title", `${isNew ? "Will not run" : "Not merged"} (${count(known)})`);
  const newest = `The newest ${count(shown)} are shown; the report has all.`;
  const order = shown < known ? newest : "Newest first.";
  setText("failures-note", isNew ? words.will_not_run : order);
  place($("failure-rows"), job.failures.map(failureRow));
}

function place(parent, rows) {
  const kept = new Set(rows);
  for (const row of [...parent.children]) if (!kept.has(row)) row.remove();
  rows.forEach((row, index) => {
    if (parent.children[index] !== row) parent.insertBefore(row, parent.children[index] || null);
  });
}

function failureRow(pair) {
  if (!rowOf.has(pair)) {
    const ended = pair.ended_at ? [" · ", timeShortly(pair.ended_at)] : [];
    const into = element("span", { class: "note" }, "into");
    const merge = [record(pair, "duplicate"), " ", into, " ", record(pair, "primary")];
    const note = element("span", { class: "note" }, ...ended);
    const row = element(
      "tr",
      { role: "row" },
      element("th", { role: "rowheader", scope: "row" }, pair.line),
      element("td", { role: "cell" }, ...merge),
      element("td", { role: "cell" }, stateMark(pair.state), ` ${pair.reason || ""}`, note),
    );
    rowOf.set(pair, row);
  }
  return rowOf.get(pair);
}

function timeShortly(iso) {
  const isToday = new Date(iso).toDateString() === new Date().toDateString();
  return time(iso, isToday ? timeOf : dayOf);
}

function stateMark(state) {
  return element("span", { class: "state", "data-state": state }, words.states[state] || state);
}

function record(pair, role) {
  const name = element("bdi", {}, pair[`${role}_name`] || "unknown");
  const id = element("span", { class: "id" }, pair[`${role}_id`]);
  return element("span", { class: "record" }, name, " ", id);
}

/* The curves: two small plots over the same time, drawn in pixels so that text keeps its size. */

const PLOT = { height: 112, left: 48, right: 12, top: 26, gap: 18, bottom: 24 };
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400];
const clockOf = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

function drawCurves() {
  // Rows that the plan left out ended when the job was planned, and are no part of the curve.
  const { left_out } = job.counts;
  const points = job.curve
    .filter(([at]) => at >= 1)
    .map(([at, ended, left]) => [at, Math.max(0, ended - left_out), left]);
  const section = $("curves");
  section.hidden = points.length < 2;
  if (section.hidden) return;
  const width = Math.max(240, $("curve").clientWidth);
  const from = points[0][0];
  const until = Math.max(points.at(-1)[0], from + 1);
  const x = (t) => PLOT.left + ((t - from) / (until - from)) * (width - PLOT.left - PLOT.right);
  const plots = [{ index: 1, name: "Merges ended", kind: "ended" }];
  if (points.some((point) => point[2] !== null)) {
    plots.push({ index: 2, name: "Calls left in the minute", kind: "left" });
  }
  const height = plots.length * (PLOT.top + PLOT.height + PLOT.gap) - PLOT.gap + PLOT.bottom;
  const box = { width, height, viewBox: `0 0 ${width} ${height}` };
  const svg = drawn("svg", { ...box, role: "img", "aria-labelledby": "curve-title curve-text" });
  svg.append(
    drawn("title", { id: "curve-title" }, plots.map((plot) => plot.name).join(" and ") + " over time"),
    drawn("desc", { id: "curve-text" }, plots.map((plot) => inWords(points, plot)).join(" ")),
    ...timeAxis(from, until, x, width, height),
    ...plots.flatMap((plot, place) => panel(points, plot, place, x, width)),
  );
  $("curve").replaceChildren(svg);
}

function inWords(points, { index, name }) {
  const known = points.map((point) => point[index]).filter((value) => value !== null);
  const least = count(Math.min(...known));
  const most = count(Math.max(...known));
  const minutes = duration(points.at(-1)[0] - points[0][0]);
  return `${name}: ${count(known.at(-1))} at last, between ${least} and ${most} within ${minutes}.`;
}

function timeAxis(from, until, x, width, height) {
  const mostSteps = Math.max(2, Math.floor(width / 90));
  const step = STEPS.find((each) => (until - from) / each <= mostSteps) || 604800;
  const begun = Date.parse(job.begun_at) / 1000;
  const format = step < 60 ? timeOf : step < 43200 ? clockOf : dayOf;
  const nodes = [];
  for (let at = Math.ceil((begun + from) / step) * step; at <= begun + until; at += step) {
    const place = Math.round(x(at - begun)) + 0.5;
    nodes.push(
      drawn("line", { class: "grid", x1: place, x2: place, y1: PLOT.top, y2: height - PLOT.bottom }),
      drawn("text", { class: "tick middle", x: place, y: height - 6 }, format.format(at * 1000)),
    );
  }
  return nodes;
}

function panel(points, { index, name, kind }, place, x, width) {
  const top = place * (PLOT.top + PLOT.height + PLOT.gap) + PLOT.top;
  const bottom = top + PLOT.height;
  const limit = kind === "left" ? (job.progress || {}).minute_limit || 0 : 0;
  const most = niceAbove(Math.max(1, limit, ...points.map((point) => point[index] ?? 0)));
  const y = (value) => bottom - (value / most) * PLOT.height;
  const last = points.findLast((point) => point[index] !== null);
  const line = path(points, index, x, y);
  return [
    ...[0, most / 2, most].flatMap((value) => [
      drawn("line", { class: "grid", x1: PLOT.left, x2: width - PLOT.right, y1: y(value), y2: y(value) }),
      drawn("text", { class: "tick end", x: PLOT.left - 6, y: y(value) + 4 }, count(value)),
    ]),
    drawn("text", { class: "name", x: PLOT.left, y: top - 10 }, `${name}: ${count(last[index])}`),
    ...(kind === "ended" ? [drawn("path", { class: "area", d: area(line, points, x, bottom) })] : []),
    drawn("path", { class: `curve ${kind}`, d: line }),
    drawn("circle", { class: `dot ${kind}`, cx: x(last[0]), cy: y(last[index]), r: 3.5 }),
  ];
}

/* A line with gaps where no value is known. */
function path(points, index, x, y) {
  let isBroken = true;
  const parts = [];
  for (const point of points) {
    const isKnown = point[index] !== null;
    if (isKnown) {
      const place = `${x(point[0]).toFixed(1)} ${y(point[index]).toFixed(1)}`;
      // A segment of length 0 has round ends, so that a value between gaps is a dot.
      parts.push(isBroken ? `M${place}h0` : `L${place}`);
    }
    isBroken = !isKnown;
  }
  return parts.join("");
}

function area(line, points, x, bottom) {
  return `${line}L${x(points.at(-1)[0]).toFixed(1)} ${bottom}L${x(points[0][0]).toFixed(1)} ${bottom}Z`;
}

function niceAbove(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((each) => each * size >= value) * size;
}

draw();
new ResizeObserver(drawCurves).observe($("main"));
