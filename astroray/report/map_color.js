// What the color of an object on the map says: a number, or the part of the survey that it belongs to.
const STOPS = [[62, 92, 148], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis, but for its dark end
const BINS = 24, UNKNOWN = "#4a5468"; // of parts: a crowd without one must not outshine those that have one
const PARTS = ["#7cb7ff", "#ff9e57", "#7fd0b0", "#f07f9c", "#c9a0f0", "#e8e27a", "#5fd0e0", "#d98a6a", "#a8cf6b", "#e6b3d8"];
const PART_COLORS = { "entered the list": "#ffe27a", "moved in the list": "#5fd0e0", "left the list": "#f07f9c", "new in this night": "#c9a0f0", "known before": UNKNOWN };
const mix = (t) => {
  const at = Math.min(STOPS.length - 2, Math.floor(t * (STOPS.length - 1))), part = t * (STOPS.length - 1) - at;
  return `rgb(${STOPS[at].map((value, c) => Math.round(value + part * (STOPS[at + 1][c] - value))).join(",")})`;
};
const RAMP = Array.from({ length: BINS }, (_, i) => mix(i / (BINS - 1)));
const partsBy = (name) => MAP.groups.find((group) => group.name === name) || saidBy(name);
const partsOf = (i) => [...MAP.groups, saidBy("said-interest"), saidBy("said-class")].flatMap((parts) => parts && parts.value_of[i] !== null ? [[parts.words, parts.values[parts.value_of[i]]]] : []);
const colorByNumber = (name) => { // a color of each bin of values, 0 where it is unknown; and the legend
  const values = SCORES[name]?.values || MAP[name] || [], sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  const quantile = (q) => sorted[Math.round(q * (sorted.length - 1))];
  const isSky = name === "ra" || name === "dec", low = isSky ? sorted[0] : quantile(0.01), high = isSky ? sorted.at(-1) : quantile(0.99);
  const bin = Uint8Array.from({ length: total }, (_, i) => values[i] == null || !sorted.length ? 0 : 1 + Math.round((BINS - 1) * (high > low ? Math.min(1, Math.max(0, (values[i] - low) / (high - low))) : 0)));
  const unit = isSky ? "°" : "", legend = [];
  if (sorted.length) legend.push(
    make("span", { textContent: `${isSky ? { ra: "right ascension, ICRS, deg", dec: "declination, ICRS, deg" }[name] : SCORES[name].words}` }),
    make("span", { className: "end", textContent: `${sorted[0] < low ? "≤ " : ""}${number(low)}${unit}` }),
    make("span", { className: "bar-of-colors", style: `background:linear-gradient(90deg,${RAMP.join(",")})` }),
    make("span", { className: "end", textContent: `${sorted.at(-1) > high ? "≥ " : ""}${number(high)}${unit}` }));
  if (values.some((value) => value === null)) legend.push(make("span", { textContent: "grey: unknown" }));
  return [{ bin, colors: [css("--muted"), ...RAMP] }, legend];
};
const colorByPart = (parts) => { // a color of each of the largest parts, one of all the others, the first of objects without a part
  const counts = parts.values.map((_, v) => parts.value_of.reduce((sum, value) => sum + (value === v), 0));
  const isMany = parts.values.length > PARTS.length, largest = counts.map((_, v) => v).sort((a, b) => counts[b] - counts[a]).slice(0, PARTS.length);
  const shown = largest.sort((a, b) => a - b), colorOf = shown.map((v, k) => parts.colors?.[v] || PART_COLORS[parts.values[v]] || PARTS[k]);
  const bin = Uint8Array.from({ length: total }, (_, i) => parts.value_of[i] === null ? 0 : shown.includes(parts.value_of[i]) ? 1 + shown.indexOf(parts.value_of[i]) : shown.length + 1);
  const colors = [UNKNOWN, ...colorOf, css("--bulk")];
  const names = ["", ...shown.map((v) => parts.values[v]), `${(parts.values.length - shown.length).toLocaleString("en")} others`];
  const entry = (b) => {
    const list = all().filter((i) => bin[i] === b), text = names[b] || parts.without || "unknown";
    const button = make("button", { type: "button", className: "part", title: "Select these objects; with Shift as well as those before" }, make("span", { className: "dot", style: `background:${colors[b]}` }), text, make("span", { className: "end", textContent: list.length.toLocaleString("en") }));
    button.addEventListener("click", (event) => choose(list, event.shiftKey ? "more" : "new"));
    return list.length || b ? [button] : [];
  };
  return [{ bin, colors }, [make("span", { textContent: parts.words }), ...[...shown.map((_, k) => k + 1), ...(isMany ? [shown.length + 1] : []), 0].flatMap(entry)]];
};
