// What this browser remembers for the page, in localStorage: the language, the tier and strokes. No keys, and no pictures.

/** Return what is remembered by a name; null if nothing is, or the browser forbids pages to keep anything. */
export function recall(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Remember a text by a name. Where that is forbidden, or there is no room, it holds until the page is left. */
export function remember(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch {
    // Nothing depends on it.
  }
}
