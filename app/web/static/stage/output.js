// The file that is wanted: format and quality, layout and background, and the refinement that makes it. All of it is
// composed after the cut-out, so it needs no network.

import { $ } from "../common.js";
import { backdropFields } from "./backdrops.js";
import { keyOf } from "./brush.js";
import { layoutFields } from "./layout.js";
import { refine, refinement } from "./refine.js";

const LOSSY = ["webp", "avif", "jpg"];
const USUAL_QUALITY = "90";

let made = new Map(); // jobs by what they were asked for
let asked = () => {};

/** Forget the files of the photo before. */
export function forgetFiles() {
  made = new Map();
}

/** The fields of a refinement that gives the file. With `isShown`, one that a browser can show. */
export function wish({ isShown = false } = {}) {
  const format = $("format").value;
  const fields = { format: isShown && format === "zip" ? "png" : format, ...layoutFields() };
  if (LOSSY.includes(format) && (fields.preset || $("quality").value !== USUAL_QUALITY)) {
    fields.quality = $("quality").value || USUAL_QUALITY;
  }
  // A mask has no background, and in a ZIP the colours have none.
  if (format !== "mask" && format !== "zip") Object.assign(fields, backdropFields());
  return fields;
}

export const isMade = (shown, fields) => made.has(keyOfFile(shown, fields));

function keyOfFile({ first, state }, fields) {
  const texts = Object.entries(fields).map(([name, value]) =>
    value instanceof File ? [name, value.name, value.size, value.lastModified] : [name, value],
  );
  return JSON.stringify([first.jobId, keyOf(state), texts]);
}

/**
 * Make a file, or return the one that was made before.
 * @param {{first: object, state: object[]}} shown the first job, and the strokes that hold
 */
export function make(shown, fields) {
  const { first, state } = shown;
  const key = keyOfFile(shown, fields);
  if (!made.has(key)) {
    const making = refinement(state, fields).then((form) => refine(first.jobId, form));
    made.set(key, making);
    making.catch(() => made.delete(key)); // it may be asked for again
  }
  return made.get(key);
}

function showQuality() {
  $("quality").parentElement.hidden = !LOSSY.includes($("format").value);
}

/** Choose a format and a quality that a layout asks for. */
export function chooseFormat(format, quality) {
  if (![...$("format").options].some(({ value }) => value === format)) return;
  $("format").value = format;
  $("quality").value = quality ?? USUAL_QUALITY;
  showQuality();
}

/** Call `whenAsked` when another file is wanted. */
export function startOutput(whenAsked) {
  asked = whenAsked;
  showQuality();
  $("format").addEventListener("change", () => {
    showQuality();
    asked();
  });
  $("quality").addEventListener("change", () => asked());
}
