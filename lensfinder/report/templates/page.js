"use strict";
// Sorting and filtering of the cards; without this script all of them are shown by rank.
(() => {
  const controls = document.getElementById("controls");
  if (!controls) return;
  const keys = JSON.parse(document.getElementById("sort-keys").textContent);
  const gallery = document.getElementById("gallery");
  const cards = Array.from(gallery.children);
  const find = document.getElementById("find");
  const sort = document.getElementById("sort");
  const unflagged = document.getElementById("unflagged");
  const shown = document.getElementById("shown");

  const valueOf = (key, by) => (by.startsWith("mag:") ? key.mags[by.slice(4)] : key[by]);
  const before = (a, b) => {
    // What has no value stands last.
    if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1;
    if (b === null || b === undefined) return -1;
    return a < b ? -1 : a > b ? 1 : 0;
  };

  const update = () => {
    const text = find.value.trim().toLowerCase();
    let count = 0;
    keys.forEach((key, i) => {
      const matches = `${key.name} ${key.id}`.toLowerCase().includes(text);
      cards[i].hidden = !matches || (unflagged.checked && key.flags.length > 0);
      count += !cards[i].hidden;
    });
    shown.textContent = `${count} of ${cards.length} shown`;
  };
  const reorder = () => {
    const by = sort.value;
    const order = keys.map((_, i) => i);
    order.sort((i, j) => before(valueOf(keys[i], by), valueOf(keys[j], by)) || keys[i].rank - keys[j].rank);
    gallery.append(...order.map((i) => cards[i]));
  };

  find.addEventListener("input", update);
  unflagged.addEventListener("change", update);
  sort.addEventListener("change", reorder);
  controls.hidden = false;
  // A browser may restore the fields when the page is opened again.
  reorder();
  update();
})();
