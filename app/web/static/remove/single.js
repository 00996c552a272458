// One photo: removed at once, previewed while that takes, and refined with the brush.

import { $, API, call, element, linkToCredits, say, complain, sayNothing, tryAgain } from "../common.js";
import { refreshBackdrop } from "../stage/backdrops.js";
import { startBox } from "../stage/box.js";
import { forget, resume, startBrush, strokes } from "../stage/brush.js";
import { offerAlone, offerDownload, startDownloads } from "../stage/download.js";
import { startFinal } from "../stage/final.js";
import { startKeyboardBrush } from "../stage/keyboard_brush.js";
import { startKeys } from "../stage/keys.js";
import { isFree } from "../stage/layout.js";
import { startPointers } from "../stage/pointers.js";
import { forgetPlace, keepPlace, keepStrokes, leavePlace, shownUrl } from "./places.js";
import { previewOf } from "./preview.js";
import { refinerOf } from "../stage/refine.js";
import { close, loaded, loadedFrom, note, open, showCutout, startStage } from "../stage/stage.js";
import { choose, refreshTools, startTools, tell } from "../stage/tools.js";
import { isZoomed, showWhole, startZoom } from "../stage/zoom.js";
import { t } from "../words.js";

// The real removal is sent when the preview is there, or after this time. A service without a GPU runs one network after
// the other, so if it were sent first, the preview would come last.
const HEAD_START_MS = 500;
// A stroke's result is shown in a picture as large as the stage, within these limits.
const LEAST_VIEW_PIXELS = 200_000;
const MOST_VIEW_PIXELS = 1_000_000;

let current = 0; // number of the newest removal; the result of an older one is not shown
let refiner = null; // shows the result of the strokes; null until there is a result
let hasPreview = false; // whether this service has the tier

export const offerPreview = (isOffered) => (hasPreview = isOffered);

/** Show nothing of a single photo, and ignore what is still in work. */
export function dismiss() {
  current++;
  refiner?.forget();
  refiner = null;
  offerDownload(null);
  $("reopened").hidden = true;
  forgetPlace();
  close();
}

/**
 * Show an old result as if its background had just been removed.
 * @param {{first: object, job: object, state: object[], photoUrl: string|null}} old the first job and the one to show
 *   with its strokes; `later` are strokes to apply to it then; `canRefine` is false if no strokes can be drawn
 * @returns {Promise<boolean>} whether it is shown
 */
export async function showOld({ first, job, state, later, photoUrl, canRefine }) {
  dismiss();
  const mine = current;
  const removal = { photo: { name: job.name }, isNewest: () => mine === current, isOpen: false, isDone: true };
  const image = photoUrl && (await loadedFrom(photoUrl));
  if (!removal.isNewest()) return false;
  begin(removal, image || null, image?.naturalWidth ?? job.width, image?.naturalHeight ?? job.height);
  await show(removal, first, { job, state }, canRefine);
  if (!removal.isNewest()) return false;
  // What costs is not made without being asked for.
  if (later && refiner && isFree(first)) {
    resume(later);
    refreshTools(true);
    refiner.want(later);
  }
  return true;
}

export async function remove(photo) {
  dismiss();
  leavePlace();
  const mine = current;
  const seconds = element("span", { ariaHidden: "true" });
  const removal = { photo, isNewest: () => mine === current, isOpen: false, isDone: false, seconds };
  const clock = setInterval(tick, 1000, removal, performance.now());
  say(t("Removing the background …"), "busy");
  $("status").append(" ", seconds);
  try {
    const form = new FormData($("form"));
    form.set("image", photo, photo.name || "photo");
    const opened = openPhoto(removal);
    const preview = opened.then((image) => image && lookAhead(removal, image));
    await Promise.race([preview, new Promise((resolve) => setTimeout(resolve, HEAD_START_MS))]);
    if (!removal.isNewest()) return;
    const waits = (text) => removal.isNewest() && say(text, "busy");
    // A refusal for a while costs nothing, so the photo may be sent again.
    const job = await call(`${API}/remove`, { method: "POST", body: form, repeats: true, waits });
    await opened;
    const keepsPhotos = Boolean($("finish").dataset.photos);
    await show(removal, job, undefined, keepsPhotos);
    if (!keepsPhotos && removal.isNewest()) {
      offerAlone(job, t("This service keeps no photos, so a result cannot be corrected, nor be made in another format."));
    }
  } catch (error) {
    if (!removal.isNewest()) return;
    dismiss();
    complain(error);
    if (mayComeRight(error)) $("status").append(" ", tryAgain(() => remove(photo), $("remove-title")));
  } finally {
    removal.isDone = true;
    clearInterval(clock);
  }
}

