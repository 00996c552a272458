// Drawing by keyboard: while the stage has the focus, arrow keys move a cursor, and Space or Enter puts the brush, or a
// corner of the box, down and lifts it again.

import { $ } from "../common.js";
import { drawBox } from "./box.js";
import { draw } from "./brush.js";
import { showRing } from "./pointers.js";
import { tell } from "./tools.js";
import { t } from "../words.js";
import { isZoomed, onPhoto, panBy } from "./zoom.js";

const STEP = 8; // screen pixels
const LARGE_STEP = 40;
const TELL_AFTER_MS = 600; // where the cursor is, once it rests
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const DRAWS = ["keep", "drop", "box"];

let cursor = null; // in pixels of the stage; null while a pointer draws
let gesture = null; // what the keys draw now
let timer = 0;

const stage = () => $("compare");
const tool = () => stage().dataset.tool;

/** The cursor as an event of a pointer. */
function here() {
  const { left, top } = stage().getBoundingClientRect();
  return { clientX: left + cursor[0], clientY: top + cursor[1] };
}

function advise() {
  const isBox = tool() === "box";
  tell(
    isBox
      ? t("Arrow keys move the cursor, with Shift further. Space puts a corner of the box down, then the other one. ? lists all keys.")
      : t("Arrow keys move the brush, with Shift further. Space puts it down and lifts it, [ and ] change its size. ? lists all keys."),
  );
}

function showCursor() {
  cursor ??= [stage().clientWidth / 2, stage().clientHeight / 2];
  const isBox = tool() === "box";
  $("cross").hidden = !isBox;
  if (isBox) $("cross").style.translate = `calc(${cursor[0]}px - 50%) calc(${cursor[1]}px - 50%)`;
  else showRing(here());
  $("ring").classList.toggle("down", gesture !== null);
}

function hideCursor() {
  cursor = null;
  $("cross").hidden = true;
  $("ring").classList.remove("down");
}

function moveBy(across, down) {
  showCursor();
  const [width, height] = [stage().clientWidth, stage().clientHeight];
  const wanted = [cursor[0] + across, cursor[1] + down];
  cursor = [Math.min(width, Math.max(0, wanted[0])), Math.min(height, Math.max(0, wanted[1]))];
  // At the edge of a part that is zoomed in on, the picture moves instead.
  if (isZoomed()) panBy(cursor[0] - wanted[0], cursor[1] - wanted[1]);
  gesture?.move(here());
  showCursor();
  clearTimeout(timer);
  timer = setTimeout(tellPlace, TELL_AFTER_MS);
}

function tellPlace() {
  if (!cursor) return;
  const [across, down] = onPhoto(here()).map((share) => Math.round(100 * share));
  tell(
    gesture
      ? t("Drawing, at {across} % across and {down} % down.", { across, down })
      : t("At {across} % across and {down} % down.", { across, down }),
  );
}

function putDown() {
  showCursor();
  gesture = tool() === "box" ? drawBox(here()) : draw(here(), tool());
  tell(
    tool() === "box"
      ? t("The first corner is here. Move on, and press Space for the other one; Escape gives it up.")
      : t("The brush is down. Arrow keys draw, Space lifts it; Escape gives the stroke up."),
  );
  showCursor();
}

function lift(end) {
  clearTimeout(timer);
  const ended = gesture;
  gesture = null;
  $("ring").classList.remove("down");
  if (end === "cancel") tell(t("Given up."));
  ended?.[end]();
}

function pressKey(event) {
  if (event.target !== stage() || event.ctrlKey || event.metaKey || event.altKey || !DRAWS.includes(tool())) return;
  if (event.key in ARROWS) {
    const step = event.shiftKey ? LARGE_STEP : STEP;
    moveBy(...ARROWS[event.key].map((direction) => direction * step));
  } else if ((event.key === " " || event.key === "Enter") && cursor) {
    if (event.repeat) {
      // A key that is held is one press.
    } else if (gesture) {
      lift("end");
    } else {
      putDown();
    }
  } else if (event.key === "Escape" && gesture) {
    lift("cancel");
  } else {
    if ("[]".includes(event.key) && cursor) setTimeout(showCursor); // at the brush's new size
    return;
  }
  event.preventDefault();
  event.stopPropagation(); // else the keys of the page would act too
}

/** The stage takes the focus while something can be drawn on it; else the slider in it does. */
function followTool() {
  const draws = DRAWS.includes(tool());
  const last = cursor;
  if (gesture) lift("cancel");
  hideCursor();
  stage().tabIndex = draws ? 0 : -1;
  if (draws) stage().setAttribute("role", "application"); // so that a screen reader passes the arrow keys on
  else stage().removeAttribute("role");
  if (draws) stage().ariaLabel = t("Picture to draw on");
  else stage().removeAttribute("aria-label");
  if (draws && last && document.activeElement === stage()) {
    cursor = last;
    showCursor();
  }
}

export function startKeyboardBrush() {
  stage().addEventListener("tool", followTool);
  stage().addEventListener("keydown", pressKey);
  stage().addEventListener("focus", () => {
    if (!DRAWS.includes(tool()) || !stage().matches(":focus-visible") || stage().matches(":hover")) return;
    showCursor();
    advise();
  });
  stage().addEventListener("blur", () => {
    if (gesture) lift("end");
    hideCursor();
    $("ring").hidden = true;
  });
  stage().addEventListener("pointermove", () => gesture || hideCursor());
  stage().addEventListener("pointerdown", () => {
    if (gesture) lift("cancel");
    hideCursor();
  }, { capture: true });
}
