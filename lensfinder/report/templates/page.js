"use strict";
// The gallery: sorting, filtering, stretching and grading; without this script all is shown by rank.
(() => {
  const controls = document.getElementById("controls");
  if (!controls) return;
  const element = (id) => document.getElementById(id);
  const data = JSON.parse(element("page-data").textContent);
  const gallery = element("gallery"), viewer = element("viewer");
  const cards = Array.from(gallery.children);
  const indexOf = new Map(cards.map((card, i) => [card, i]));
  const say = (text) => { element("said").textContent = text; };
  const grades = makeGrades(data, say);
  const stretch = makeStretch(data.channels, data.softening);

  // -- stamps: only those near the window are drawn -------------------------------------------
  const near = new Set();
  const contrast = () => 2 ** Number(element("contrast").value);
  const pictures = async (card) => {
    const images = Array.from(card.querySelectorAll("img.stamp"));
    await Promise.all(images.map((image) => image.decode()));
    return images;
  };
  const paint = async (card) => {
    const canvas = card.querySelector("canvas"), stamp = data.cards[indexOf.get(card)].stamp;
    if (!canvas || !stamp) return;
    const images = await pictures(card), view = element("view").value;
    stretch.draw(canvas, images, stamp, view, contrast());
    canvas.dataset.drawn = `${view} ${contrast()}`;
    canvas.hidden = false;
  };
  let asked = 0;
  const repaint = () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(() => { near.forEach(paint); if (viewer.open) show(current); });
  };
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.add(entry.target); paint(entry.target); }
      else near.delete(entry.target);
    }
  }, { rootMargin: "400px" });
  cards.forEach((card) => observer.observe(card));

  // -- sorting and filtering ------------------------------------------------------------------
  const gradeOf = (i) => grades.get(data.cards[i].id);
  const valueOf = (i, by) => {
    if (by === "grade") {
      const order = grades.GRADES.indexOf(gradeOf(i));
      return order < 0 ? null : order < 4 ? order : 7 - order;
    }
    return by.startsWith("mag:") ? data.cards[i].mags[by.slice(4)] : data.cards[i][by];
  };
  const before = (a, b) => {
    // What has no value stands last.
    if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1;
    if (b === null || b === undefined) return -1;
    return a < b ? -1 : a > b ? 1 : 0;
  };
  const tell = () => {
    const shown = cards.filter((card) => !card.hidden).length;
    element("shown").textContent = `${shown} of ${cards.length} shown, ${grades.count()} graded`;
  };
  const update = () => {
    const text = element("find").value.trim().toLowerCase(), wanted = element("graded").value;
    data.cards.forEach((key, i) => {
      const grade = gradeOf(i);
      const matches = `${key.name} ${key.id}`.toLowerCase().includes(text)
        && !(element("unflagged").checked && key.flags.length > 0)
        && !(element("unknown").checked && key.known)
        && (wanted === "all" || (wanted === "none" ? !grade : wanted === "any" ? grade : grade === wanted));
      cards[i].hidden = !matches;
    });
    tell();
  };
  const reorder = () => {
    const by = element("sort").value;
    const order = cards.map((_, i) => i);
    order.sort((i, j) => before(valueOf(i, by), valueOf(j, by)) || data.cards[i].rank - data.cards[j].rank);
    gallery.append(...order.map((i) => cards[i]));
  };

  // -- grading --------------------------------------------------------------------------------
  let current = null;
  const mark = (card) => {
    const badge = card.querySelector(".grade"), grade = gradeOf(indexOf.get(card));
    badge.hidden = !grade;
    badge.textContent = grade ?? "";
    badge.setAttribute("aria-label", grade ? `graded ${grade}` : "");
  };
  const select = (card) => {
    if (current) { current.tabIndex = -1; current.classList.remove("current"); }
    current = card;
    card.tabIndex = 0;
    card.classList.add("current");
  };
  const neighbour = (step) => {
    let card = current;
    do { card = step > 0 ? card?.nextElementSibling : card?.previousElementSibling; } while (card && card.hidden);
    return card ?? null;
  };
  const go = (card) => {
    if (!card) return;
    select(card);
    if (viewer.open) show(card);
    else { card.focus({ preventScroll: true }); card.scrollIntoView({ block: "nearest" }); }
  };
  const give = (grade) => {
    if (!current) return;
    const key = data.cards[indexOf.get(current)];
    grades.set(key.id, grade);
    mark(current);
    tell();
    say(`${key.name || key.id}: ${grade ? `grade ${grade}` : "no grade"}`);
    if (grade && element("advance").checked) go(neighbour(1));
    else if (viewer.open) show(current);
  };
  const show = async (card) => {
    const i = indexOf.get(card), key = data.cards[i], views = element("views");
    element("viewer-title").textContent = `${key.rank}. ${key.name || key.id}`;
    element("viewer-id").textContent = `${key.id} · logit ${key.logit.toFixed(3)}`;
    element("viewer-grade").textContent = gradeOf(i) ? `graded ${gradeOf(i)}` : "not graded";
    views.replaceChildren();
    if (!viewer.open) viewer.showModal();
    if (!key.stamp) { views.textContent = "there is no stamp"; return; }
    const images = await pictures(card);
    if (card !== current) return;
    const wanted = data.bands.length > 1 ? ["colour", ...data.bands.keys()] : ["colour"];
    views.replaceChildren(...wanted.map((view) => {
      const figure = document.createElement("figure"), canvas = document.createElement("canvas");
      const caption = document.createElement("figcaption");
      caption.textContent = view === "colour" ? (data.bands.length > 1 ? "colour" : data.bands[0]) : data.bands[view];
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${caption.textContent} of ${key.name || key.id}`);
      stretch.draw(canvas, images, key.stamp, view, contrast());
      figure.append(canvas, caption);
      return figure;
    }));
  };

  gallery.addEventListener("focusin", (event) => {
    const card = event.target.closest(".card");
    if (card && card !== current) select(card);
  });
  gallery.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    select(card);
    if (event.target.closest(".picture")) show(card);
    else card.focus({ preventScroll: true });
  });
  document.addEventListener("keydown", (event) => {
    // Letters grade only where the eyes are: on a card or in the viewer, and never in a field.
    const at = document.activeElement;
    if (event.ctrlKey || event.metaKey || event.altKey || at.matches("input, select, textarea")) return;
    if (!viewer.open && !gallery.contains(at)) return;
    const key = event.key.toUpperCase();
    if (grades.GRADES.includes(key)) give(key);
    else if (event.key === "Backspace" || event.key === "Delete") give(null);
    else if (event.key === "ArrowRight" || key === "J") go(neighbour(1));
    else if (event.key === "ArrowLeft" || key === "K") go(neighbour(-1));
    else if (event.key === "Enter" && !viewer.open && current) show(current);
    else return;
    event.preventDefault();
  });
  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.grade !== undefined) give(button.dataset.grade || null);
    else if (button.dataset.step) go(neighbour(Number(button.dataset.step)));
    else viewer.close();
  });
  viewer.addEventListener("close", () => { if (current) go(current); });

  // -- in and out -----------------------------------------------------------------------------
  element("grader").value = grades.grader();
  element("grader").addEventListener("change", () => grades.setGrader(element("grader").value.trim()));
  element("grader").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    grades.setGrader(element("grader").value.trim());
    element("start").click();
    event.preventDefault();
    event.stopPropagation(); // the card that has the focus now would open
  });
  element("export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([grades.toCsv()], { type: "text/csv" }));
    link.download = `grades-${(grades.grader() || "me").replace(/[^\w-]+/g, "_")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    say(`${grades.count()} grades exported as ${link.download}`);
  });
  element("import").addEventListener("change", async (event) => {
    const file = event.target.files[0];
    if (!file) return;
    grades.fromCsv(await file.text());
    event.target.value = "";
    cards.forEach(mark);
    update();
  });
  element("start").addEventListener("click", () => {
    const open = Array.from(gallery.children).find((card) => !card.hidden && !gradeOf(indexOf.get(card)));
    if (open) go(open);
    else say("Every card that is shown has a grade.");
  });
  element("find").addEventListener("input", update);
  for (const id of ["unflagged", "unknown", "graded"]) element(id).addEventListener("change", update);
  element("sort").addEventListener("change", reorder);
  element("view").addEventListener("change", repaint);
  // The viewer has a slider of its own, for it covers the other.
  const sliders = [element("contrast"), element("viewer-contrast")];
  sliders[1].value = sliders[0].value;
  sliders.forEach((slider, i) => slider.addEventListener("input", () => {
    sliders[1 - i].value = slider.value;
    repaint();
  }));
  controls.hidden = false;
  cards.forEach(mark);
  if (cards.length) select(cards[0]);
  // A browser may restore the fields when the page is opened again.
  if (element("sort").value !== "rank") reorder();
  update();
})();
