// The worker that makes pictures for the service: decoding a large photo or encoding one would freeze the page.

import { trace } from "./lines.js";

/**
 * Draw strokes as the pictures that the service takes: white where one is drawn, black elsewhere.
 * @returns {Promise<Object<string, Blob>>} PNGs; without `keepMask` or `dropMask` if nothing of that kind is left
 */
async function masks({ lines, width, height }) {
  const found = {};
  for (const kind of new Set(lines.map((line) => line.kind))) {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillRect(0, 0, width, height);
    for (const line of lines) {
      context.strokeStyle = line.kind === kind ? "#fff" : "#000";
      trace(context, line);
    }
    const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
    if (!pixels.includes(0xffffffff)) continue; // outside of the photo, or under strokes of the other kind
    found[`${kind}Mask`] = await canvas.convertToBlob({ type: "image/png" });
  }
  return found;
}

/** Return a JPEG of a photo at another size. What was transparent becomes white. */
async function smallCopy({ photo, width, height }) {
  const image = await createImageBitmap(photo, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}

const WORK = { masks, smallCopy };

onmessage = async ({ data: { id, name, values } }) => {
  try {
    postMessage({ id, made: await WORK[name](values) });
  } catch (error) {
    postMessage({ id, failed: String(error) });
  }
};
