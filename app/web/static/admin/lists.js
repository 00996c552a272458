// Lists that change in place: what is shown already stays where it is, with its focus.

/**
 * Make a list show these items, in this order.
 * @param {HTMLElement} list
 * @param {object[]} items
 * @param {(item: object) => string} idOf
 * @param {(item: object) => HTMLElement} make a new element for an item
 * @param {(element: HTMLElement, item: object) => void} update called for new elements and for those that stay
 */
export function showItems(list, items, idOf, make, update = () => {}) {
  const ids = items.map(idOf);
  const there = new Map();
  for (const child of [...list.children]) {
    if (ids.includes(child.dataset.id)) there.set(child.dataset.id, child);
    else child.remove();
  }
  items.forEach((item, index) => {
    const child = there.get(ids[index]) ?? make(item);
    child.dataset.id = ids[index];
    update(child, item);
    if (list.children[index] !== child) list.insertBefore(child, list.children[index] ?? null);
  });
}

/** Set a text, unless it is the same: a screen reader would say it again. */
export function tell(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
