// Batches: price, upload, progress and ZIP. The batch's id is kept in the fragment of the page's URL, so that the
// batch is shown again after a reload.

import { $, API, Refusal, call, say, sayNothing } from "./common.js";
import { bytesOf } from "./files.js";
import { plural, t } from "./words.js";

const MOST_THUMBNAILS = 60;
const AGAIN_MS = 2000;
const HASH = /^#batch=([0-9a-f-]{36})$/;

let order = null; // the batch on offer or being uploaded: { photos, others, tier, key }
let upload = null; // the XMLHttpRequest of the upload
let watched = null; // the id of the batch being followed, until it has finished

export const busy = () => upload !== null || watched !== null;

export function hide() {
  order = null;
  $("batch").hidden = true;
}

// Show the price of these photos in the selected tier.
export async function offer(photos, others) {
  const tier = new FormData($("form")).get("tier") ?? "basic";
  // A retry after a failed upload keeps its idempotency key, so that the batch is created and paid only once.
  const again = order?.photos === photos && order.tier === tier;
  const mine = { photos, others, tier, key: again ? order.key : newKey() };
  order = mine;
  show(photosOf(photos.length), ["start"]);
  $("batch-start").disabled = true;
  tell(t("Getting the price …"));
  try {
    const price = await call(`${API}/pricing/calculate`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ tier, imageCount: photos.length }),
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
    hide();
    say(error.message, "error");
  }
}

function priceOf(price) {
  if (!price.discountCredits) return t("{imageCount} × {creditsPerImage} = {totalCredits} credits.", price);
  return t("{imageCount} × {creditsPerImage} = {totalCredits} credits, less {discountPercent} %: {finalCredits} credits.", price);
}

const photosOf = (count) => plural(count, "{count} photo", "{count} photos");

const newKey = () => [...crypto.getRandomValues(new Uint32Array(4))].join("-");

async function send() {
  const { photos, others } = order;
  sayNothing();
  show(photosOf(photos.length), ["progress", "cancel"]);
  tell(t("Uploading …"));
  let accepted;
  try {
    accepted = await post(order);
  } catch (error) {
    if (error.message) say(error.message, "error");
    await offer(photos, others);
    return;
  }
  order = null;
  history.replaceState(null, "", `#batch=${accepted.batchId}`);
  await follow(accepted.batchId);
}

// XMLHttpRequest, because fetch does not report upload progress.
function post({ photos, tier, key }) {
  const form = new FormData();
  form.set("tier", tier);
  form.set("imageCount", photos.length);
  for (const { file, name } of photos) form.append("images", file, name);
  const request = new XMLHttpRequest();
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    $("batch-progress").value = (100 * loaded) / total;
    $("batch-count").textContent = t("{loaded} of {total} MB", { loaded: megabytes(loaded), total: megabytes(total) });
  });
  upload = request;
  return new Promise((resolve, reject) => {
    request.addEventListener("load", () => {
      if (request.status === 202) resolve(request.response);
      else reject(Refusal.of(request.status, request.response));
    });
    request.addEventListener("error", () => {
      reject(new Refusal(t("The upload was interrupted: the service cannot be reached, or a file was moved or changed.")));
    });
    request.addEventListener("abort", () => reject(new Refusal("")));
    request.open("POST", `${API}/batch`);
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("Idempotency-Key", key);
    request.responseType = "json";
    request.send(form);
  }).finally(() => (upload = null));
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

