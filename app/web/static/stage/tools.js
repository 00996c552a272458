// The buttons and keys below the picture: which tool the pointer has, undo and redo, zoom.

import { $ } from "../common.js";
import { canRedo, canUndo, redo, reset, strokes, undo } from "./brush.js";
import { showKeys } from "./keys.js";
import { useTool } from "./stage.js";
import { isZoomed, panBy, showWhole, zoomIn, zoomOut } from "./zoom.js";
import { isShown } from "../views.js";
import { t } from "../words.js";

const ADVICE = {
  keep: t("Draw over what is missing, or over the part that you mean."),
  drop: t("Draw over what should go."),
  box: t("Drag a rectangle around what stays. A tap takes it away."),
};
const PAN = { arrowleft: [1, 0], arrowright: [-1, 0], arrowup: [0, 1], arrowdown: [0, -1] };
const PAN_PIXELS = 60;

const tools = () => $("tools").querySelectorAll("[data-tool]");

export function choose(tool) {
  for (const button of tools()) button.ariaPressed = String(button.dataset.tool === tool);
  $("ring").hidden = true;
  useTool(tool);
  if (!strokes().length) tell(ADVICE[tool] ?? "");
}

/** Say something about the strokes beside the tools; `kind` is "", "busy" or "error". */
export function tell(text, kind = "") {
  $("brush-told").textContent = text;
  $("brush-told").className = kind;
  $("compare").ariaBusy = String(kind === "busy");
}

/** Enable what can be used now; `isReady` is false until there is a result to refine. */
export function refreshTools(isReady) {
  for (const button of $("tools").querySelectorAll("button, input")) button.disabled = !isReady;
  const held = document.activeElement;
  $("undo").disabled ||= !canUndo();
  $("redo").disabled ||= !canRedo();
  $("reset").disabled ||= !strokes().length;
  // A disabled button would lose the focus, and the keyboard its place.
  if (held?.disabled && $("tools").contains(held)) $("tools").focus();
}

function resize(step) {
  if (!$("size").disabled) $("size").valueAsNumber += step;
}

const press = (id) => () => $(id).disabled || $(id).click();

/** Take a tool that draws, with the focus on the stage, where the keyboard draws too. */
function take(tool) {
  return () => {
    press(`tool-${tool}`)();
    if ($("compare").dataset.tool === tool) $("compare").focus({ preventScroll: true });
  };
}

const KEYS = {
  c: press("tool-compare"),
  k: take("keep"),
  d: take("drop"),
  b: take("box"),
  h: press("tool-hand"),
  f: press("tool-final"),
  escape: press("tool-compare"),
  z: press("undo"),
  "shift+z": press("redo"),
  "[": () => resize(-4),
  "]": () => resize(4),
  "+": zoomIn,
  "=": zoomIn,
  "-": zoomOut,
  0: showWhole,
  "?": showKeys,
};

function pressKey(event) {
  if (!isShown("remove") || $("result").hidden || event.altKey) return;
  if (event.target.closest("dialog, select, textarea, input:not([type=range], [type=radio], [type=checkbox])")) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z") return;
  } else if (key in PAN) {
    if (!isZoomed() || event.target.matches("input")) return; // the arrow keys move a slider
    panBy(...PAN[key].map((steps) => steps * PAN_PIXELS));
    event.preventDefault();
    return;
  }
  const act = KEYS[event.shiftKey && key === "z" ? "shift+z" : key];
  if (!act) return;
  event.preventDefault();
  act();
}

/** Call `whenDrawing` when a brush is taken. */
export function startTools(whenDrawing) {
  for (const button of tools()) {
    button.addEventListener("click", () => {
      const isOn = button.ariaPressed === "true";
      choose(isOn ? "compare" : button.dataset.tool);
      if (!isOn && button.dataset.tool in ADVICE) whenDrawing();
    });
  }
  $("undo").addEventListener("click", undo);
  $("redo").addEventListener("click", redo);
  $("reset").addEventListener("click", reset);
  document.addEventListener("keydown", pressKey);
}
