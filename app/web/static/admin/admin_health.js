// The health of the service in the view Admin: asked for every few seconds while somebody looks, and changed in place, so
// that nothing flickers and no focus is lost.

import { $, ROOT, element } from "../common.js";
import { showItems, tell } from "./lists.js";
import { language, plural, t } from "../words.js";

const EVERY_MS = 5000;
const PATIENCE_MS = 4000;

let timer = 0;
let watched = 0; // counts the times that the view was shown, and is 0 while it is not
let times = 0;

const clock = new Intl.DateTimeFormat(language, { timeStyle: "medium" });

/** Show the health, and keep it up to date. */
export function showHealth() {
  watched = ++times;
  look();
}

export function hideHealth() {
  watched = 0;
  clearTimeout(timer);
}

async function look() {
  clearTimeout(timer);
  if (!watched || document.hidden) return; // `visibilitychange` goes on
  const mine = watched;
  const answer = await ask();
  if (mine !== watched) return;
  if (answer) showAnswer(answer);
  else tellGone();
  clearTimeout(timer);
  timer = setTimeout(look, EVERY_MS);
}

/** Return what the service says about itself, in whatever state it is, or null if it says nothing. */
async function ask() {
  try {
    const answer = await fetch(`${ROOT}api/health`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    return await answer.json();
  } catch {
    return null;
  }
}

function tellGone() {
  $("health-state").className = "bad";
  tell($("health-state"), t("The service does not answer. This page asks again every {count} seconds.", { count: EVERY_MS / 1000 }));
}

function showAnswer(health) {
  // While the models are loading, the answer is an error of its own.
  const { status = "degraded", version, device, queue = null, workers = [], problems = [health] } = health;
  const works = status === "ok";
  const bad = !works || problems.length > 0;
  $("health-state").className = bad ? "bad" : "good";
  let text = t("The service cannot process photos now.");
  if (works) text = bad ? t("The service works, but batches have problems.") : t("Everything works.");
  tell($("health-state"), text);
  showItems($("health-problems"), problems, ({ code, detail }) => `${code} ${detail}`, (one) =>
    element("li", {}, element("b", {}, one.code), ` ${one.detail}`),
  );
  const facts = version ? [t("Cutout {version} on {device}", { version, device })] : [];
  tell($("health-queue"), [...facts, ...queueText(queue, workers)].join(" · "));
  showItems($("health-workers"), workers, ({ name }) => name, newWorker, updateWorker);
  const at = clock.format(new Date());
  tell($("health-time"), t("as of {time}", { time: at }));
}

function queueText(queue, workers) {
  if (!queue) return [t("no queue for batches")];
  if (!queue.answers) return [t("the queue does not answer")];
  return [
    plural(workers.length, "{count} worker alive", "{count} workers alive"),
    plural(queue.waiting, "{count} photo waits", "{count} photos wait"),
    plural(queue.batches, "{count} batch is running", "{count} batches are running"),
  ];
}

const newWorker = () => element("li", {}, element("b"), element("span"), element("small"));

function updateWorker(item, { name, version, device, queues, tiers, breaker }) {
  const [title, facts, models] = item.children;
  tell(title, name);
  const said = [device, t("version {version}", { version }), t("queues: {queues}", { queues: queues.join(", ") })];
  if (breaker && breaker !== "closed") said.push(t("calls to remote networks are stopped"));
  tell(facts, said.join(" · "));
  const served = Object.entries(tiers).map(([tier, { model, backend, substitute, wanted }]) => {
    const by = { tier: tier[0].toUpperCase() + tier.slice(1), model, backend, wanted };
    return substitute ? t("{tier}: {model} for {wanted}, {backend}", by) : t("{tier}: {model}, {backend}", by);
  });
  tell(models, served.join(" · "));
}

document.addEventListener("visibilitychange", look);
