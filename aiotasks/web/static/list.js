/* The list of jobs, and the form for a new one. */

const NEWS_SECONDS = 5;
const MOST_PROBLEMS = 500;
const form = $("new");
const drop = $("drop");
const file = $("file");
let known = null;

async function upload() {
  const [given] = file.files;
  const query = new URLSearchParams({
    kind: form.elements.kind.value,
    name: given.name,
    on_conflict: $("on-conflict").value,
  });
  // The type that a browser guesses must not decide how a file is read.
  const headers = { "Content-Type": "application/octet-stream" };
  const job = await ask(`jobs?${query}`, { method: "POST", headers, body: given });
  location.assign(`jobs/${encodeURIComponent(job.id)}`);
}

function showProblems(error) {
  const { problems = [] } = error;
  const isRefused = error.status !== undefined;
  const all = error.problem_count || problems.length;
  const number = all ? `${count(all)} ${all === 1 ? "problem" : "problems"}. ` : "";
  const title = isRefused ? `${number}${error.message}` : "The file could not be sent. Try again.";
  say("problems-title", title);
  const lines = problems.slice(0, MOST_PROBLEMS).map((each) => element("li", {}, each));
  const rest = all - lines.length;
  if (rest > 0) lines.push(element("li", {}, `And ${count(rest)} more.`));
  $("problem-lines").replaceChildren(...lines);
  $("problems").hidden = false;
  $("problems").focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  $("problems").hidden = true;
  $("submit").disabled = true;
  $("busy").hidden = false;
  announce($("busy").textContent);
  try {
    await upload();
  } catch (error) {
    showProblems(error);
  }
  $("submit").disabled = false;
  $("busy").hidden = true;
});

for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("is-over", name === "dragenter" || name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) file.files = event.dataTransfer.files;
  });
}

function row(job) {
  const { phase, counts } = job;
  const kind = words.plural[job.kind];
  const numbers = [
    `${count(counts.succeeded)} merged`,
    `${count(counts.not_merged)} not merged`,
    `${count(counts.to_come)} to come`,
  ];
  const link = { href: `jobs/${encodeURIComponent(job.id)}` };
  return element(
    "li",
    {},
    element("a", link, element("bdi", {}, job.source)),
    element("span", { class: "phase", "data-phase": phase }, words.phases[phase]),
    element("span", { class: "note" }, `${capital(kind)}, planned `, time(job.begun_at)),
    element("span", { class: "note" }, numbers.join(", ")),
  );
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

async function refresh() {
  const { jobs } = await ask("jobs");
  const news = JSON.stringify(jobs);
  if (news === known || !jobs.length) return;
  known = news;
  // Whoever has a link in focus keeps it.
  const focused = document.activeElement?.closest("#jobs a")?.getAttribute("href");
  $("jobs").replaceChildren(...jobs.map(row));
  if (focused) $("jobs").querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

async function follow() {
  for (;;) {
    await pause(NEWS_SECONDS);
    if (document.hidden) continue;
    try {
      await refresh();
      say("connection", "");
    } catch {
      say("connection", "The server cannot be reached. This page tries again by itself.");
    }
  }
}

form.hidden = false;
follow();
