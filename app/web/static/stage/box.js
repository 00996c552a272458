// The box: a rectangle of the photo outside of which all is background. It is a state of the brush, like a stroke.

import { $ } from "../common.js";
import { boxOf, onStrokes, putBox, strokes } from "./brush.js";
import { onPhoto } from "./zoom.js";

const LEAST = 0.01; // of the photo's sides; less is a tap

let dragged = null; // the edges of the box that is being drawn

const within = (share) => Math.min(1, Math.max(0, share));

function between([x, y], [otherX, otherY]) {
  const across = [within(x), within(otherX)];
  const down = [within(y), within(otherY)];
  return { left: Math.min(...across), right: Math.max(...across), top: Math.min(...down), bottom: Math.max(...down) };
}

/** The gesture that draws a box from corner to corner; a tap takes the box away. */
export function drawBox(event) {
  const first = onPhoto(event);
  return {
    move(event) {
      dragged = between(first, onPhoto(event));
      show();
    },
    end() {
      const edges = dragged;
      dragged = null;
      const isTap = !edges || edges.right - edges.left < LEAST || edges.bottom - edges.top < LEAST;
      putBox(isTap ? null : edges);
      show();
    },
    cancel() {
      dragged = null;
      show();
    },
  };
}

/** The box of a state as the service takes it; empty if there is none. */
export function withinOf(state) {
  const box = boxOf(state);
  return box ? [box.left, box.top, box.right, box.bottom].map((share) => `${(100 * share).toFixed(3)}%`).join(" ") : "";
}

function show() {
  const edges = dragged ?? boxOf(strokes());
  $("box").hidden = !edges;
  if (!edges) return;
  const { style } = $("box");
  style.left = `${100 * edges.left}%`;
  style.top = `${100 * edges.top}%`;
  style.width = `${100 * (edges.right - edges.left)}%`;
  style.height = `${100 * (edges.bottom - edges.top)}%`;
}

export function startBox() {
  onStrokes(show);
}
