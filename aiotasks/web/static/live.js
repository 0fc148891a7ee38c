/* The live page of a job: its events, its buttons, and more of its plan. */

const MOST_FAILURES = 200;
const MOST_POINTS = 600;
const FRESH_SECONDS = 5;
const SILENT_SECONDS = 20;
const HIDDEN_SECONDS = 15;
const LONGEST_PAUSE_SECONDS = 10;
const ANNOUNCED_EVERY_SECONDS = 30;

const address = encodeURIComponent(job.id);
let isRequested = false;
let isStopping = false;
let disconnectedAt = null;
let announcedAt = Date.now();

/* Following: a stream of events, and the whole job again whenever the stream was interrupted. */

async function follow() {
  let wait = 1;
  await listen();
  for (;;) {
    try {
      await readAgain();
      reconnected();
      wait = 1;
      // A hidden page holds no connection: a browser has only six for a server.
      await (document.hidden ? untilShown(HIDDEN_SECONDS) : listen());
    } catch (error) {
      if (isShutDown(error)) return showShutdownNotice();
      disconnected(error);
      wait = Math.min(2 * wait, LONGEST_PAUSE_SECONDS);
    }
    await pause(wait);
  }
}

/* Resolve when the stream has ended, for any reason. */
function listen() {
  return new Promise((resolve) => {
    const source = new EventSource(`${address}/events?after=${job.seq}`);
    let timer = null;
    const end = () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", end);
      source.close();
      resolve();
    };
    const listenTo = (name, take) =>
      source.addEventListener(name, (event) => {
        take(JSON.parse(event.data), Number(event.lastEventId));
        restart();
      });
    const restart = () => {
      clearTimeout(timer);
      // No event says that another program has released the ledger, so the job is read again.
      const isQuiet = !job.is_running && !job.holder;
      if (!isQuiet) timer = setTimeout(end, SILENT_SECONDS * 1000);
    };
    document.addEventListener("visibilitychange", end);
    source.addEventListener("open", reconnected);
    source.addEventListener("error", end);
    listenTo("pair", takePair);
    listenTo("progress", takeProgress);
    listenTo("done", (done) => {
      takeProgress(done);
      end();
    });
    // This page is too far behind: the next stream starts after the whole job, read anew.
    listenTo("resync", end);
    restart();
  });
}

function untilShown(seconds) {
  const shown = new Promise((resolve) =>
    document.addEventListener("visibilitychange", resolve, { once: true }),
  );
  return Promise.race([shown, pause(seconds)]);
}

/* The events that were missed are not sent again: what they would have changed is read anew. */
async function readAgain() {
  const fresh = await fetchJson(address);
  const isBehind = fresh.seq > job.seq;
  adopt(fresh);
  for (let after = 0; isBehind && after !== null && after < lastNumber; ) {
    const page = await fetchJson(`${address}/plan?after=${after}`);
    page.merges.forEach(markMerge);
    after = page.next;
  }
}

/* Replace the job, unless events have brought newer transitions meanwhile. */
function adopt(fresh) {
  if (fresh.seq < job.seq) return;
  // The points that this page has collected are finer than those in the ledger.
  const [last] = fresh.curve.at(-1) || [0];
  const isSeen = job.curve.length && job.curve.at(-1)[0] >= last - FRESH_SECONDS;
  job = isSeen ? { ...fresh, curve: job.curve } : fresh;
  fresh.failures.forEach(markMerge);
  update();
}

function takePair(pair, seq) {
  if (seq <= job.seq) return;
  job.seq = seq;
  const others = job.failures.filter((each) => each.number !== pair.number);
  job.failures = pair.is_failure ? [pair, ...others].slice(0, MOST_FAILURES) : others;
  markMerge(pair);
  update();
}

function takeProgress({ point, ...state }) {
  Object.assign(job, state);
  const [at, ended] = job.curve.at(-1) || [-1, 0];
  // While nothing runs, points would only repeat the last one.
  if (point && point[0] > at && (job.is_running || point[1] !== ended)) job.curve.push(point);
  if (job.curve.length > MOST_POINTS) job.curve = job.curve.filter((_, place) => place % 2 === 0);
  update();
}

function markMerge({ number, state }) {
  const mark = document.querySelector(`#merge-${number} .state`);
  if (mark && mark.dataset.state !== state) mark.replaceWith(stateMark(state));
}

/* Draw once a frame, however many events there were. A hidden page has no frames. */
let isDrawn = true;
function update() {
  if (!isDrawn) return;
  isDrawn = false;
  const later = document.hidden ? (task) => setTimeout(task, 0) : requestAnimationFrame;
  later(() => {
    isDrawn = true;
    draw();
    drawControls();
    announceProgress();
  });
}

function disconnected(error) {
  disconnectedAt ??= new Date();
  const since = `The connection to the server is lost since ${timeOf.format(disconnectedAt)}.`;
  const why = error.status ? `${error.message}` : "What was done is kept.";
  setText("connection", `${since} ${why} This page tries again by itself.`);
  announce("The connection to the server is lost. This page tries again by itself.");
}

function reconnected() {
  if (disconnectedAt === null) return;
  disconnectedAt = null;
  setText("connection", "");
  announce("The connection to the server is back.");
}

/* The page of a single job ends with the program that runs it: it is no use to try again. */
const isShutDown = (error) => given.is_single_job && (!error.status || error.status === 503);

