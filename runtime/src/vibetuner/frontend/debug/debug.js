// A press on an element that is replaced before its release would not become a click.
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const live = document.getElementById("live");
  if (detail.target !== live || !live.matches(":active")) return;
  detail.shouldSwap = false;
  // A press may end without a release, as a touch that becomes a scroll does.
  const wait = () => (live.matches(":active") ? requestAnimationFrame(wait) : htmx.trigger(detail.elt, "sse:changed"));
  requestAnimationFrame(wait);
});
