// Keeps the live part of a training page fresh: asks for the state as JSON, and takes the page's new part over when it changed.
(() => {
  "use strict";
  const region = document.getElementById("live");
  if (!region) return;
  const every = 2000; // milliseconds
  let before = region.dataset.seen || "";
  const refresh = async () => {
    const page = await fetch(location.href, { credentials: "same-origin" });
    if (!page.ok) throw new Error(String(page.status));
    const fresh = new DOMParser().parseFromString(await page.text(), "text/html").getElementById("live");
    if (!fresh) return;
    const opened = [...region.querySelectorAll("details")].map((each) => each.open);
    region.replaceChildren(...fresh.childNodes);
    region.querySelectorAll("details").forEach((each, index) => { each.open = Boolean(opened[index]); });
    region.dataset.running = fresh.dataset.running;
    const said = document.getElementById("live-said");
    const words = region.querySelector("[data-said]");
    if (said && words && said.textContent !== words.textContent) said.textContent = words.textContent;
  };
  const look = async () => {
    try {
      const answer = await fetch(region.dataset.poll, { credentials: "same-origin", headers: { Accept: "application/json" } });
      if (answer.ok) {
        const now = await answer.text();
        if (now !== before) {
          await refresh();
          before = now;
        }
      }
    } catch {
      // The network has its moments; the next look tells.
    }
    if (region.dataset.running === "yes") setTimeout(look, every);
  };
  if (region.dataset.running === "yes") setTimeout(look, every);
})();
