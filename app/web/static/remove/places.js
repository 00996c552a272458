// Where one was: the address names the job that is shown, and the browser keeps the strokes that made it, so that a reload
// loses nothing.

import { $ } from "../common.js";
import { recall, remember } from "../remembered.js";
import { nameThing } from "../views.js";

// [first job, shown job, its strokes, later strokes whose result was not there yet] of the photos that were
// corrected last.
const KEPT = "strokes";
const MOST_PHOTOS = 20;
const DIGITS = 4; // of the places of strokes, which are shares of the photo

let placed = null; // the id of the job that is shown

/** Whether this job is shown, so that it need not be opened. */
export const isPlaced = (jobId) => placed === jobId;

export const forgetPlace = () => (placed = null);

/** Write down what is shown: the job, of the first job's photo, that was made with these strokes. */
export function keepPlace(first, job, state) {
  if (!$("batch").hidden) return; // the batch has the address
  placed = job.jobId;
  nameThing(`#job=${job.jobId}`);
  if (!state.length && !strokesOf(first.jobId)) return;
  const others = all().filter(([id]) => id !== first.jobId);
  write(state.length ? [...others, [first.jobId, job.jobId, state]] : others);
}

/** Write down strokes of the first job's photo whose result is not there yet. */
export function keepStrokes(first, state) {
  if (!$("batch").hidden || !state.length) return;
  const { jobId = first.jobId, state: before = [] } = strokesOf(first.jobId) ?? {};
  write([...all().filter(([id]) => id !== first.jobId), [first.jobId, jobId, before, state]]);
}

/** Begin with another photo: a reload must not show the one before. */
export function leavePlace() {
  if ($("batch").hidden) nameThing("#remove");
}

/**
 * @returns {{jobId: string, state: object[], later: object[]|undefined}|null} the job that was shown last of a first job's
 *   photo, its strokes, and later ones whose result is not there yet
 */
export function strokesOf(firstId) {
  const [, jobId, state, later] = all().find(([id]) => id === firstId) ?? [];
  return jobId ? { jobId, state, later } : null;
}

/** The URL of a picture that a browser can show. */
export const shownUrl = ({ format, resultUrl, thumbnailUrl }) => (format === "zip" ? thumbnailUrl : resultUrl);

function all() {
  try {
    return JSON.parse(recall(KEPT)) ?? [];
  } catch {
    return []; // somebody else wrote it
  }
}

function write(entries) {
  const short = (name, value) => (typeof value === "number" ? Number(value.toFixed(DIGITS)) : value);
  remember(KEPT, JSON.stringify(entries.slice(-MOST_PHOTOS), short));
}
