// The instant look: a small copy of the photo, made in this browser, goes to the tier `preview`, whose cut-out is shown
// until the real one comes.

import { API, call } from "../common.js";
import { painted } from "../stage/painting.js";

const PIXELS = 250_000;

/** Return a JPEG of a photo with at most 0.25 megapixels; `image` is the photo as it is shown. */
function smallCopy(photo, { naturalWidth: width, naturalHeight: height }) {
  const scale = Math.min(1, Math.sqrt(PIXELS / (width * height)));
  const size = { width: Math.max(1, Math.floor(width * scale)), height: Math.max(1, Math.floor(height * scale)) };
  return painted("smallCopy", { photo, ...size });
}

/** Return the URL of a preview; null if there is none for whatever reason, since the real picture follows anyway. */
export async function previewOf(photo, image) {
  try {
    const form = new FormData();
    form.set("tier", "preview");
    form.set("image", await smallCopy(photo, image), "preview.jpg");
    return (await call(`${API}/remove`, { method: "POST", body: form })).resultUrl;
  } catch {
    return null;
  }
}
