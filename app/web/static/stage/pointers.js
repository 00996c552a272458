// Pointers on the stage: one does what the tool does, two zoom and pan. Mouse, touch and pen alike.

import { $ } from "../common.js";
import { drawBox } from "./box.js";
import { draw } from "./brush.js";
import { slide } from "./stage.js";
import { pan, panBy, zoomBy } from "./zoom.js";

const down = new Map(); // the last events of the pointers that are pressed, by their ids
let gesture = null; // what the pressed pointer does
let isSpaceHeld = false;

const tool = () => $("compare").dataset.tool;
const isBrush = () => tool() === "keep" || tool() === "drop";

function gestureOf(event) {
  if (isSpaceHeld || event.button === 1 || tool() === "hand" || tool() === "final") return pan(event);
  if (isBrush()) return draw(event, tool());
  if (tool() === "box") return drawBox(event);
  return $("slider").disabled ? null : slide(event);
}

function press(event) {
  if (event.button > 1) return;
  event.preventDefault(); // no text is selected, and the middle button does not scroll
  $("compare").setPointerCapture(event.pointerId);
  down.set(event.pointerId, event);
  if (down.size === 1) {
    gesture = gestureOf(event);
  } else {
    gesture?.cancel?.(); // the first finger of two meant no stroke
    gesture = null;
  }
  showRing(event);
}

function move(event) {
  showRing(event);
  const before = down.get(event.pointerId);
  if (!before) return;
  if (down.size === 2) pinch(before, event);
  down.set(event.pointerId, event);
  gesture?.move(event);
}

function pinch(before, after) {
  const other = [...down.values()].find(({ pointerId }) => pointerId !== after.pointerId);
  const span = (one) => Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
  const middle = (one) => [(one.clientX + other.clientX) / 2, (one.clientY + other.clientY) / 2];
  const [[fromX, fromY], [toX, toY]] = [middle(before), middle(after)];
  zoomBy(span(after) / span(before), toX, toY);
  panBy(toX - fromX, toY - fromY);
}

function release(event) {
  if (!down.delete(event.pointerId)) return;
  if (event.type === "pointercancel") gesture?.cancel?.();
  else gesture?.end?.();
  gesture = null;
  if (event.pointerType !== "mouse") hideRing();
}

/** Show the size of the brush around the pointer. */
export function showRing(event) {
  const ring = $("ring");
  ring.hidden = !isBrush() || isSpaceHeld || down.size > 1;
  if (ring.hidden) return;
  const { left, top } = $("compare").getBoundingClientRect();
  ring.dataset.kind = tool();
  ring.style.width = ring.style.height = `${$("size").value}px`;
  ring.style.translate = `calc(${event.clientX - left}px - 50%) calc(${event.clientY - top}px - 50%)`;
}

function hideRing() {
  $("ring").hidden = true;
}

/** While Space is held over the stage, the pointer moves the picture. */
function holdSpace(event) {
  if (event.key !== " " || !(isSpaceHeld || $("compare").matches(":hover"))) return;
  event.preventDefault(); // neither scrolls the page nor presses the button that has the focus
  isSpaceHeld = event.type === "keydown";
  $("compare").classList.toggle("panning", isSpaceHeld);
  if (isSpaceHeld) hideRing();
}

export function startPointers() {
  const stage = $("compare");
  stage.addEventListener("pointerdown", press);
  stage.addEventListener("pointermove", move);
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("pointerleave", hideRing);
  document.addEventListener("keydown", holdSpace);
  document.addEventListener("keyup", holdSpace);
}
