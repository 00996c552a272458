// The brush: strokes over the photo that say what stays and what goes, their undo, and the pictures of them that the
// service takes. A later stroke replaces an earlier one where they overlap, so that two never contradict each other.

import { $, encoded } from "./common.js";
import { asShare, onPhoto } from "./zoom.js";

const LONGER_SIDE = 1024; // of the canvases, in pixels
const COLOURS = { keep: "#0a8f4a", drop: "#d0206a" };

/**
 * A stroke: `kind` is keep or drop, `points` are shares of the photo's width and height, `width` is one of its width.
 * A state is a list of strokes; the states make undo and redo simple, and a reset can be undone like a stroke.
 */
let states = [[]];
let at = 0;
let drawn = null; // the stroke that is being drawn
let lastId = 0;
let changed = () => {};
const patterns = {};

export const strokes = () => states[at];
export const canUndo = () => at > 0;
export const canRedo = () => at < states.length - 1;

/** A text that is the same for the same strokes. */
export const keyOf = (state) => state.map(({ id }) => id).join();

function add(state) {
  states = [...states.slice(0, at + 1), state];
  at += 1;
  settle();
}

function settle() {
  paint();
  changed();
}

export function undo() {
  if (!canUndo()) return;
  at -= 1;
  settle();
}

export function redo() {
  if (!canRedo()) return;
  at += 1;
  settle();
}

export function reset() {
  if (strokes().length) add([]);
}

/** Begin anew, for a photo of these proportions. */
export function forget(width, height) {
  states = [[]];
  at = 0;
  drawn = null;
  const scale = LONGER_SIDE / Math.max(width, height);
  $("strokes").width = Math.max(1, Math.round(width * scale));
  $("strokes").height = Math.max(1, Math.round(height * scale));
}

/** Go on with strokes that were drawn before; undo takes them away together. */
export function resume(state) {
  states = [[], state];
  at = 1;
  lastId = Math.max(lastId, ...state.map(({ id }) => id));
  paint();
}

/** The gesture that draws a stroke. */
export function draw(event, kind) {
  drawn = { id: ++lastId, kind, width: asShare($("size").valueAsNumber), points: [onPhoto(event)] };
  paint();
  return {
    move(event) {
      const passed = event.getCoalescedEvents?.() ?? [];
      for (const one of passed.length ? passed : [event]) drawn?.points.push(onPhoto(one));
      paint();
    },
    end() {
      const stroke = drawn;
      drawn = null;
      if (stroke) add([...strokes(), stroke]);
    },
    cancel() {
      drawn = null;
      paint();
    },
  };
}

function trace(context, { points, width }) {
  const { width: across, height: down } = context.canvas;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = Math.max(1, width * across);
  context.beginPath();
  context.moveTo(points[0][0] * across, points[0][1] * down);
  // A tap has one point: a line of no length would draw nothing.
  if (points.length === 1) context.lineTo(points[0][0] * across + 0.01, points[0][1] * down);
  for (const [x, y] of points.slice(1)) context.lineTo(x * across, y * down);
  context.stroke();
}

/** Strokes to keep are dotted with plus signs, those to drop hatched: the colour alone does not tell them apart. */
function patternOf(context, kind) {
  patterns[kind] ??= context.createPattern(tile(kind), "repeat");
  return patterns[kind];
}

function tile(kind) {
  const side = 20;
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const context = canvas.getContext("2d");
  context.fillStyle = COLOURS[kind];
  context.globalAlpha = 0.6;
  context.fillRect(0, 0, side, side);
  context.globalAlpha = 1;
  context.strokeStyle = "#fff";
  context.lineWidth = 2.5;
  context.beginPath();
  if (kind === "keep") {
    for (const [a, b] of [[[10, 5], [10, 15]], [[5, 10], [15, 10]]]) {
      context.moveTo(...a);
      context.lineTo(...b);
    }
  } else {
    for (const shift of [-side, 0, side]) {
      context.moveTo(shift, side);
      context.lineTo(shift + side, 0);
    }
  }
  context.stroke();
  return canvas;
}

let asked = 0; // the number of the frame that will paint

function paint() {
  asked ||= requestAnimationFrame(() => {
    asked = 0;
    const context = $("strokes").getContext("2d");
    context.clearRect(0, 0, $("strokes").width, $("strokes").height);
    for (const stroke of drawn ? [...strokes(), drawn] : strokes()) {
      context.globalCompositeOperation = "destination-out";
      context.strokeStyle = "#000";
      trace(context, stroke);
      context.globalCompositeOperation = "source-over";
      context.strokeStyle = patternOf(context, stroke.kind);
      trace(context, stroke);
    }
  });
}

/**
 * Draw the strokes of a state as the pictures that the service takes: white where one is drawn, black elsewhere.
 * @returns {Object<string, Blob>} PNGs; without `keepMask` or `dropMask` if nothing of that kind is left
 */
export function masksOf(state) {
  const found = {};
  for (const kind of new Set(state.map((stroke) => stroke.kind))) {
    const { width, height } = $("strokes");
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillRect(0, 0, width, height);
    for (const stroke of state) {
      context.strokeStyle = stroke.kind === kind ? "#fff" : "#000";
      trace(context, stroke);
    }
    const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
    if (!pixels.includes(0xffffffff)) continue; // outside of the photo, or under strokes of the other kind
    found[`${kind}Mask`] = encoded(canvas, "image/png");
  }
  return found;
}

/** Call `whenChanged` after each stroke, undo, redo and reset. */
export function startBrush(whenChanged) {
  changed = whenChanged;
}
