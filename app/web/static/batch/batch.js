// Batches: price, upload, progress and ZIP. The batch's id is kept in the fragment of the page's URL, so that the
// batch is shown again after a reload.

import { $, API, call, complain, insist, keepFocus, parsed, say, sayNothing, signedIn } from "../common.js";
import { chosenFields, startBatchOptions } from "./batch_options.js";
import { changePhotos, handPhotosTo, showPhotos, startPhotos } from "./photos.js";
import { offerAgain } from "./retry.js";
import { upload } from "./upload.js";
import { nameThing } from "../views.js";
import { number, plural, t } from "../words.js";

const AGAIN_MS = 2000;
const HASH = /^#batch=([0-9a-f-]{36})$/;

let order = null; // the batch on offer or being uploaded: { photos, others, tier }
let attempt = null; // the latest upload: { photos, fields, key }
let sending = null; // aborts the upload
let watched = null; // the id of the batch being followed, until it has finished
let shownId = null; // the id of the batch that is shown
let again = []; // the failed photos that can be sent again, as { file, name }
const sent = new Map(); // the photos of the batches that were sent from here, by the batches' ids

export const busy = () => sending !== null || watched !== null;

export function hide() {
  order = shownId = null;
  $("batch").hidden = true;
}

/** Follow the batch that is shown no longer: another thing takes its place. The service goes on with it. */
export function leave() {
  if (sending) return;
  watched = null;
  hide();
}

/** Show these photos, `{ file, name }`, with the price in the selected tier. */
export async function offer(photos, others) {
  const mine = { photos, others, tier: new FormData($("form")).get("tier") ?? "basic" };
  order = mine;
  shownId = null;
  show(photosOf(photos.length), ["options", "start"]);
  showPhotos(photos, photos.map((photo) => ({ ...photo, status: "ready" })));
  $("batch-start").disabled = true;
  tell(t("Getting the price …"));
  try {
    const price = await call(`${API}/pricing/calculate`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ tier: mine.tier, imageCount: photos.length }),
      repeats: true,
      waits: (text) => mine === order && tell(text),
    });
    if (mine !== order) return;
    const left = plural(
      others,
      "{count} file that is not a picture was skipped.",
      "{count} files that are not pictures were skipped.",
    );
    tell(others ? `${priceOf(price)} ${left}` : priceOf(price));
    $("batch-start").disabled = false;
    $("batch").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (mine !== order) return;
    // The photos stay: another tier, or the button, asks again.
    tell("");
    $("batch-start").disabled = false;
    complain(error);
  }
}

function priceOf(price) {
  if (!price.discountCredits) return t("{imageCount} × {creditsPerImage} = {totalCredits} credits.", price);
  return t("{imageCount} × {creditsPerImage} = {totalCredits} credits, less {discountPercent} %: {finalCredits} credits.", price);
}

const photosOf = (count) => plural(count, "{count} photo", "{count} photos");

const newKey = () => [...crypto.getRandomValues(new Uint32Array(4))].join("-");

/** Return what is to be sent. What is sent again keeps its idempotency key, so that it is created and paid only once. */
function attemptAt({ photos, tier }) {
  const fields = { tier, ...chosenFields() };
  const isAgain = attempt?.photos === photos && JSON.stringify(attempt.fields) === JSON.stringify(fields);
  return { photos, fields, key: isAgain ? attempt.key : newKey() };
}

async function send() {
  const { photos, others } = order;
  attempt = attemptAt(order);
  sending = new AbortController();
  const { signal } = sending;
  sayNothing();
  show(photosOf(photos.length), ["progress", "cancel"]);
  tell(t("Uploading …"));
  let accepted;
  try {
    accepted = await signedIn(() => insist(() => upload(attempt, tellBytes, signal), (text) => say(text, "busy"), signal));
  } catch (error) {
    sending = null;
    if (signal.aborted) sayNothing();
    else complain(error);
    await offer(photos, others);
    return;
  }
  sending = null;
  order = null;
  sayNothing();
  const id = accepted.batchId;
  sent.set(id, photos);
  handPhotosTo(id);
  // After a retry, Back leads to the batch before it.
  nameThing(`#batch=${id}`, { isNew: HASH.test(location.hash) });
  await follow(id);
}

function tellBytes(loaded, total) {
  $("batch-progress").value = (100 * loaded) / total;
  $("batch-count").textContent = t("{loaded} of {total} MB", { loaded: megabytes(loaded), total: megabytes(total) });
}