/** Whether the same may be asked for another time. */
const mayComeRight = ({ status }) => [0, 401, 402, 429].includes(status) || status >= 500;

function tick(removal, start) {
  if (!removal.isNewest()) return;
  const seconds = `${((performance.now() - start) / 1000).toFixed(0)} s`;
  (removal.isOpen ? $("note-seconds") : removal.seconds).textContent = seconds; // not read aloud
}

/** Show the photo itself, and return it; null if the browser cannot. */
async function openPhoto(removal) {
  const image = await loaded(removal.photo);
  if (!image || !removal.isNewest()) return null;
  begin(removal, image, image.naturalWidth, image.naturalHeight);
  note(t("Removing the background …"));
  return image;
}

/** Show the preview, unless the real picture was first. */
async function lookAhead(removal, image) {
  const isWanted = () => removal.isNewest() && !removal.isDone;
  const url = hasPreview && (await previewOf(removal.photo, image));
  if (!url || !isWanted()) return;
  if (await showCutout(url, isWanted)) note(t("Preview. Finishing …"));
}

function begin(removal, image, width, height) {
  sayNothing();
  open(image, width, height);
  removal.isOpen = true;
  refreshBackdrop();
  forget(width, height);
  showWhole();
  choose("compare");
  tell("");
  refreshTools(false);
  for (const id of ["facts", "remarks"]) $(id).textContent = "";
  offerDownload(null);
}

async function show(removal, first, known = { job: first, state: [] }, canRefine = true) {
  const { job, state } = known;
  if (!removal.isNewest()) return;
  removal.isDone = true;
  if (!removal.isOpen) begin(removal, null, job.width, job.height);
  if (!(await showCutout(shownUrl(job), removal.isNewest))) return;
  note("");
  sayNothing(); // it may have waited
  keepPlace(first, job, state);
  const remarks = [...job.notes];
  if (job.noForeground) remarks.unshift(t("No subject was found in this photo, so the result is fully transparent."));
  $("remarks").textContent = remarks.join(" ");
  tellFacts(job);
  if (!canRefine) return;
  if (state.length) resume(state);
  offerDownload({ photo: removal.photo, first, job, state });
  refiner = refinerOf(first, {
    viewPixels: () => viewPixels(first),
    isClose: () => isZoomed() && $("after").naturalWidth < screenPixels($("after")).width,
    working: () => tell(t("Refining …"), "busy"),
    failed(error) {
      if (!removal.isNewest()) return;
      tell(`${error.message} ${t("Undo the stroke, or draw another.")}`, "error");
      if (error.code === "INSUFFICIENT_CREDITS") $("brush-told").append(" ", linkToCredits());
      if (mayComeRight(error)) $("brush-told").append(" ", tryAgain(() => refiner?.want(strokes()), $("tools")));
    },
    async show(url, refined, state, isWanted) {
      const isSame = refined && $("after").src.endsWith(url);
      if (!isSame && !(await showCutout(url, () => removal.isNewest() && isWanted()))) return;
      if (refined) {
        tellFacts(refined);
        keepPlace(first, refined, state);
      }
      offerDownload({ photo: removal.photo, first, job: refined, jobOf: refiner.jobOf, state });
      tell(refined === first ? t("This is the first result again.") : t("The strokes are applied. Compare shows the result alone."));
    },
  }, known);
  refreshTools(true);
  tell(t("The background is removed. Draw with Keep and Drop to correct it."));
}

function screenPixels(shown) {
  const { width, height } = shown.getBoundingClientRect();
  return { width: width * devicePixelRatio, height: height * devicePixelRatio };
}

/** The pixels of a small picture that fills the stage; 0 if the photo itself has hardly more. */
function viewPixels(job) {
  const { width, height } = screenPixels($("compare"));
  const pixels = Math.min(MOST_VIEW_PIXELS, Math.max(LEAST_VIEW_PIXELS, width * height));
  return job.width * job.height < 1.5 * pixels ? 0 : pixels;
}

function tellFacts(job) {
  const seconds = (job.processingMs / 1000).toFixed(1);
  $("facts").textContent = t("{width} × {height}, {seconds} s, {model} on {backend}", { ...job, seconds });
}

export function startSingle() {
  startStage();
  startZoom(() => refiner?.closer());
  startPointers();
  startTools(() => refiner?.prepare());
  startKeys();
  startBox();
  startKeyboardBrush();
  startFinal();
  startDownloads();
  startBrush(() => {
    refreshTools(refiner !== null);
    if (!refiner) return;
    keepStrokes(refiner.first, strokes());
    refiner.want(strokes());
  });
}
