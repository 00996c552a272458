// The view History: one's photos with thumbnails, filters that are in the address, and one's batches.

import { $, API, call, element } from "../common.js";
import { batchCard, jobCard } from "./history_cards.js";
import { isShown, registerView, replaceQuery } from "../views.js";
import { plural, t } from "../words.js";

const PAGE = 24;
const MOST = 200; // of the jobs that the service lists at once
const BATCHES = 12;
const TYPING_MS = 300;
// Not the previews, which the page makes of each photo.
const TIERS = ["basic", "standard", "professional", "industry"];
const STATUSES = { open: ["pending", "processing"] };
const NAMES = ["search", "status", "tier", "since", "until", "needsReview"];

let query = new URLSearchParams(); // what is listed
let jobs = [];
let newest = 0; // the number of the newest request; answers of older ones are not shown
let opened = null; // the id of the job whose card was followed
let typing = 0;

/** The service's parameters for the filters. Dates are days of the reader's time zone. */
function parameters() {
  const asked = new URLSearchParams({ latest: "true" });
  const status = query.get("status");
  for (const one of status ? (STATUSES[status] ?? [status]) : []) asked.append("status", one);
  for (const one of query.get("tier") ? [query.get("tier")] : TIERS) asked.append("tier", one);
  for (const name of ["search", "needsReview"]) if (query.get(name)) asked.set(name, query.get(name));
  for (const [name, days] of [["since", 0], ["until", 1]]) {
    const day = dayOf(query.get(name), days);
    if (day) asked.set(name, day);
  }
  return asked;
}

function dayOf(text, more) {
  const [year, month, day] = (text ?? "").split("-").map(Number);
  const date = new Date(year, month - 1, day + more);
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
}

/** List the first jobs anew, or those behind them. */
async function load({ isMore = false, count = PAGE } = {}) {
  const mine = ++newest;
  $("history-list").ariaBusy = "true";
  const asked = parameters();
  asked.set("limit", Math.min(count, MOST));
  asked.set("offset", isMore ? jobs.length : 0);
  try {
    const page = await call(`${API}/jobs?${asked}`);
    if (mine !== newest) return;
    const known = new Set(isMore ? jobs.map((job) => job.jobId) : []);
    const fresh = page.jobs.filter((job) => !known.has(job.jobId)); // a new one moves the others along
    jobs = isMore ? [...jobs, ...fresh] : fresh;
    showJobs(fresh, page.more, isMore);
  } catch (error) {
    if (mine !== newest) return;
    const again = element("button", { className: "button quiet", type: "button" }, t("Try again"));
    again.addEventListener("click", () => load({ isMore, count }));
    tell(error.message, again);
  } finally {
    if (mine === newest) $("history-list").ariaBusy = "false";
  }
}

function showJobs(fresh, hasMore, isMore) {
  const cards = fresh.map((job) => jobCard(job));
  if (isMore) $("history-list").append(...cards);
  else $("history-list").replaceChildren(...cards);
  // The keyboard goes on with what is new.
  if (isMore && document.activeElement === $("history-more")) cards[0]?.querySelector(".what").focus();
  $("history-more").hidden = !hasMore;
  if (jobs.length) tell("");
  else tellEmpty();
  if (opened) returnTo(opened);
}

function tellEmpty() {
  if (isFiltered()) {
    tell(t("No photo fits these filters."));
    return;
  }
  const link = element("a", { className: "button", href: "#remove" }, t("Remove a background"));
  tell(t("There is nothing here yet. Each photo whose background you remove appears here."), link);
}

const isFiltered = () => NAMES.some((name) => query.has(name));

function tell(text, ...more) {
  $("history-told").replaceChildren(...(text ? [element("p", {}, text), ...more] : []));
}

/** Go back to the card that was left, as the browser does on other pages. */
function returnTo(id) {
  opened = null;
  const link = document.querySelector(`#history-list [data-job="${id}"] .what`);
  link?.scrollIntoView({ block: "center" });
  link?.focus({ preventScroll: true });
}

async function loadBatches() {
  try {
    const { batches } = await call(`${API}/batch?limit=${BATCHES}`);
    $("history-batch-list").replaceChildren(...batches.map(batchCard));
    $("history-batches").hidden = !batches.length;
  } catch {
    $("history-batches").hidden = true; // what is below says it
  }
}

/** Take the filters from the form into the address; a word that is being typed makes no new entry. */
function follow({ isTyping = false } = {}) {
  const form = new FormData($("history-filters"));
  const wanted = new URLSearchParams();
  for (const name of NAMES) {
    const value = form.get(name)?.trim();
    if (value) wanted.set(name, value);
  }
  if (wanted.toString() === query.toString()) return;
  if (isTyping) {
    replaceQuery(wanted);
    show(wanted);
  } else {
    location.hash = wanted.size ? `history?${wanted}` : "history";
  }
}

function fill() {
  for (const control of $("history-filters").elements) {
    if (!control.name || control === document.activeElement) continue;
    if (control.type === "checkbox") control.checked = query.get(control.name) === control.value;
    else control.value = query.get(control.name) ?? "";
  }
  $("history-clear").hidden = !isFiltered();
}

function show(wanted) {
  const isSame = wanted.toString() === query.toString();
  query = new URLSearchParams(wanted);
  fill();
  // What was listed before stays until its newest state is there.
  load({ count: isSame && opened ? Math.max(PAGE, jobs.length) : PAGE });
}

function start() {
  const form = $("history-filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => event.target === $("history-search") || follow());
  form.addEventListener("reset", () => {
    $("history-search").focus();
    setTimeout(follow);
  });
  $("history-search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => isShown("history") && follow({ isTyping: true }), TYPING_MS);
  });
  $("history-more").addEventListener("click", () => {
    if ($("history-list").ariaBusy !== "true") load({ isMore: true }); // disabled, it would lose the keyboard's focus
  });
  $("history-list").addEventListener("click", ({ target }) => {
    if (target.closest("a.what")) opened = target.closest("[data-job]").dataset.job;
  });
}

registerView("history", {
  show(wanted) {
    const days = Number($("history-kept").dataset.days);
    $("history-kept").textContent = plural(days, "Results are kept for {count} day.", "Results are kept for {count} days.");
    show(wanted);
    loadBatches();
  },
  hide() {
    clearTimeout(typing);
  },
});
start();
