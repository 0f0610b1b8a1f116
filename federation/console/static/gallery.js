// Keyboard and live saving for the gallery of a case. Without it the check boxes and the Save button do the same.
(() => {
  "use strict";
  const form = document.getElementById("gallery");
  if (!form) return;
  const boxes = [...form.querySelectorAll(".pick")];
  const saved = document.getElementById("saved");
  const counter = document.querySelector("[data-count=selected]");
  const show = (number) => document.querySelectorAll("[data-count=selected]").forEach((each) => { each.textContent = String(number); });
  const selectable = form.dataset.hint === "yes";
  const hint = form.querySelector("[data-keys]");
  if (hint) hint.hidden = false;

  // One tile at a time is in the order of Tab; arrows move between tiles.
  const rove = (to) => {
    if (!to) return;
    boxes.forEach((box) => { box.tabIndex = box === to ? 0 : -1; });
    to.focus();
    to.closest(".tile").scrollIntoView({ block: "nearest" });
  };
  if (selectable) {
    boxes.forEach((box, index) => {
      box.tabIndex = index ? -1 : 0;
      box.addEventListener("focus", () => boxes.forEach((other) => { other.tabIndex = other === box ? 0 : -1; }));
    });
  }
  const columns = () => {
    const top = boxes[0].closest(".tile").offsetTop;
    const below = boxes.findIndex((box) => box.closest(".tile").offsetTop !== top);
    return below < 0 ? boxes.length : below;
  };

  // What was ticked and is not yet known to the server, saved a moment after the last change.
  let pending = new Map();
  let timer = 0;
  let chain = Promise.resolve(true);
  const say = (text) => {
    if (!saved) return;
    saved.hidden = false;
    saved.textContent = text;
  };
  const count = (change) => {
    if (counter) show(Number(counter.textContent) + change);
  };
  const send = async (ids, selected) => {
    const answer = await fetch(`/api/v1/cases/${form.dataset.case}/select`, {
      method: "POST",
      credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": form.elements.csrf_token.value },
      body: JSON.stringify({ image_ids: ids, selected }),
    });
    if (!answer.ok) throw new Error(String(answer.status));
    const reply = await answer.json();
    const fresh = reply.case || reply;
    if (fresh.revision !== undefined) document.querySelectorAll("[data-revision]").forEach((field) => { field.value = fresh.revision; });
    if (fresh.num_selected !== undefined && pending.size === 0) show(fresh.num_selected);
  };
  // Resolves to whether the server knows every tick.
  const flush = () => {
    clearTimeout(timer);
    timer = 0;
    const changes = pending;
    pending = new Map();
    chain = chain.then(async () => {
      try {
        for (const selected of [true, false]) {
          const ids = [...changes].filter(([, value]) => value === selected).map(([id]) => id);
          if (ids.length) await send(ids, selected);
        }
        if (changes.size && !pending.size) say("Saved");
        return true;
      } catch {
        changes.forEach((value, id) => { if (!pending.has(id)) pending.set(id, value); });
        say("Not saved yet: press Save selection");
        return false;
      }
    });
    return chain;
  };
  const changed = (box) => {
    // Ticked and unticked again before it was sent: nothing to send.
    if (pending.has(box.value)) pending.delete(box.value); else pending.set(box.value, box.checked);
    count(box.checked ? 1 : -1);
    say("Saving…");
    clearTimeout(timer);
    timer = setTimeout(flush, 500);
  };
  const tick = (box, to) => {
    if (box.checked === to) return;
    box.checked = to;
    changed(box);
  };
  if (selectable) {
    form.addEventListener("change", (event) => {
      if (event.target.classList.contains("pick")) changed(event.target);
    });
    // A decision must not overtake the selection on which it is made.
    document.querySelectorAll("#decision form").forEach((decision) => decision.addEventListener("submit", (event) => {
      event.preventDefault();
      flush().then((saved) => { if (saved) decision.submit(); });
    }));
    form.addEventListener("submit", () => { clearTimeout(timer); pending = new Map(); });
    window.addEventListener("beforeunload", (event) => { if (pending.size) event.preventDefault(); });
  }

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !boxes.length || !selectable) return;
    const here = boxes.indexOf(document.activeElement);
    const typing = document.activeElement.matches("input:not(.pick), textarea, select, summary, [contenteditable]");
    if (here < 0 && typing) return;
    if (event.key === "a" || event.key === "n") {
      event.preventDefault();
      boxes.forEach((box) => tick(box, event.key === "a"));
      return; // saved together, a moment later
    }
    if (here < 0) return;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(), Home: -here, End: boxes.length - 1 - here };
    if (!(event.key in moves)) return;
    event.preventDefault();
    rove(boxes[Math.min(Math.max(here + moves[event.key], 0), boxes.length - 1)]);
  });

  // An overlay that cannot be had now leaves its place to words, not to the browser's sign for a broken picture.
  const missing = (picture) => {
    const words = document.createElement("span");
    words.className = "no-evidence";
    words.textContent = "no overlay now";
    picture.replaceWith(words);
  };
  form.querySelectorAll(".heat").forEach((picture) => {
    if (picture.complete && picture.naturalWidth === 0 && picture.currentSrc) missing(picture);
    else picture.addEventListener("error", () => missing(picture), { once: true });
  });

  // The chosen view stays while one turns pages.
  const carry = () => {
    const view = form.querySelector("[name=view]:checked");
    if (!view) return;
    document.querySelectorAll(".pager a, nav.segments a").forEach((link) => {
      const address = new URL(link.href);
      address.searchParams.set("view", view.value);
      link.href = address.pathname + address.search;
    });
    form.elements.back.value = form.elements.back.value.replace(/view=\w+/, `view=${view.value}`);
  };
  form.querySelectorAll("[name=view]").forEach((radio) => radio.addEventListener("change", carry));
})();