const megabytes = (bytes) => number(bytes / 1e6, { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** Follow a batch until it has finished, then show its results. */
async function follow(id) {
  watched = id;
  let batch;
  try {
    batch = await call(`${API}/batch/${id}`, { waits: (text) => watched === id && say(text, "busy") });
  } catch (error) {
    if (watched !== id) return;
    complain(error);
    if (shownId !== id && !sent.has(id)) $("batch").hidden = true; // it shows another one
    if (error.status >= 400 && error.status < 500 && error.status !== 429) watched = null;
    else setTimeout(() => watched === id && follow(id), AGAIN_MS);
    return;
  }
  if (watched !== id) return;
  shownId = id;
  sayNothing();
  if (batch.finishedAt) {
    watched = null;
    finish(batch);
    return;
  }
  show(photosOf(batch.images), ["progress", "cancel"]);
  tell(t("Removing the backgrounds …"));
  showPhotos(id, batch.photos);
  showProgress(batch);
  listen(id);
}

function listen(id) {
  const events = new EventSource(`${API}/batch/${id}/events`);
  const on = (kind, act) =>
    events.addEventListener(kind, (event) => {
      if (watched === id) act(event);
      else events.close();
    });
  on("photos", ({ data }) => changePhotos(parsed(data).photos));
  on("progress", ({ data }) => showProgress(parsed(data)));
  on("end", () => {
    events.close();
    follow(id);
  });
  on("error", () => {
    $("batch-count").textContent = t("The connection was lost. Reconnecting …");
    // The browser reconnects by itself after a lost connection, but not after a response that is no event stream.
    if (events.readyState === EventSource.CLOSED) setTimeout(() => watched === id && follow(id), AGAIN_MS);
  });
}

function showProgress({ counts, images, percent, secondsLeft }) {
  $("batch-progress").value = percent;
  const said = [t("{completed} of {images} done", { ...counts, images })];
  if (counts.failed) said.push(t("{failed} failed", counts));
  if (counts.cancelled) said.push(t("{cancelled} cancelled", counts));
  said.push(`${percent} %`);
  if (!counts.pending && !counts.processing) said.push(t("packing the ZIP"));
  else if (secondsLeft !== null) said.push(t("{duration} left", { duration: duration(secondsLeft) }));
  $("batch-count").textContent = said.join(" · ");
}

function duration(seconds) {
  if (seconds < 90) return t("{seconds} s", { seconds });
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? t("{minutes} min", { minutes }) : t("{hours} h", { hours: number(minutes / 60, { maximumFractionDigits: 1 }) });
}

async function cancel() {
  if (sending) {
    sending.abort();
    return;
  }
  $("batch").focus(); // a disabled button would lose the focus
  $("batch-cancel").disabled = true;
  tell(t("Cancelling …"));
  try {
    await call(`${API}/batch/${watched}`, { method: "DELETE", repeats: true });
  } catch (error) {
    // 409: the batch has finished meanwhile; its events report that.
    if (error.status !== 409) complain(error);
    $("batch-cancel").disabled = false;
  }
}

function finish(batch) {
  const isKept = batch.zipUrl !== null;
  show(photosOf(batch.images), isKept ? ["zip"] : []);
  tell(`${outcome(batch)} ${plural(batch.creditsCharged, "{count} credit was charged.", "{count} credits were charged.")}`);
  const gone = isKept ? {} : { resultUrl: null, thumbnailUrl: null };
  showPhotos(batch.batchId, batch.photos.map((photo) => ({ ...photo, ...gone })));
  if (isKept) {
    $("batch-zip").href = batch.zipUrl;
    $("batch-count").textContent = plural(
      batch.counts.completed,
      "The ZIP holds {count} picture under the name of its file, and manifest.json, which says what became of each photo.",
      "The ZIP holds {count} pictures under the names of their files, and manifest.json, which says what became of each photo.",
    );
  }
  again = offerAgain(batch, sent.get(batch.batchId));
}

function outcome({ status, images, counts, zipUrl }) {
  const made = { ...counts, images };
  if (counts.completed && !zipUrl) {
    return t("{completed} of {images} pictures were created, but the results are no longer stored.", made);
  }
  if (status === "completed") return t("All pictures were created.");
  if (status === "failed") return t("No picture could be created.");
  if (status === "cancelled") return t("Cancelled: {completed} of {images} pictures were created.", made);
  return t("{completed} of {images} pictures were created.", made);
}

/** Send the failed photos again: several as a batch, one by itself. */
async function sendAgain(removeOne) {
  if (again.length === 1) {
    await removeOne(again[0].file);
    return;
  }
  await offer(again, 0);
  if (order?.photos === again) await send();
}

/** Show the batch section with only these parts, and clear the others. */
function show(title, parts) {
  const held = $("batch").contains(document.activeElement);
  $("batch-title").textContent = title;
  for (const part of ["options", "start", "progress", "cancel", "zip"]) $(`batch-${part}`).hidden = !parts.includes(part);
  $("batch-progress").value = 0;
  $("batch-cancel").disabled = false;
  $("batch-count").textContent = "";
  $("batch-again").hidden = $("batch-advice").hidden = true;
  $("batch").hidden = false;
  // The focused button may be hidden now: keep the keyboard focus in this section.
  if (held) keepFocus($("batch"));
}

/** Announced by screen readers, so it holds only essential messages; the progress has an element of its own. */
function tell(text) {
  $("batch-told").textContent = text;
}

/**
 * @param removeOne removes the background of a single file
 * @param dismissOne shows a single photo no longer
 */
export function startBatches(removeOne, dismissOne) {
  function followAddress() {
    const id = HASH.exec(location.hash)?.[1];
    if (!id || id === watched || sending) return;
    order = null;
    if (id !== shownId) dismissOne();
    follow(id);
  }

  $("batch-start").addEventListener("click", send);
  $("batch-cancel").addEventListener("click", cancel);
  $("batch-again").addEventListener("click", () => sendAgain(removeOne));
  $("tiers").addEventListener("change", () => {
    if (order && !sending) offer(order.photos, order.others);
  });
  startBatchOptions();
  startPhotos();
  addEventListener("hashchange", followAddress);
  addEventListener("beforeunload", (event) => {
    if (sending) event.preventDefault();
  });
  followAddress();
}
