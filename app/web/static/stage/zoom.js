// Zoom and pan: by wheel, two fingers, buttons and keys, from the whole picture to beyond its full pixels.

import { $ } from "../common.js";
import { place } from "./stage.js";
import { t } from "../words.js";

const STEP = 1.5;
const BEYOND_PIXELS = 4; // screen pixels for a pixel of the photo, at most
const LEAST_MOST = 8; // a small photo can be enlarged as often

const whole = { scale: 1, x: 0, y: 0 };
let now = { ...whole };
let zoomed = () => {};

const box = () => $("compare").getBoundingClientRect();

let fullWidth = null; // pixels that the stage would be wide if it showed another picture than the photo; null if not

/** Take note of how many pixels the stage is wide, for a picture of another size than the photo; null for the photo. */
export function setFullWidth(pixels) {
  fullWidth = pixels;
  tellZoom();
}

/** The scale at which one pixel of the picture is one pixel of the screen. */
function fullPixels() {
  const wide = fullWidth ?? parseFloat($("compare").style.getPropertyValue("--wide"));
  return wide / (box().width * devicePixelRatio);
}

function moveTo({ scale, x, y }) {
  const within = (offset) => Math.min(0, Math.max(1 - scale, offset)); // the picture covers the stage
  now = { scale, x: within(x), y: within(y) };
  place(now);
  tellZoom();
  zoomed();
}

function tellZoom() {
  if ($("result").hidden || !box().width) return; // or the view itself is hidden
  const percent = `${Math.round((100 * now.scale) / fullPixels())} %`;
  $("zoom-fit").textContent = percent;
  $("zoom-fit").ariaLabel = `${percent}. ${now.scale > 1 ? t("Show the whole picture") : t("Show full pixels")}`;
  $("zoom-out").disabled = now.scale <= 1;
}

/** Scale by `factor` around a point of the window; the middle of the stage without one. */
export function zoomBy(factor, clientX, clientY) {
  const { left, top, width, height } = box();
  const scale = Math.min(Math.max(LEAST_MOST, BEYOND_PIXELS * fullPixels()), Math.max(1, now.scale * factor));
  const [across, down] = clientX === undefined ? [0.5, 0.5] : [(clientX - left) / width, (clientY - top) / height];
  const ratio = scale / now.scale;
  moveTo({ scale, x: across - (across - now.x) * ratio, y: down - (down - now.y) * ratio });
}

/** Move the picture by screen pixels. */
export function panBy(right, down) {
  const { width, height } = box();
  moveTo({ scale: now.scale, x: now.x + right / width, y: now.y + down / height });
}

export const zoomIn = () => zoomBy(STEP);
export const zoomOut = () => zoomBy(1 / STEP);
export const showWhole = () => moveTo(whole);
export const isZoomed = () => now.scale > 1;

/** Where an event is, as shares of the photo's width and height, whatever the zoom. */
export function onPhoto({ clientX, clientY }) {
  const { left, top, width, height } = $("sheet").getBoundingClientRect();
  return [(clientX - left) / width, (clientY - top) / height];
}

/** A length on the screen as a share of the photo's width. */
export const asShare = (pixels) => pixels / $("sheet").getBoundingClientRect().width;

/** The gesture that moves the picture. */
export function pan({ clientX, clientY }) {
  let last = [clientX, clientY];
  return {
    move(event) {
      panBy(event.clientX - last[0], event.clientY - last[1]);
      last = [event.clientX, event.clientY];
    },
  };
}

function turnWheel(event) {
  // Over a picture that is only compared, the wheel scrolls the page; a pinch on a trackpad comes with ctrlKey.
  const isMeant = event.ctrlKey || isZoomed() || $("compare").dataset.tool !== "compare";
  if (!isMeant || (!isZoomed() && event.deltaY > 0 && !event.ctrlKey)) return;
  event.preventDefault();
  const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
  zoomBy(Math.exp((-event.deltaY * lines) / (event.ctrlKey ? 120 : 400)), event.clientX, event.clientY);
}

/** Call `whenZoomed` after each change. */
export function startZoom(whenZoomed) {
  zoomed = whenZoomed;
  $("compare").addEventListener("wheel", turnWheel, { passive: false });
  $("zoom-in").addEventListener("click", zoomIn);
  $("zoom-out").addEventListener("click", zoomOut);
  $("zoom-fit").addEventListener("click", () => (isZoomed() ? showWhole() : zoomBy(Math.max(STEP, fullPixels()))));
  new ResizeObserver(tellZoom).observe($("compare"));
}
