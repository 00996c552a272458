// The stage: the photo and its cut-out at one place and one size, from the drop to the last refinement, and the slider
// between them.

import { $ } from "../common.js";
import { t } from "../words.js";

let position = { scale: 1, x: 0, y: 0 }; // see zoom.js

/** Return whether the browser can show an image; some formats that the service reads are none of the browser's. */
export const decodes = (image) => image.decode().then(() => true, () => false);

/**
 * Load the photo behind the stage, which stays as it is.
 * @returns {Promise<HTMLImageElement|null>} null if the browser cannot decode the photo
 */
export const loaded = (photo) => loadedFrom(URL.createObjectURL(photo));

/** Do the same with a photo at a URL. */
export async function loadedFrom(url) {
  const image = pictureOf("before", t("The photo"), url);
  if (await decodes(image)) return image;
  URL.revokeObjectURL(url);
  return null;
}

function pictureOf(id, alt, url) {
  const image = new Image();
  Object.assign(image, { id, alt, src: url, draggable: false });
  return image;
}

/** Show the stage for a photo of `width` × `height` pixels; `image` is the photo, or null if it cannot be shown. */
export function open(image, width, height) {
  close();
  $("compare").style.setProperty("--ratio", width / height);
  $("compare").style.setProperty("--wide", `${width}px`);
  if (image) $("before").replaceWith(image);
  $("compare").classList.toggle("photo-alone", image !== null);
  $("compare").classList.toggle("no-photo", image === null);
  $("slider").disabled = true;
  $("result").hidden = false;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("compare").scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}

export function close() {
  $("result").hidden = true;
  if ($("before").src) URL.revokeObjectURL($("before").src);
  $("before").removeAttribute("src");
  $("after").removeAttribute("src");
  note("");
}

/**
 * Show a cut-out in the place of the one before it, once it is decoded, so that nothing flickers.
 * @param isWanted asked after decoding: false if something newer is to be shown
 * @returns {Promise<boolean>} whether it is shown
 */
export async function showCutout(url, isWanted) {
  const image = pictureOf("after", t("The cut-out"), url);
  await decodes(image);
  if (!isWanted()) return false;
  $("after").replaceWith(image);
  $("compare").classList.remove("photo-alone");
  $("slider").disabled = $("compare").classList.contains("no-photo") || $("compare").dataset.tool !== "compare";
  return true;
}

/** Say on the picture's corner what is in work; an empty text takes the note away. */
export function note(text) {
  $("note").hidden = !text;
  if ($("note-text").textContent !== text) $("note-text").textContent = text; // read aloud only when it changes
  if (!text) $("note-seconds").textContent = "";
}

/** Choose what a pointer does on the stage: compare, keep, drop, box, hand or final. The stage gets an event `tool`. */
export function useTool(tool) {
  $("compare").dataset.tool = tool;
  $("slider").disabled = tool !== "compare" || $("compare").matches(".no-photo, .photo-alone");
  $("compare").dispatchEvent(new Event("tool"));
}

/** Place the pictures: `x` and `y` are the offset as a share of the stage's sides, after scaling. */
export function place(wanted) {
  position = wanted;
  const { scale, x, y } = wanted;
  $("sheet").style.transform = `translate(${100 * x}%, ${100 * y}%) scale(${scale})`;
  $("compare").style.setProperty("--scale", scale);
  $("compare").classList.toggle("zoomed", scale > 1);
  divide();
}

/** The slider stays where it is on the screen while the picture moves below it. */
function divide() {
  const at = $("slider").value / 100;
  const cut = Math.min(1, Math.max(0, (at - position.x) / position.scale));
  $("compare").style.setProperty("--at", `${100 * at}%`);
  $("compare").style.setProperty("--cut", `${100 * cut}%`);
}

/** The gesture that moves the slider. */
export function slide(event) {
  const move = ({ clientX }) => {
    const { left, width } = $("compare").getBoundingClientRect();
    $("slider").value = (100 * (clientX - left)) / width;
    divide();
  };
  move(event);
  return { move };
}

export function startStage() {
  $("slider").addEventListener("input", divide);
  divide();
}
