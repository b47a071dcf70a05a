// After a response such as 502, a browser gives an event stream up, and htmx opens a new one, which
// has no last id. The element's address names it until the new stream is open.
(() => {
  const FIRST = "0-0"; // an id that no event has: whoever returns with it gets a reset
  const ids = new WeakMap(); // of each stream, the id of its last event
  const addresses = new WeakMap(); // of each element without a stream, its own address

  const note = ({ detail }) => {
    if (detail.lastEventId) ids.set(detail.target, detail.lastEventId);
  };
  // The first comes before a swap, which may remove the element; events that trigger have no other.
  document.addEventListener("htmx:sseBeforeMessage", note);
  document.addEventListener("htmx:sseMessage", note);

  const attribute = (element) => (element.hasAttribute("sse-connect") ? "sse-connect" : "data-sse-connect");

  document.addEventListener("htmx:sseError", ({ target, detail: { source } }) => {
    if (source.readyState !== EventSource.CLOSED || addresses.has(target)) return;
    const address = target.getAttribute(attribute(target));
    const id = encodeURIComponent(ids.get(source) ?? FIRST);
    addresses.set(target, address);
    target.setAttribute(attribute(target), `${address}${address.includes("?") ? "&" : "?"}last-event-id=${id}`);
  });

  document.addEventListener("htmx:sseOpen", ({ target }) => {
    if (addresses.has(target)) target.setAttribute(attribute(target), addresses.get(target));
    addresses.delete(target);
  });
})();
