// A second press on a button, before the answer to the first has come, would send its form twice.
(() => {
  const WAIT = 5000; // in milliseconds: a form that is sent again later is meant so
  let last = "";
  let until = 0;

  document.addEventListener("submit", (event) => {
    const { target: form, submitter, timeStamp } = event;
    if (event.defaultPrevented || form.getAttribute("method")?.toLowerCase() !== "post") return;
    const sent = `${form.action} ${new URLSearchParams(new FormData(form, submitter))}`;
    if (sent === last && timeStamp < until) event.preventDefault();
    else [last, until] = [sent, timeStamp + WAIT];
  });

  // Back has brought the page as it was.
  addEventListener("pageshow", () => (last = ""));
})();
