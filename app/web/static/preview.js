// The instant preview: a small copy of the photo, cut out at once by the free tier `preview`, until the real one comes.

import { API, call, encoded } from "./common.js";

const PIXELS = 250_000;

/** Return a JPEG of an image with at most 0.25 megapixels. What was transparent becomes white. */
function smallCopy(image) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const scale = Math.min(1, Math.sqrt(PIXELS / (width * height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(width * scale));
  canvas.height = Math.max(1, Math.floor(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return encoded(canvas, "image/jpeg", 0.9);
}

/** Return the URL of a preview; null if there is none for whatever reason, since the real picture follows anyway. */
export async function previewOf(image) {
  try {
    const form = new FormData();
    form.set("tier", "preview");
    form.set("image", smallCopy(image), "preview.jpg");
    return (await call(`${API}/remove`, { method: "POST", body: form })).resultUrl;
  } catch {
    return null;
  }
}
