// Small copies of photos that are on this machine. The browser decodes and resizes them beside the page; few at a time,
// and only those that are still wanted when their turn comes.

const SIDE = 144; // pixels: twice that of the card, for fine screens
const AT_ONCE = 2;

const waiting = [];
let inWork = 0;

/**
 * Make a small copy of a photo.
 * @param isWanted asked before the work begins
 * @returns {Promise<HTMLCanvasElement|null>} null if it is no longer wanted, or the browser cannot read the photo
 */
export function thumbnailOf(file, isWanted) {
  return new Promise((resolve) => {
    waiting.push({ file, isWanted, resolve });
    next();
  });
}

async function next() {
  if (inWork === AT_ONCE || !waiting.length) return;
  const { file, isWanted, resolve } = waiting.shift();
  if (!isWanted()) {
    resolve(null);
    next();
    return;
  }
  inWork++;
  resolve(await made(file).catch(() => null));
  inWork--;
  next();
}

async function made(file) {
  const bitmap = await createImageBitmap(file, { resizeWidth: SIDE, resizeQuality: "medium" });
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
  return canvas;
}
