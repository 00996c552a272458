// The tool Final shows the picture as it will be downloaded, with its layout, on the stage, whose size stays. The other
// tools need the photo's own frame, and show that.

import { $ } from "../common.js";
import { chosenBackdrop } from "./backdrops.js";
import { chosenPreset, isFree, startLayout, tellPrice } from "./layout.js";
import { chooseFormat, forgetFiles, isMade, make, startOutput, wish } from "./output.js";
import { decodes } from "./stage.js";
import { choose, tell } from "./tools.js";
import { t } from "../words.js";
import { setFullWidth } from "./zoom.js";

const PAUSE_MS = 300; // after a change of the wish, since another may follow

let shown = null; // see download.js
let newest = 0;
let timer = 0;

const isChosen = () => $("compare").dataset.tool === "final";

/** Take note of what is shown, of which a file can be made; null if nothing is. */
export function offerFinal(what) {
  if (what?.first !== shown?.first) {
    forgetFiles();
    $("compare").classList.remove("has-final");
    if (what) tellPrice(what.first);
  }
  shown = what;
  $("finish").hidden = !what;
  refresh();
}

function refresh(pause = 0) {
  clearTimeout(timer);
  newest++;
  if (isChosen() && shown) timer = setTimeout(show, pause, newest);
}

async function show(mine) {
  const isWanted = () => mine === newest && isChosen();
  const fields = wish({ isShown: true });
  if (!isFree(shown.first) && !isMade(shown, fields)) {
    $("compare").classList.remove("has-final");
    tell(t("This file would cost what a removal costs, so it is not made to be looked at. Download makes it."));
    return;
  }
  tell(t("Making the final picture …"), "busy");
  try {
    const job = await make(shown, fields);
    const image = new Image();
    Object.assign(image, { id: "final", alt: t("The final picture"), src: job.resultUrl, draggable: false });
    await decodes(image);
    if (!isWanted()) return;
    place(image, job);
    tell(t("This is the file: {width} × {height}, {format}.", { ...job, format: formatName() }));
  } catch (error) {
    if (isWanted()) tell(error.message, "error");
  }
}

const formatName = () => $("format").selectedOptions[0].textContent;

/** Show a picture as large as it fits on the stage. */
function place(image, { width, height }) {
  const { clientWidth, clientHeight } = $("compare");
  const scale = Math.min(clientWidth / width, clientHeight / height);
  image.style.setProperty("--wide", `${(100 * scale * width) / clientWidth}%`);
  image.style.setProperty("--high", `${(100 * scale * height) / clientHeight}%`);
  $("final").replaceWith(image);
  $("compare").classList.add("has-final");
  setFullWidth(clientWidth / scale);
}

function followTool() {
  if (!isChosen()) setFullWidth(null);
  refresh();
}

export function startFinal() {
  const asked = () => refresh(PAUSE_MS);
  startOutput(asked);
  startLayout(() => {
    const preset = chosenPreset();
    if (preset) chooseFormat(preset.options.format ?? "png", preset.options.quality);
    if (isChosen()) asked();
    else if (shown) choose("final");
  });
  $("with-colour").addEventListener("change", asked);
  $("backdrops").addEventListener("backdrop", () => {
    // A colour may be there only to look at the edges; a picture is not, nor is what is chosen for the file.
    const kind = chosenBackdrop();
    if (kind === "none") $("with-colour").checked = false;
    else if (kind !== "colour" || isChosen()) $("with-colour").checked = true;
    asked();
  });
  $("compare").addEventListener("tool", followTool);
}
