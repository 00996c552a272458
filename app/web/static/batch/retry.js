// What can be done about the photos of a batch that failed.

import { $ } from "../common.js";
import { number, plural, t } from "../words.js";

// Errors of the file itself or of what was asked for it: the same file would fail again.
const OF_THE_FILE = new Set([
  "IMAGE_TOO_LARGE",
  "INVALID_BACKGROUND",
  "INVALID_IMAGE",
  "INVALID_INPUT",
  "NO_SUBJECT",
  "REGION_EMPTY",
  "REGION_OUTSIDE",
  "UNSUPPORTED_FORMAT",
]);
const MOST_NAMES = 10;

/**
 * Offer to send failed photos again, and say what else can be done about them.
 * @param files the batch's photos as `{ file, name }`, undefined if this page does not have them, as after a reload
 * @returns those of the files that can be sent again
 */
export function offerAgain({ photos }, files) {
  const failed = photos.filter(({ status }) => status === "failed");
  const fit = failed.filter(({ error }) => !OF_THE_FILE.has(error?.code));
  const said = [];
  if (fit.length && !files) said.push(t("To try again, choose these files once more: {names}.", { names: namesOf(fit) }));
  const unfit = failed.length - fit.length;
  if (unfit) {
    said.push(
      plural(
        unfit,
        "{count} file would fail again. Its card says why: choose another file in its place.",
        "{count} files would fail again. Their cards say why: choose other files in their place.",
      ),
    );
  }
  $("batch-advice").textContent = said.join(" ");
  $("batch-advice").hidden = !said.length;
  $("batch-again").hidden = !fit.length || !files;
  $("batch-again").textContent = plural(
    fit.length,
    "Try the failed photo again",
    "Try the {count} failed photos again",
  );
  return files ? fit.map(({ position }) => files[position]) : [];
}

function namesOf(photos) {
  const names = photos.slice(0, MOST_NAMES).map(({ name }) => name);
  const left = photos.length - names.length;
  if (left) names.push(t("{count} more", { count: number(left) }));
  return names.join(", ");
}
