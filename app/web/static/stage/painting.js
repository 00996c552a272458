// Pictures that the worker makes (painter.js).

const waiting = new Map();
let worker = null;
let last = 0;

function opened() {
  if (worker) return worker;
  worker = new Worker(new URL("./painter.js", import.meta.url), { type: "module" });
  worker.addEventListener("message", ({ data: { id, made, failed } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (failed) reject(new Error(failed));
    else resolve(made);
  });
  worker.addEventListener("error", () => {
    for (const { reject } of waiting.values()) reject(new Error("The page's worker has stopped."));
    waiting.clear();
    worker = null;
  });
  return worker;
}

/** Have the worker do something that it knows, as `painted("masks", { lines, width, height })`. */
export function painted(name, values) {
  return new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject });
    opened().postMessage({ id: last, name, values });
  });
}
