"use strict";
(() => {
  document.documentElement.classList.add("js");
  const links = [...document.querySelectorAll(".places figure > a")];
  const middle = (link) => { const box = link.getBoundingClientRect(); return [box.left + box.width / 2, box.top + scrollY]; };
  const vertical = (from, step) => {
    const [x, y] = middle(links[from]);
    let best = -1, row = null, near = Infinity;
    for (let place = from + step; place >= 0 && place < links.length; place += step) {
      const [otherX, otherY] = middle(links[place]);
      if (Math.abs(otherY - y) < 20) continue;
      if (row !== null && Math.abs(otherY - row) > 20) break;
      row = otherY;
      if (Math.abs(otherX - x) < near) { near = Math.abs(otherX - x); best = place; }
    }
    return best;
  };
  const go = (place) => {
    if (!links[place]) return;
    links[place].focus({ preventScroll: true });
    links[place].scrollIntoView({ block: "nearest" });
  };
  const frame = () => document.querySelector(".frame:target");
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const shown = frame();
    if (shown) {
      const found = { Escape: ".close", ArrowLeft: "[rel=prev]", ArrowRight: "[rel=next]" }[event.key];
      const link = found && shown.querySelector(found);
      if (link) { event.preventDefault(); location.replace(link.getAttribute("href")); }
      return;
    }
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -2, ArrowDown: 2 };
    const step = steps[event.key];
    if (!step) return;
    const from = links.indexOf(document.activeElement);
    if (from < 0 && Math.abs(step) === 2) return;
    event.preventDefault();
    if (from < 0) go(0);
    else go(Math.abs(step) === 1 ? from + step : vertical(from, step / 2));
  });
  addEventListener("hashchange", () => {
    const shown = frame();
    if (shown) { shown.querySelector(".close").focus({ preventScroll: true }); return; }
    const hit = location.hash && document.getElementById(location.hash.slice(1));
    const link = hit && hit.matches("figure") && hit.querySelector("a");
    if (link) link.focus({ preventScroll: true });
  });
})();
