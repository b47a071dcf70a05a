// A press on an element that is replaced before its release would not become a click.
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const live = document.getElementById("live");
  if (detail.target !== live || !live.matches(":active")) return;
  detail.shouldSwap = false;
  document.addEventListener("pointerup", () => htmx.trigger(detail.elt, "sse:changed"), { once: true });
});
