// One photo: removed at once, previewed while that takes, and refined with the brush.

import { $, API, call, linkToCredits, say, complain, sayNothing } from "./common.js";
import { forget, startBrush, strokes } from "./brush.js";
import { offerDownload, startDownloads } from "./download.js";
import { startPointers } from "./pointers.js";
import { previewOf } from "./preview.js";
import { refinerOf } from "./refine.js";
import { close, loaded, note, open, showCutout, startStage } from "./stage.js";
import { choose, refreshTools, startTools, tell } from "./tools.js";
import { showWhole, startZoom } from "./zoom.js";
import { t } from "./words.js";

// The real removal is sent when the preview is there, or after this time. A service without a GPU runs one network after
// the other, so if it were sent first, the preview would come last.
const HEAD_START_MS = 500;

let current = 0; // number of the newest removal; the result of an older one is not shown
let want = null; // asks for the result of the strokes; null until there is a result
let hasPreview = false; // whether this service has the tier

export const offerPreview = (isOffered) => (hasPreview = isOffered);

/** Show nothing of a single photo, and ignore what is still in work. */
export function dismiss() {
  current++;
  want = null;
  offerDownload(null);
  close();
}

export async function remove(photo) {
  dismiss();
  const mine = current;
  const removal = { photo, isNewest: () => mine === current, isOpen: false, isDone: false };
  const clock = setInterval(tick, 1000, removal, performance.now());
  say(t("Removing the background …"), "busy");
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
    await show(removal, job);
  } catch (error) {
    if (!removal.isNewest()) return;
    dismiss();
    complain(error);
  } finally {
    removal.isDone = true;
    clearInterval(clock);
  }
}

function tick(removal, start) {
  if (!removal.isNewest()) return;
  const seconds = `${((performance.now() - start) / 1000).toFixed(0)} s`;
  if (removal.isOpen) $("note-seconds").textContent = seconds;
  else say(`${t("Removing the background …")} ${seconds}`, "busy");
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
  const url = hasPreview && (await previewOf(image));
  if (!url || !isWanted()) return;
  if (await showCutout(url, isWanted)) note(t("Preview. Finishing …"));
}

function begin(removal, image, width, height) {
  sayNothing();
  open(image, width, height);
  removal.isOpen = true;
  forget(width, height);
  showWhole();
  choose("compare");
  tell("");
  refreshTools(false);
  for (const id of ["facts", "remarks"]) $(id).textContent = "";
  offerDownload(null);
}

async function show(removal, job) {
  if (!removal.isNewest()) return;
  removal.isDone = true;
  if (!removal.isOpen) begin(removal, null, job.width, job.height);
  if (!(await showCutout(job.resultUrl, removal.isNewest))) return;
  note("");
  const remarks = [...job.notes];
  if (job.noForeground) remarks.unshift(t("No subject was found in this photo, so the result is fully transparent."));
  $("remarks").textContent = remarks.join(" ");
  tellFacts(job);
  offerDownload({ photo: removal.photo, first: job, job, state: [] });
  want = refinerOf(job, {
    working: () => tell(t("Refining …"), "busy"),
    failed(error) {
      if (!removal.isNewest()) return;
      tell(`${error.message} ${t("Undo the stroke, or draw another.")}`, "error");
      if (error.code === "INSUFFICIENT_CREDITS") $("brush-told").append(" ", linkToCredits());
    },
    async show(refined, state, isWanted) {
      if (!(await showCutout(refined.resultUrl, () => removal.isNewest() && isWanted()))) return;
      tellFacts(refined);
      offerDownload({ photo: removal.photo, first: job, job: refined, state });
      tell(refined === job ? t("This is the first result again.") : t("The strokes are applied. Compare shows the result alone."));
    },
  });
  refreshTools(true);
  tell(t("The background is removed. Draw with Keep and Drop to correct it."));
}

function tellFacts(job) {
  const seconds = (job.processingMs / 1000).toFixed(1);
  $("facts").textContent = t("{width} × {height}, {seconds} s, {model} on {backend}", { ...job, seconds });
}

export function startSingle() {
  startStage();
  startZoom();
  startPointers();
  startTools();
  startDownloads();
  startBrush(() => {
    refreshTools(want !== null);
    want?.(strokes());
  });
}
