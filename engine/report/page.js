"use strict";
(() => {
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));

  // Tables: a button in the header sorts, first the best on top; aria-sort says how it is sorted.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const first = column ? "descending" : "ascending";
        const other = column ? "ascending" : "descending";
        const order = head.ariaSort === first ? other : first;
        heads.forEach((one) => { one.ariaSort = one === head ? order : "none"; });
        const value = (row) => (column ? Number(row.cells[column].dataset.value) : row.cells[0].textContent);
        const rows = [...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b)));
        table.tBodies[0].append(...(order === "ascending" ? rows : rows.reverse()));
      });
    });
  }

  const controls = document.querySelector(".controls");
  if (!controls) return;

  // A click enlarges a picture; arrows go on to the others of its image.
  const viewer = document.getElementById("viewer");
  let links = [], at = 0;
  const enlarge = (k) => {
    at = (k + links.length) % links.length;
    const picture = links[at].firstElementChild.cloneNode();
    picture.loading = "eager";
    viewer.querySelector("figure").replaceChildren(picture);
    const caption = links[at].closest("figure").querySelector("figcaption span").textContent;
    viewer.querySelector("span").textContent = `${links[at].closest(".card").dataset.id}: ${caption}`;
    if (!viewer.open) viewer.showModal();
  };
  document.querySelector(".cards").addEventListener("click", (event) => {
    const link = event.target.closest("a.zoom");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return; // in a tab of its own
    event.preventDefault();
    links = [...link.closest(".panels").querySelectorAll("a.zoom")];
    enlarge(links.indexOf(link));
  });
  viewer.addEventListener("click", (event) => {
    const step = Number(event.target.closest("button")?.dataset.step ?? 0);
    if (step) enlarge(at + step);
    else viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) enlarge(at + step);
  });
  const list = document.querySelector(".cards");
  const cards = [...list.children];
  const [sort, direction, className, why] = ["sort", "direction", "class", "why"].map((id) => document.getElementById(id));
  const value = (card) => {
    const text = card.getAttribute(`data-${sort.value}`);
    return sort.value === "id" ? text : text === null ? NaN : Number(text);
  };

  const show = () => {
    const sign = Number(direction.value);
    const sorted = [...cards].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // without a score: last
      return sign * compare(x, y);
    });
    list.append(...sorted);
    let count = 0;
    for (const card of cards) {
      const has = !className.value || JSON.parse(card.dataset.classes).includes(className.value);
      card.hidden = !has || Boolean(why.value && card.dataset.why !== why.value);
      count += !card.hidden;
    }
    document.getElementById("count").textContent = `${count} of ${cards.length} images shown`;
  };
  for (const select of [sort, direction, className, why]) select.addEventListener("change", show);
  controls.hidden = false;
  show();
})();
