/* The list of jobs, and the form for a new one. */

const REFRESH_SECONDS = 5;
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
    no_new_company: $("no-new-company").checked,
  });
  for (const option of form.querySelectorAll("[data-option]")) {
    if (option.value.trim()) query.set(option.id, option.value);
  }
  // Not the browser's guess: the server would read a file of type JSON as the pairs of a program.
  const headers = { "Content-Type": "application/octet-stream" };
  const job = await fetchJson(`jobs?${query}`, { method: "POST", headers, body: given });
  location.assign(`jobs/${encodeURIComponent(job.id)}`);
}

function showProblems(error) {
  const { problems = [] } = error;
  const isRefused = error.status !== undefined;
  const all = error.problem_count || problems.length;
  const number = all ? `${count(all)} ${all === 1 ? "problem" : "problems"}. ` : "";
  const title = isRefused ? `${number}${error.message}` : "The file could not be sent. Try again.";
  setText("problems-title", title);
  const lines = problems.slice(0, MOST_PROBLEMS).map((each) => element("li", {}, each));
  const missing = all - lines.length;
  if (missing > 0) lines.push(element("li", {}, `And ${count(missing)} more.`));
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
  const { jobs } = await fetchJson("jobs");
  const fresh = JSON.stringify(jobs);
  if (fresh === known || !jobs.length) return;
  known = fresh;
  // Replacing the rows would take the focus off a link.
  const focused = document.activeElement?.closest("#jobs a")?.getAttribute("href");
  $("jobs").replaceChildren(...jobs.map(row));
  if (focused) $("jobs").querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

async function follow() {
  for (;;) {
    await pause(REFRESH_SECONDS);
    if (document.hidden) continue;
    try {
      await refresh();
      setText("connection", "");
    } catch {
      setText("connection", "The server cannot be reached. This page tries again by itself.");
    }
  }
}

form.hidden = false;
follow();
