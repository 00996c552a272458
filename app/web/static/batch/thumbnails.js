// Small copies of photos that are on this machine, made by a worker beside the page: few at a time, and only those that
// are still wanted when their turn comes.

const SIDE = 144; // pixels: twice that of the card, for fine screens
const AT_ONCE = 2;

const waiting = [];
const inWork = new Map(); // the functions that take what the worker makes, by number
let worker = null;
let last = 0;

/**
 * Make a small copy of a photo.
 * @param isWanted asked before the work begins
 * @returns {Promise<Blob|null>} null if it is no longer wanted, or the browser cannot read the photo
 */
export function thumbnailOf(file, isWanted) {
  return new Promise((resolve) => {
    waiting.push({ file, isWanted, resolve });
    next();
  });
}

function next() {
  while (inWork.size < AT_ONCE && waiting.length) {
    const { file, isWanted, resolve } = waiting.shift();
    if (!isWanted()) {
      resolve(null);
      continue;
    }
    worker ??= started();
    inWork.set(++last, resolve);
    worker.postMessage({ id: last, file, side: SIDE });
  }
}

function started() {
  const made = new Worker(new URL("./thumbnail_worker.js", import.meta.url));
  made.addEventListener("message", ({ data: { id, copy } }) => {
    inWork.get(id)(copy);
    inWork.delete(id);
    next();
  });
  return made;
}
