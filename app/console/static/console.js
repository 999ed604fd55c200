// What the pages cannot do without a script, and do well with one; all of it works without, but live
// updates. Times say how long ago they are, lists are walked by keys, a lost connection shows.
"use strict";
(() => {
  const STEPS = [[60, "s", 1], [3600, "min", 60], [86400, "h", 3600], [86400 * 60, "d", 86400]];

  const span = (seconds) => {
    for (const [below, unit, size] of STEPS) {
      if (seconds < below) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${Math.floor(seconds / (86400 * 30))} months`;
  };

  const tick = () => {
    for (const one of document.querySelectorAll("time[datetime]")) {
      const seconds = (Date.now() - Date.parse(one.dateTime)) / 1000;
      const words = span(Math.abs(seconds));
      const said = words === "0 s" ? "now" : seconds > 0 ? `${words} ago` : `in ${words}`;
      if (one.textContent !== said) one.textContent = said;
    }
  };

  const connection = (state) => {
    const notice = document.getElementById("connection");
    if (!notice) return;
    for (const one of notice.children) one.hidden = one.dataset.state !== state;
    notice.hidden = !state;
  };

  // Which rows are chosen: a list that was made anew has its boxes as they were.
  const chosen = new Set();
  const boxes = () => document.querySelectorAll("input[type=checkbox][data-choose]");
  const count = () => {
    for (const form of document.querySelectorAll("form[data-choices]")) {
      const number = form.querySelectorAll("input[data-choose]:checked").length;
      const said = form.querySelector("[data-count]");
      if (said) said.textContent = number ? `${number} chosen` : "None chosen";
      const all = form.querySelector("input[data-all]");
      const every = form.querySelectorAll("input[data-choose]").length;
      if (all) {
        all.checked = number > 0 && number === every;
        all.indeterminate = number > 0 && number < every;
      }
    }
  };
  const restore = () => {
    for (const box of boxes()) box.checked = chosen.has(box.value);
    count();
  };

  document.addEventListener("change", (event) => {
    const box = event.target;
    if (!(box instanceof HTMLInputElement)) return;
    if (box.dataset.all !== undefined) {
      for (const one of box.form.querySelectorAll("input[data-choose]")) {
        one.checked = box.checked;
        if (box.checked) chosen.add(one.value); else chosen.delete(one.value);
      }
    } else if (box.dataset.choose !== undefined) {
      if (box.checked) chosen.add(box.value); else chosen.delete(box.value);
    }
    count();
  });

  const rows = () => [...document.querySelectorAll("[data-row] [data-open]")];
  const move = (by) => {
    const all = rows();
    const at = all.indexOf(document.activeElement?.closest("[data-row]")?.querySelector("[data-open]"));
    const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by];
    if (next) next.focus();
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input:not([type=checkbox]), textarea, select")) return;
    if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "x") document.activeElement?.closest("[data-row]")?.querySelector("input[data-choose]")?.click();
    else if (event.key === "/") {
      const field = document.querySelector("[data-search]");
      if (!field) return;
      field.focus();
      event.preventDefault();
    }
  });

  // A part that is made anew keeps the focus where it was, by the element's id.
  let focused = "";
  document.addEventListener("htmx:sseBeforeMessage", () => {
    focused = document.activeElement?.id || "";
  });
  document.addEventListener("htmx:afterSettle", () => {
    tick();
    restore();
    if (focused && document.activeElement?.id !== focused) {
      document.getElementById(focused)?.focus({ preventScroll: true });
    }
    focused = "";
  });

  document.addEventListener("htmx:sseOpen", () => {
    connection("");
    document.body.dataset.followed = "true";
  });
  document.addEventListener("htmx:sseError", () => connection("lost"));
  window.addEventListener("offline", () => connection("lost"));
  window.addEventListener("online", () => connection(""));
  document.addEventListener("htmx:sseClose", (event) => {
    if (event.detail?.type === "message") connection("ended");
  });

  document.addEventListener("DOMContentLoaded", () => {
    tick();
    restore();
    setInterval(tick, 5000);
  });
})();
