// Old results: `#job=…` shows one again as it was after its removal, with its photo and the brush where that is possible.

import { $, API, call, say, sayNothing } from "../common.js";
import { leave } from "../batch/batch.js";
import { offerAlone } from "../stage/download.js";
import { isPlaced, strokesOf } from "./places.js";
import { showOld } from "./single.js";
import { t } from "../words.js";

const HASH = /^#job=([0-9a-f-]{36})$/;
const AGAIN_MS = 2000;

let wanted = null; // the id in the address that is being opened

const get = (id) => call(`${API}/jobs/${id}`);

async function open(id) {
  wanted = id;
  const isWanted = () => wanted === id && HASH.exec(location.hash)?.[1] === id;
  say(t("Opening the result …"), "busy");
  try {
    let job = await get(id);
    while (isWanted() && (job.status === "pending" || job.status === "processing")) {
      say(t("This photo is still in work …"), "busy");
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      job = await get(id);
    }
    const first = job.refinedFrom ? await get(job.refinedFrom).catch(() => null) : job;
    if (!isWanted()) return;
    if (!job.resultUrl) {
      say(reason(job), "error");
      return;
    }
    sayNothing();
    await show(job, first, isWanted);
  } catch (error) {
    if (isWanted()) say(error.message, "error");
  } finally {
    if (wanted === id) wanted = null;
  }
}

function reason({ status, error }) {
  if (status === "completed") return t("The result is no longer kept. Send the photo again if you need it.");
  if (status === "cancelled") return t("This photo was cancelled, and cost nothing. Send it again if you need its result.");
  return error?.detail ?? t("This photo has no result.");
}

/**
 * Show a job. A file that was made of it, in another format or layout, leads to the cut-out in its place, with the
 * strokes that it was corrected with in this browser.
 */
async function show(job, first, isWanted) {
  const kept = first && strokesOf(first.jobId);
  let state = [];
  let later;
  if (kept) {
    const latest = kept.jobId === job.jobId ? job : await get(kept.jobId).catch(() => null);
    if (latest?.resultUrl) [job, state, later] = [latest, kept.state, kept.later];
  } else if (first?.resultUrl && first.inPlace && !job.corrected) {
    job = first;
  }
  if (!isWanted()) return;
  const hindrance = hindranceOf(job, first, state);
  const photoUrl = job.inPlace && job.format !== "zip" ? job.photoUrl : null;
  leave();
  if (!(await showOld({ first: first ?? job, job, state, later, photoUrl, canRefine: !hindrance }))) return;
  if (hindrance) offerAlone(job, hindrance, first);
}

/** Return why no strokes can be drawn on a job's result; empty if they can. */
function hindranceOf(job, first, state) {
  if (!first || !job.photoUrl) return t("The photo is no longer kept, so this result cannot be corrected. Send the photo again to do that.");
  if (job.format === "zip") return t("This result is a ZIP with the colours and the mask.");
  if (!job.inPlace) return t("This result has a layout of its own.");
  if (job !== first && !state.length) return t("This result was corrected in another browser. Its strokes are not known here; new ones begin at the first result.");
  return "";
}

function followAddress() {
  const id = HASH.exec(location.hash)?.[1];
  if (id && id !== wanted && !isPlaced(id)) open(id);
}

export function startReopening() {
  addEventListener("hashchange", followAddress);
  followAddress();
}
