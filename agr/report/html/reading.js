/* What helps to read the page: cues of tables that scroll, and links into what is folded. */
"use strict";

(() => {
  // Says where a table that scrolls has more.
  function cues() {
    const sized = new ResizeObserver((seen) => seen.forEach((s) => cue(s.target.closest(".wide"))));
    for (const region of document.querySelectorAll(".wide")) {
      [region, ...region.children].forEach((part) => sized.observe(part));
      region.addEventListener("scroll", () => cue(region), { passive: true });
    }
  }

  function cue(region) {
    const left = region.scrollLeft > 1;
    const right = region.scrollLeft + region.clientWidth < region.scrollWidth - 1;
    const down = region.scrollTop + region.clientHeight < region.scrollHeight - 1;
    region.dataset.more = [left && "left", right && "right", down && "down"].filter(Boolean).join(" ");
    const said = region.closest(".table")?.querySelector(".cue");
    const more = [down && "rows ↓", right ? "columns →" : left && "columns ←"].filter(Boolean);
    if (said) said.textContent = more.length ? `more ${more.join(", ")}` : "";
  }

  // A link into something folded unfolds it.
  function unfold() {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = id && document.getElementById(id);
    if (!target) return;
    for (let d = target.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
    target.scrollIntoView();
  }

  addEventListener("hashchange", unfold);
  addEventListener("load", () => {
    unfold();
    cues();
  });
})();
