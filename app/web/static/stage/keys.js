// The dialog with all keys of the stage.

import { $, element } from "../common.js";
import { t } from "../words.js";

const KEYS = [
  [["C"], t("Compare before and after")],
  [["K"], t("Keep: draw over what stays")],
  [["D"], t("Drop: draw over what goes")],
  [["B"], t("Box: only what is in it stays")],
  [["F"], t("Final: the picture as it will be downloaded")],
  [["H"], t("Move the picture; also with Space held")],
  [["←", "↑", "→", "↓"], t("Move the brush, with Shift further; or the picture, if it is enlarged")],
  [[t("Space"), "Enter"], t("Put the brush or a corner of the box down, and lift it")],
  [["Esc"], t("Give the stroke up; else back to Compare")],
  [["[", "]"], t("Smaller or larger brush")],
  [["Z", "Shift+Z"], t("Undo, redo")],
  [["+", "-", "0"], t("Zoom in, zoom out, the whole picture")],
];

export function showKeys() {
  if (!$("keys").open) $("keys").showModal();
}

export function startKeys() {
  for (const [keys, what] of KEYS) {
    const caps = keys.flatMap((key) => [element("kbd", {}, key), " "]);
    $("keys-list").append(element("div", {}, element("dt", {}, ...caps), element("dd", {}, what)));
  }
  $("help").addEventListener("click", showKeys);
  $("keys-close").addEventListener("click", () => $("keys").close());
}
