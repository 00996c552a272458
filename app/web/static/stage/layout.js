// The layout of the result: as in the photo, cut to the subject, as a marketplace asks for, or by own values.

import { $, API, call, element } from "../common.js";
import { plural, t } from "../words.js";

let presets = new Map();

const value = (id) => $(id).value.trim();

/** The fields of a refinement that lay the result out as it is chosen. */
export function layoutFields() {
  const chosen = $("layout").value;
  if (chosen === "trim") return { trim: "true" };
  if (chosen === "own") return ownFields();
  return chosen.startsWith("preset:") ? { preset: presetOf(chosen).name } : {};
}

/** The preset that is chosen; undefined if none is. */
export const chosenPreset = () => presetOf($("layout").value);

const presetOf = (chosen) => presets.get(chosen.replace("preset:", ""));

function ownFields() {
  const [width, height, margin, scale] = ["own-width", "own-height", "own-margin", "own-scale"].map(value);
  const canvas = width || height ? { canvas: `${width || height}x${height || width}` } : { trim: "true" };
  return { ...canvas, margin: `${margin || 0}%`, ...(scale && { scale: `${scale}%` }), ...ownShadow() };
}

const ownShadow = () => ($("own-shadow").checked ? { shadow: "soft" } : {});

function titleOf({ title, width, height, background }) {
  const size = width ? t("{title} · {width} × {height}", { title, width, height }) : title;
  return background ? `${size}, ${background === "white" ? t("white") : background}` : size;
}

async function showPresets() {
  const found = (await call(`${API}/presets`)).presets;
  presets = new Map(found.map((preset) => [preset.name, preset]));
  const group = element("optgroup", { label: t("Presets") });
  for (const preset of found) group.append(element("option", { value: `preset:${preset.name}` }, titleOf(preset)));
  $("layout").append(group);
}

/** Say what a preset is asked for, whether that was verified, and where it is written. */
function tellSource() {
  const preset = chosenPreset();
  $("layout-told").hidden = !preset?.asks;
  $("layout-told").replaceChildren();
  if (!preset?.asks) return;
  $("layout-told").append(preset.asks);
  if (preset.source) $("layout-told").append(" ", element("a", { href: preset.source, rel: "noreferrer", target: "_blank" }, t("Source")));
}

const freeHours = () => Number($("finish").dataset.freeHours);

/** Whether corrections and files of a photo still cost nothing; `job` is its first one. */
export const isFree = ({ finishedAt }) => !finishedAt || Date.now() - Date.parse(finishedAt) < freeHours() * 3_600_000;

/** Say until when all this is free, and what it costs later; `job` is the first one. */
export function tellPrice(job) {
  const hours = freeHours();
  $("price").textContent = isFree(job)
    ? plural(hours, "Corrections and files of this photo are free for {count} hour after its removal; later each costs what a removal costs.", "Corrections and files of this photo are free for {count} hours after its removal; later each costs what a removal costs.")
    : t("This photo was removed some time ago: each correction and each new file of it now costs what a removal in the tier {tier} costs.", job);
  $("price").classList.toggle("costs", !isFree(job));
}

/** Call `whenChosen` with what is chosen after each choice. */
export function startLayout(whenChosen) {
  $("layout").addEventListener("change", () => {
    $("own").hidden = $("layout").value !== "own";
    tellSource();
    whenChosen();
  });
  $("own").addEventListener("change", whenChosen);
  showPresets().catch(() => {}); // the other layouts are there without them
}
