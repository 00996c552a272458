// Downloads: the picture that is shown, as the PNG that there is, or made again in another format, layout or background.

import { $ } from "../common.js";
import { offerFinal } from "./final.js";
import { make, wish } from "./output.js";
import { tell } from "./tools.js";
import { t } from "../words.js";

// { photo, first, job, jobOf, state }: the file, the first job, the job that is shown, null for a view, what makes the job
// of a state, and the strokes.
let shown = null;

/** Offer what is shown; null takes the offer away. */
export function offerDownload(what) {
  shown = what;
  $("save").hidden = !what;
  if (what) {
    const job = what.job ?? what.first; // of a view, the job is made when it is saved
    $("download").href = job.resultUrl;
    $("download").download = nameOf(job);
  }
  offerFinal(what);
}

function nameOf({ format }, kind = "cutout") {
  return `${(shown.photo.name || "photo").replace(/\.[^.]*$/, "")}-${kind}.${format}`;
}

const kindOf = ({ preset, format }) => [preset, format === "mask" && "mask"].filter(Boolean).join("-") || "cutout";

/** Offer a job's file alone, and say why no strokes can be drawn; `first` is the job to draw on, where there is one. */
export function offerAlone(job, why, first = job) {
  $("reopened-told").textContent = why;
  $("reopened-download").href = job.resultUrl;
  $("reopened-download").download = `${(job.name || "photo").replace(/\.[^.]*$/, "")}-cutout.${job.format}`;
  $("reopened-first").hidden = !(first && first !== job && first.photoUrl && first.inPlace);
  $("reopened-first").href = `#job=${first?.jobId}`;
  $("reopened").hidden = false;
}

async function save(event) {
  const fields = wish();
  const isPlain = Object.keys(fields).length === 1 && fields.format === shown.first.format;
  if (isPlain && shown.job) return; // the link itself is right
  event.preventDefault();
  const mine = shown;
  tell(t("Making the file …"), "busy");
  try {
    const job = await (isPlain ? mine.jobOf(mine.state) : make(mine, fields));
    tell("");
    if (mine.state !== shown?.state) return;
    const name = nameOf(job, kindOf(fields));
    Object.assign(document.createElement("a"), { href: job.resultUrl, download: name }).click();
  } catch (error) {
    tell(error.message, "error");
  }
}

export function startDownloads() {
  $("download").addEventListener("click", save);
}