// Follow a batch until it has finished, then show its results.
async function follow(id) {
  watched = id;
  let batch;
  try {
    batch = await call(`${API}/batch/${id}`);
  } catch (error) {
    if (watched !== id) return;
    say(error.message, "error");
    if (error.status >= 400 && error.status < 500) watched = null;
    else setTimeout(() => watched === id && follow(id), AGAIN_MS);
    return;
  }
  if (watched !== id) return;
  if (batch.finishedAt) {
    watched = null;
    finish(batch);
    return;
  }
  sayNothing();
  show(photosOf(batch.images), ["progress", "cancel"]);
  tell(t("Removing the backgrounds …"));
  showProgress(batch);
  const events = new EventSource(`${API}/batch/${id}/events`);
  events.addEventListener("progress", (event) => {
    if (watched === id) showProgress(JSON.parse(event.data));
    else events.close();
  });
  events.addEventListener("end", () => {
    events.close();
    if (watched === id) follow(id);
  });
  events.addEventListener("error", () => {
    if (watched !== id) {
      events.close();
      return;
    }
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
  return minutes < 90 ? t("{minutes} min", { minutes }) : t("{hours} h", { hours: (minutes / 60).toFixed(1) });
}

async function cancel() {
  if (upload) {
    upload.abort();
    return;
  }
  $("batch").focus(); // a disabled button would lose the focus
  $("batch-cancel").disabled = true;
  tell(t("Cancelling …"));
  try {
    await call(`${API}/batch/${watched}`, { method: "DELETE" });
  } catch (error) {
    // 409: the batch has finished meanwhile; its events report that.
    if (error.status !== 409) say(error.message, "error");
    $("batch-cancel").disabled = false;
  }
}

function finish(batch) {
  sayNothing();
  show(photosOf(batch.images), batch.zipUrl ? ["zip"] : []);
  tell(`${outcome(batch)} ${plural(batch.creditsCharged, "{count} credit was charged.", "{count} credits were charged.")}`);
  if (batch.zipUrl) $("batch-zip").href = batch.zipUrl;
  const failed = batch.photos.filter((photo) => photo.error && photo.status === "failed");
  $("batch-failed").replaceChildren(...failed.map(failure));
  const made = batch.photos.filter((photo) => photo.resultUrl);
  $("batch-strip").replaceChildren(...made.slice(0, MOST_THUMBNAILS).map(thumbnail));
  if (made.length > MOST_THUMBNAILS) {
    $("batch-count").textContent = t("The first {shown} pictures are shown; the ZIP contains all {count}.", {
      shown: MOST_THUMBNAILS,
      count: made.length,
    });
  }
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

function failure({ name, error }) {
  const item = document.createElement("li");
  const file = document.createElement("b");
  file.textContent = name;
  item.append(file, ` ${error.detail}`);
  return item;
}

function thumbnail({ name, resultUrl }) {
  const picture = document.createElement("img");
  picture.loading = "lazy";
  picture.src = resultUrl;
  picture.alt = name;
  const link = document.createElement("a");
  link.href = resultUrl;
  link.target = "_blank";
  link.title = name;
  link.append(picture);
  const item = document.createElement("li");
  item.append(link);
  return item;
}

// Show the batch section with only these parts, and clear the others.
function show(title, parts) {
  const held = $("batch").contains(document.activeElement);
  $("batch-title").textContent = title;
  for (const part of ["start", "progress", "cancel", "zip"]) $(`batch-${part}`).hidden = !parts.includes(part);
  $("batch-progress").value = 0;
  $("batch-cancel").disabled = false;
  $("batch-count").textContent = "";
  $("batch-failed").replaceChildren();
  $("batch-strip").replaceChildren();
  $("batch").hidden = false;
  // The focused button may be hidden now: keep the keyboard focus in this section.
  if (held) $("batch").focus();
}

// Announced by screen readers, so it holds only essential messages; the progress has an element of its own.
function tell(text) {
  $("batch-told").textContent = text;
}

function followAddress() {
  const id = HASH.exec(location.hash)?.[1];
  if (id && id !== watched && !upload) follow(id);
}

export function startBatches() {
  $("batch-start").addEventListener("click", send);
  $("batch-cancel").addEventListener("click", cancel);
  $("tiers").addEventListener("change", () => {
    if (order && !upload) offer(order.photos, order.others);
  });
  addEventListener("hashchange", followAddress);
  addEventListener("beforeunload", (event) => {
    if (upload) event.preventDefault();
  });
  followAddress();
}
