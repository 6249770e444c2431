// A notebook that holds this page, once it has spoken: both tell each other what is selected.
let host = null;
const tellHost = (ids) => { host?.postMessage({ selected: ids }, "*"); };
const hearHost = (event) => {
  if (event.source !== parent || !Array.isArray(event.data?.selected)) return;
  const ids = event.data.selected.map(String), known = ids.map((id) => indexOf.get(id)).filter((i) => i !== undefined);
  host = parent;
  choose(known, "new");
  const without = ids.length - known.length;
  tell(without ? `${without.toLocaleString("en")} of these ${ids.length.toLocaleString("en")} objects are not on the map` : "");
  if (event.data.goes) goTo(`#${event.data.goes}`);
};
if (isFramed) window.addEventListener("message", hearHost);
