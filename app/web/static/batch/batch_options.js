// The options of a batch beside its tier: a layout preset, and the format of the pictures.

import { $, API, call, element } from "../common.js";

let isAsked = false;

/** The fields of the form that say what is chosen. */
export function chosenFields() {
  const fields = { preset: $("batch-preset").value, format: $("batch-format").value };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
}

async function showPresets() {
  if (isAsked) return;
  isAsked = true;
  try {
    const { presets } = await call(`${API}/presets`);
    $("batch-preset").append(...presets.map(({ name, title }) => element("option", { value: name }, title)));
    $("batch-preset-choice").hidden = !presets.length;
  } catch {
    isAsked = false; // they are asked for again when the options are opened again
  }
}

/** A preset has a format of its own, which holds unless another is chosen. */
function offerFormats() {
  const [own] = $("batch-format").options;
  own.hidden = own.disabled = !$("batch-preset").value;
  $("batch-format").value = $("batch-preset").value ? "" : "png";
}

export function startBatchOptions() {
  $("batch-options").addEventListener("toggle", () => $("batch-options").open && showPresets());
  $("batch-preset").addEventListener("change", offerFormats);
  offerFormats();
}
