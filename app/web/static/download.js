// Downloads: the picture that is shown, as the PNG that there is, or made again in another format or with a colour behind.

import { $ } from "./common.js";
import { chosenColour } from "./backdrops.js";
import { refine, refinement } from "./refine.js";
import { tell } from "./tools.js";
import { t } from "./words.js";

let shown = null; // { photo, first, job, state }: the file, the first job, the job that is shown, and its strokes

/** Offer what is shown; null takes the offer away. */
export function offerDownload(what) {
  shown = what;
  $("save").hidden = !what;
  if (!what) return;
  $("download").href = what.job.resultUrl;
  $("download").download = nameOf(what.job);
}

const nameOf = ({ format }) => `${(shown.photo.name || "photo").replace(/\.[^.]*$/, "")}-cutout.${format}`;

async function save(event) {
  const fields = { format: $("format").value };
  if ($("with-colour").checked && chosenColour()) fields.background = chosenColour();
  if (fields.format === shown.job.format && !fields.background) return; // the link itself is right
  event.preventDefault();
  const mine = shown;
  tell(t("Making the file …"), "busy");
  try {
    const job = await refine(mine.first.jobId, refinement(mine.state, fields));
    tell("");
    if (mine !== shown) return;
    Object.assign(document.createElement("a"), { href: job.resultUrl, download: nameOf(job) }).click();
  } catch (error) {
    tell(error.message, "error");
  }
}

export function startDownloads() {
  $("download").addEventListener("click", save);
}
