(() => {
  // The server's number for this page; when it has another one, the page is read again where it stood.
  const place = "boxwood-place";
  const kept = JSON.parse(sessionStorage.getItem(place) ?? "null");
  const controls = () => [...document.querySelectorAll("select, input[type=checkbox]")];
  if (kept) {
    const fields = controls();
    fields.forEach((field, i) => {
      const value = kept.values[i];
      if (field.type === "checkbox") field.checked = kept.unchecked.indexOf(field.value) < 0;
      else if ([...field.options].some((option) => option.value === value)) field.value = value;
    });
    document.querySelectorAll("select[data-pick]").forEach((select) => select.dispatchEvent(new Event("change")));
    document.querySelectorAll("details").forEach((details, i) => (details.open = kept.open[i] ?? details.open));
    scrollTo(0, kept.top);
    sessionStorage.removeItem(place);
  }
  let known = null;
  async function look() {
    try {
      const now = await (await fetch("/version", { cache: "no-store" })).text();
      if (known !== null && now !== known) {
        sessionStorage.setItem(place, JSON.stringify({
          top: scrollY,
          values: controls().map((field) => field.value),
          unchecked: controls().filter((field) => field.type === "checkbox" && !field.checked).map((field) => field.value),
          open: [...document.querySelectorAll("details")].map((details) => details.open),
        }));
        location.reload();
      }
      known = now;
    } catch {
      // The server has stopped; what is here stays readable.
    }
    setTimeout(look, 2000);
  }
  look();
})();
