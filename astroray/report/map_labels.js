// What the map does beside a labelling page: it sends objects there and shows what was said of them. `desk` is the server's: {key, user}.
const INTEREST = ["1 artefact", "2 usual", "3 maybe", "4 interesting", "5 follow up"], INTEREST_COLORS = ["#9a86c8", "#6d9be0", "#5fd0c4", "#ff9e57", "#ffe27a"];
const REFRESH_MS = 20000; // other people label too
const said = { lines: -1, of: new Map() }; // by object_id: [interest or null, class or ""]
const saidBy = (name) => {
  if (!["said-interest", "said-class"].includes(name)) return null;
  const told = MAP.object_id.map((id) => said.of.get(id)), without = "not labelled";
  if (name === "said-interest") return { words: "interest", values: INTEREST, colors: INTEREST_COLORS, value_of: told.map((one) => one?.[0] ? Math.round(one[0]) - 1 : null), without };
  const values = [...new Set(told.flatMap((one) => one?.[1] ? [one[1]] : []))].sort();
  return { words: "class", values, value_of: told.map((one) => one?.[1] ? values.indexOf(one[1]) : null), without };
};
const pictureAt = (i, size = 96) => `/ui/picture.png?object_id=${encodeURIComponent(MAP.object_id[i])}&size=${size}`; // the server draws each object
const refreshSaid = async () => {
  if (document.hidden) return;
  let told;
  try { told = await (await fetch(`/ui/said?known=${said.lines}`, { headers: { "X-Astroray-User": desk.user } })).json(); } catch { return; } // the server is gone: what is drawn stays
  if (!told.objects) return;
  said.lines = told.num_lines; said.of = new Map(told.objects.map(([id, ...what]) => [id, what]));
  setColor(byId("map-color").value); choose([], "more");
};
const sendToDesk = (list) => {
  const ids = list.filter((i) => i >= 0).map((i) => MAP.object_id[i]);
  if (!ids.length) { tell("choose an object, or draw around some"); return; }
  try { localStorage.setItem(desk.key, JSON.stringify({ from: byId("map-layout").selectedOptions[0].textContent, ids })); } catch { tell("this browser keeps nothing of this page, so that no object can be sent"); return; }
  tell(`${ids.length.toLocaleString("en")} ${ids.length > 1 ? "objects come" : "object comes"} next on the labelling page`);
  if (!open("/ui", "astroray-labelling")) location.assign("/ui");
};
const labelButton = (text, list) => {
  const button = make("button", { type: "button", className: "to-desk", textContent: text });
  button.addEventListener("click", () => sendToDesk(list()));
  return button;
};
const joinDesk = () => {
  byId("map-color").append(make("optgroup", { label: "What was said, live" }, make("option", { value: "said-interest", textContent: "interest" }), make("option", { value: "said-class", textContent: "class" })));
  byId("map-save").before(labelButton("Label these", chosenOnes));
  byId("map-keys").append(" ", make("kbd", { textContent: "l" }), " takes them to the labelling page.");
  addEventListener("storage", (event) => { if (event.key === `${desk.key} said`) refreshSaid(); });
  document.addEventListener("visibilitychange", refreshSaid);
  setInterval(refreshSaid, REFRESH_MS);
  refreshSaid();
};