function showShutdownNotice() {
  if (job.is_running) Object.assign(job, words.killed);
  setText("connection", words.shutdown_notice);
  announce(words.shutdown_notice);
  update();
}

let announcedPhase = job.phase;
function announceProgress() {
  const { phase, counts } = job;
  const isDue = Date.now() - announcedAt >= ANNOUNCED_EVERY_SECONDS * 1000;
  if (phase === announcedPhase && !(isDue && phase === "running")) return;
  announcedAt = Date.now();
  announcedPhase = phase;
  const ended = `${count(counts.ended)} of ${count(job.merges)} merges have ended`;
  announce(`${words.phases[phase]}. ${ended}, ${count(counts.not_merged)} of them failed.`);
}

/* Buttons: before anything starts, a dialog shows what it is. */

const TITLES = {
  start: (merges) => `Start ${merges}`,
  "go-on": (merges) => `Go on with ${merges}`,
  retry: (merges) => `Try ${merges} again`,
};

function drawControls() {
  const hadFocus = document.activeElement;
  isStopping &&= job.phase === "running";
  // Where the command line runs the job, it alone starts it.
  for (const id of Object.keys(TITLES)) $(id).hidden = given.is_single_job || !job.actions[id];
  $("stop").hidden = job.phase !== "running";
  // A button that is disabled would lose the focus.
  for (const button of $("controls").children) button.setAttribute("aria-disabled", isRequested);
  $("stop").textContent = isStopping ? "Stop at once" : "Stop";
  setText("stopping", isStopping ? "Nothing more is started; the open merges get their time to end." : "");
  $("controls").hidden = [...$("controls").children].every((button) => button.hidden);
  if (hadFocus.hidden) $("phase").focus();
}

/* Whoever goes on after too many failures has seen them: this run bears more. */
const IN_SPITE_RATE = 0.5;
const isInSpite = () => job.stopped === "failures";

let closed = Promise.resolve();
async function confirmed(id) {
  // That the dialog was closed is reported a moment later, when it may be open again.
  await closed;
  const number = job.actions[id];
  const title = TITLES[id](number === 1 ? "1 merge" : `${count(number)} merges`);
  setText("confirmation-title", `${title}?`);
  const plural = number === 1 ? job.kind : words.plural[job.kind];
  const failed = id === "retry" ? ", those that failed or were refused included" : "";
  const limit = isInSpite()
    ? " This run goes on in spite of the failures: it stops if more than half of its merges fail."
    : "";
  setText("confirmation-what", `${count(number)} ${plural} will be merged into others${failed}.${limit}`);
  setText("confirmation-yes", title);
  const dialog = $("confirmation");
  dialog.returnValue = "";
  dialog.showModal();
  closed = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  await closed;
  return dialog.returnValue === "yes";
}

async function act(path, body) {
  if (isRequested) return false;
  isRequested = true;
  setText("problem", "");
  drawControls();
  try {
    const headers = { "Content-Type": "application/json" };
    adopt(await fetchJson(`${address}/${path}`, { method: "POST", headers, body: JSON.stringify(body) }));
    return true;
  } catch (error) {
    // Stopping at once also ends the server of a single job: the notice for that follows.
    if (isShutDown(error)) return false;
    setText("problem", error.status ? error.message : "The server could not be reached. Try again.");
    $("problem").focus();
    return false;
  } finally {
    isRequested = false;
    update();
  }
}

for (const id of Object.keys(TITLES)) {
  $(id).addEventListener("click", async () => {
    const { fingerprint } = job;
    if (!(await confirmed(id))) return;
    const settings = isInSpite() ? { max_failure_rate: IN_SPITE_RATE } : {};
    await act("start", { fingerprint, retry_failed: id === "retry", settings });
  });
}

$("stop").addEventListener("click", async () => {
  if (await act("stop", {})) isStopping = true;
  drawControls();
  if (isStopping) announce($("stopping").textContent);
});

/* The plan, page by page. */

let lastNumber = merges.at(-1)?.number ?? 0;
let missing = job.merges - merges.length;

function showMerge(merge) {
  const id = `cluster-${merge.primary_id}`;
  if (!$(id)) {
    $("clusters").append(element("li", { id }, record(merge, "primary"), element("ul", {})));
  }
  const outlook = merge.effect === null ? "" : ` · ${merge.effect} · undo: ${merge.undo}`;
  const line = element("span", { class: "note" }, `· line ${merge.line}${outlook}`);
  const parts = [record(merge, "duplicate"), " ", line, " ", stateMark(merge.state)];
  $(id).querySelector("ul").append(element("li", { id: `merge-${merge.number}` }, ...parts));
}

let isReading = false;
async function showMore() {
  if (isReading) return;
  isReading = true;
  try {
    const page = await fetchJson(`${address}/plan?after=${lastNumber}`);
    page.merges.forEach(showMerge);
    missing = page.next === null ? 0 : missing - page.merges.length;
    lastNumber = page.next ?? lastNumber;
    setText("missing", missing > 0 ? `And ${count(missing)} more.` : "");
    $("more").hidden = missing <= 0;
    if (missing <= 0) $("plan-summary").focus({ preventScroll: true });
    announce(`${count(page.merges.length)} more merges are shown.`);
  } catch (error) {
    setText("missing", `The rest could not be read: ${error.message}`);
  }
  isReading = false;
}

if ($("more")) {
  $("more").hidden = false;
  $("more").addEventListener("click", showMore);
}

drawControls();
follow();
