// The widget of Run.explore(): a report in its frame, and the notebook's word for what is selected.
const sameOnes = (a, b) => a.length === b.length && a.every((id, i) => id === b[i]);

const render = ({ model, el }) => {
  el.innerHTML = model.get("frame");
  const frame = el.querySelector("iframe");
  let shown = []; // what the frame said last
  const tell = () => {
    if (!sameOnes(shown, model.get("object_ids"))) frame.contentWindow?.postMessage({ selected: model.get("object_ids") }, "*");
  };
  const hear = (event) => {
    if (event.source !== frame.contentWindow || !Array.isArray(event.data?.selected)) return;
    shown = event.data.selected.map(String);
    if (!sameOnes(shown, model.get("object_ids"))) { model.set("object_ids", shown); model.save_changes(); }
  };
  // A frame that has loaded knows nobody and selects nothing: it is spoken to first.
  frame.addEventListener("load", () => frame.contentWindow.postMessage({ selected: model.get("object_ids"), goes: "map" }, "*"));
  window.addEventListener("message", hear);
  model.on("change:object_ids", tell);
  return () => { window.removeEventListener("message", hear); model.off("change:object_ids", tell); };
};

export default { render };
