// Downloads: the picture that is shown, as the PNG that there is, or made again in another format or with a colour behind.

import { $ } from "./common.js";
import { chosenColour } from "./backdrops.js";
import { refine, refinement } from "./refine.js";
import { tell } from "./tools.js";
import { t } from "./words.js";

// { photo, first, job, jobOf, state }: the file, the first job, the job that is shown, null for a view, what makes the job
// of a state, and the strokes.
let shown = null;

/** Offer what is shown; null takes the offer away. */
export function offerDownload(what) {
  shown = what;
  $("save").hidden = !what;
  if (!what) return;
  const job = what.job ?? what.first; // of a view, the job is made when it is saved
  $("download").href = job.resultUrl;
  $("download").download = nameOf(job);
}

const nameOf = ({ format }) => `${(shown.photo.name || "photo").replace(/\.[^.]*$/, "")}-cutout.${format}`;

async function save(event) {
  const fields = { format: $("format").value };
  if ($("with-colour").checked && chosenColour()) fields.background = chosenColour();
  const isPlain = fields.format === shown.first.format && !fields.background;
  if (isPlain && shown.job) return; // the link itself is right
  event.preventDefault();
  const mine = shown;
  tell(t("Making the file …"), "busy");
  try {
    const job = await (isPlain ? mine.jobOf(mine.state) : refine(mine.first.jobId, refinement(mine.state, fields)));
    tell("");
    if (mine.state !== shown?.state) return;
    Object.assign(document.createElement("a"), { href: job.resultUrl, download: nameOf(job) }).click();
  } catch (error) {
    tell(error.message, "error");
  }
}

export function startDownloads() {
  $("download").addEventListener("click", save);
}
