// The brush: strokes over the photo that say what stays and what goes, their undo, and the pictures of them that the
// service takes. A later stroke replaces an earlier one where they overlap, so that two never contradict each other.

import { $ } from "../common.js";
import { trace } from "./lines.js";
import { painted } from "./painting.js";
import { asShare, onPhoto } from "./zoom.js";

const LONGER_SIDE = 1024; // of the canvases, in pixels
const COLOURS = { keep: "#0a8f4a", drop: "#d0206a" };

/**
 * A stroke: `kind` is keep or drop, `points` are shares of the photo's width and height, `width` is one of its width.
 * A state is a list of strokes, with at most one box among them, of the kind box, whose edges are such shares (box.js).
 * The states make undo and redo simple, and a reset can be undone like a stroke.
 */
let states = [[]];
let at = 0;
let drawn = null; // the stroke that is being drawn
let lastId = 0;
let changed = () => {};
let shown = () => {};
const patterns = {};

export const strokes = () => states[at];
export const canUndo = () => at > 0;
export const canRedo = () => at < states.length - 1;

/** A text that is the same for the same strokes. */
export const keyOf = (state) => state.map(({ id }) => id).join();

export const boxOf = (state) => state.find(({ kind }) => kind === "box");

const drawnOf = (state) => state.filter(({ kind }) => kind !== "box");

/** Let a box take the place of the one before; null takes that away. */
export function putBox(edges) {
  const others = drawnOf(strokes());
  if (edges) add([...others, { id: ++lastId, kind: "box", ...edges }]);
  else if (boxOf(strokes())) add(others);
}

function add(state) {
  states = [...states.slice(0, at + 1), state];
  at += 1;
  settle();
}

function settle() {
  paint();
  shown();
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
  shown();
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
  shown();
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
    for (const stroke of drawnOf(drawn ? [...strokes(), drawn] : strokes())) {
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
 * @returns {Promise<Object<string, Blob>>} PNGs; without `keepMask` or `dropMask` if nothing of that kind is left
 */
export async function masksOf(state) {
  const { width, height } = $("strokes");
  const lines = drawnOf(state);
  return lines.length ? painted("masks", { lines, width, height }) : {};
}

/** Call `whenChanged` after each stroke, undo, redo and reset. */
export function startBrush(whenChanged) {
  changed = whenChanged;
}

/** Call `whenShown` before that, and when a photo begins anew. */
export function onStrokes(whenShown) {
  shown = whenShown;
}
