// The map: MAP is what map.py says of its objects, column by column, by rank.
const SHOWN_ROWS = 200, FEW = 80, NEAR_PX = 12, EDGE_PX = 26;
const total = MAP.object_id.length, layoutNames = Object.keys(MAP.layouts);
const canvas = byId("map-canvas"), paint = canvas.getContext("2d"), frameOf = canvas.parentElement;
const number = (value) => value === null ? "–" : value === Infinity ? "∞" : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(3) : value.toPrecision(4);
const numOutliers = MAP.rank.filter((rank) => rank <= MAP.cards).length; // they come first
const SCORES = Object.fromEntries(MAP.scores.map((score) => [score.name, score])), SCORE = MAP.scores[0].values;
const indexOf = new Map(MAP.object_id.map((id, i) => [id, i]));

let size = { w: 1, h: 1 }, layout = layoutNames[0], drag = "move", pinned = -1, over = -1, frame = 0, moving = null, gesture = null;
let asPictures = null, bin = new Uint8Array(total), colors = [css("--muted")], selected = new Uint8Array(total), matches = [], tiles = { side: 0, list: [] };
const view = { x: 0, y: 0, scale: 1 }, x = new Float32Array(total), y = new Float32Array(total);
const sx = new Float32Array(total), sy = new Float32Array(total), images = new Map(), pointers = new Map();
const tell = (text) => { byId("map-told").textContent = text; };
const places = (name) => ["x", "y"].map((axis) => Float32Array.from(MAP.layouts[name][axis], (value) => value === null ? NaN : value));
const whole = () => {
  const ends = ["x", "y"].map((axis) => MAP.layouts[layout][axis].reduce((most, value) => Math.max(most, value), 1));
  const scale = Math.min((size.w - 2 * EDGE_PX) / ends[0], (size.h - 2 * EDGE_PX) / ends[1]);
  return { x: ends[0] / 2, y: ends[1] / 2, scale: Math.max(scale, 1e-4) };
};
const all = () => [...Array(total).keys()];
const chosenOnes = () => all().filter((i) => selected[i]);
const redraw = () => { if (!frame) frame = requestAnimationFrame(draw); };
const addressOf = (i) => MAP.picture[i] ? source(MAP.picture[i]) : pictureAt(i); // "" where nobody has a picture
const imageOf = (i) => {
  if (!images.has(i)) images.set(i, make("img", { onload: redraw, src: addressOf(i) }));
  return images.get(i);
};

// ---- drawing

const dots = (list, radius, color) => {
  paint.fillStyle = color; paint.beginPath();
  for (const i of list) { paint.moveTo(sx[i] + radius, sy[i]); paint.arc(sx[i], sy[i], radius, 0, 7); }
  paint.fill();
};
const rings = (list, radius, color, width) => {
  paint.strokeStyle = color; paint.lineWidth = width; paint.beginPath();
  for (const i of list) { paint.moveTo(sx[i] + radius, sy[i]); paint.arc(sx[i], sy[i], radius, 0, 7); }
  paint.stroke();
};
const drawPictures = (zoom, some) => {
  const isByPart = Boolean(partsBy(byId("map-color").value));
  const side = Math.min(88, 34 * Math.sqrt(Math.max(zoom, 1))), put = [];
  tiles = { side, list: put };
  const seen = [...new Set([pinned, ...all()])].filter((i) => i >= 0 && inView(i)), isFew = seen.length <= FEW;
  const order = seen.filter((i) => MAP.picture[i] || (isFew && addressOf(i))); // so few can be asked for
  for (const i of order) {
    if (put.some((j) => Math.abs(sx[i] - sx[j]) < side + 3 && Math.abs(sy[i] - sy[j]) < side + 3)) continue;
    const image = imageOf(i);
    put.push(i);
    paint.globalAlpha = some && !selected[i] ? 0.3 : 1;
    if (image.complete && image.naturalWidth) paint.drawImage(image, sx[i] - side / 2, sy[i] - side / 2, side, side);
    paint.strokeStyle = selected[i] ? css("--text") : i < numOutliers ? css("--star") : css("--line");
    paint.lineWidth = i < numOutliers || selected[i] ? 2 : 1;
    paint.strokeRect(sx[i] - side / 2, sy[i] - side / 2, side, side);
    if (isByPart && bin[i]) { paint.fillStyle = colors[bin[i]]; paint.fillRect(sx[i] - side / 2 + 1, sy[i] + side / 2 - 5, side - 2, 4); }
  }
  paint.globalAlpha = 1;
};
const inView = (i) => sx[i] > -9 && sy[i] > -9 && sx[i] < size.w + 9 && sy[i] < size.h + 9; // NaN is not
const project = () => {
  for (let i = 0; i < total; i++) { sx[i] = size.w / 2 + (x[i] - view.x) * view.scale; sy[i] = size.h / 2 - (y[i] - view.y) * view.scale; }
};
const draw = (now) => {
  frame = 0;
  if (moving) {
    const t = Math.min(1, (now - moving.began) / 450), eased = t * t * (3 - 2 * t);
    const part = (from, to) => Number.isNaN(from) ? to : from + eased * (to - from);
    for (let i = 0; i < total; i++) { x[i] = part(moving.from[0][i], moving.to[0][i]); y[i] = part(moving.from[1][i], moving.to[1][i]); }
    for (const key of ["x", "y", "scale"]) view[key] = part(moving.view[key], moving.aim[key]);
    if (t === 1) moving = null; else redraw();
  }
  project();
  const ratio = devicePixelRatio || 1, zoom = view.scale / whole().scale, some = selected.includes(1);
  paint.setTransform(ratio, 0, 0, ratio, 0, 0); paint.clearRect(0, 0, size.w, size.h);
  const radius = Math.min(7, Math.max(1.6, 0.16 * Math.sqrt(size.w * size.h / total)) * Math.sqrt(Math.max(zoom, 0.5)));
  const crowd = colors.map(() => []), chosen = colors.map(() => []), outliers = [];
  for (let i = total - 1; i >= 0; i--) {
    if (!inView(i)) continue;
    if (i < numOutliers) outliers.push(i);
    else (selected[i] ? chosen : crowd)[bin[i]].push(i);
  }
  const names = layout === "sky" && !moving ? drawGraticule() : () => {};
  paint.globalAlpha = some ? 0.22 : 0.8;
  crowd.forEach((list, b) => dots(list, radius, colors[b]));
  paint.globalAlpha = 1;
  chosen.forEach((list, b) => dots(list, radius + 1, colors[b]));
  for (const isIn of some ? [0, 1] : [0]) { // the selected ones on top
    const list = outliers.filter((i) => selected[i] === isIn);
    paint.globalAlpha = some && !isIn ? 0.3 : 1;
    for (const i of list) dots([i], radius + 1.2, colors[bin[i]]);
    rings(list, radius + 2.6, css("--star"), 1.5);
  }
  paint.globalAlpha = 1; tiles = { side: 0, list: [] };
  if (byId("map-pictures")?.checked) drawPictures(zoom, some);
  names();
  for (const i of [over, pinned]) if (i >= 0 && inView(i)) rings([i], radius + 7, css("--text"), i === pinned ? 2.4 : 1.4);
  if (gesture?.path) {
    paint.beginPath(); gesture.path.forEach((point) => paint.lineTo(...point)); paint.closePath();
    paint.fillStyle = "rgb(255 255 255 / .08)"; paint.fill(); paint.strokeStyle = css("--text"); paint.lineWidth = 1.2; paint.stroke();
  }
  canvas.dataset.view = JSON.stringify({ ...view, ...size }); canvas.dataset.moves = moving ? "yes" : "";
};
const settle = () => { // who acts while objects move finds them where they go
  if (moving) { x.set(moving.to[0]); y.set(moving.to[1]); }
  moving = null;
};

// ---- view, layout, color

const zoomBy = (factor, px = size.w / 2, py = size.h / 2) => {
  if (!factor) { Object.assign(view, whole()); redraw(); return; }
  const scale = Math.min(Math.max(view.scale * factor, whole().scale * 0.5), whole().scale * 400), dx = px - size.w / 2, dy = py - size.h / 2;
  view.x += dx / view.scale - dx / scale; view.y -= dy / view.scale - dy / scale; view.scale = scale;
  redraw();
};
const setLayout = (name) => {
  layout = name; byId("map-layout").value = name;
  $(".map-note").forEach((note) => { note.hidden = note.dataset.note !== name; });
  const to = places(name), still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (still) { x.set(to[0]); y.set(to[1]); Object.assign(view, whole()); } else {
    moving = { from: [x.slice(), y.slice()], to, view: { ...view }, aim: whole(), began: performance.now() };
    canvas.dataset.moves = "yes";
  }
  const without = to[0].filter(Number.isNaN).length;
  tell(without ? `${without.toLocaleString("en")} objects have no position` : "");
  redraw();
};
const setColor = (name) => {
  byId("map-color").value = name;
  const parts = partsBy(name), [told, legend] = parts ? colorByPart(parts) : colorByNumber(name);
  ({ bin, colors } = told);
  byId("map-legend").replaceChildren(...legend);
  if (numOutliers) byId("map-legend").append(make("span", { className: "of-list" }, make("span", { className: "sign" }), `the ${numOutliers} outliers of the list`));
  redraw();
};

// ---- one object

const label = (i) => `rank ${MAP.rank[i].toLocaleString("en")} · ${MAP.object_id[i]} · score ${number(SCORE[i])}`;
const position = (i) => MAP.ra[i] === null ? "" : `${MAP.ra[i].toFixed(5)}° ${MAP.dec[i] >= 0 ? "+" : ""}${MAP.dec[i].toFixed(5)}°`;
const pick = (px, py) => {
  project(); // the view may have changed since it was drawn
  const shown = tiles.list.find((i) => Math.abs(sx[i] - px) < tiles.side / 2 && Math.abs(sy[i] - py) < tiles.side / 2);
  if (shown !== undefined) return shown;
  let best = -1, least = NEAR_PX ** 2;
  for (let i = 0; i < total; i++) {
    const apart = (sx[i] - px) ** 2 + (sy[i] - py) ** 2 - (i < numOutliers ? 9 : 0);
    if (apart < least) { least = apart; best = i; }
  }
  return best;
};
const pin = (i, goes = false) => {
  pinned = i;
  const box = byId("map-one");
  box.replaceChildren();
  if (i >= 0) {
    const facts = [...MAP.scores.map((score) => [score.words, number(score.values[i])]), ...(position(i) ? [["position", position(i)]] : []), ...partsOf(i)];
    $("#map-gallery button").forEach((one) => one.setAttribute("aria-current", String(one.dataset.i === String(i))));
    if (addressOf(i)) box.append(make("img", { src: pictureAt(i, 480) || addressOf(i), alt: `Picture of ${MAP.object_id[i]}`, onerror: (event) => event.target.remove() }));
    box.append(make("p", {}, make("span", { className: "rank", textContent: MAP.rank[i].toLocaleString("en") }), i < MAP.certified ? "certified" : ""), make("p", { className: "id", textContent: MAP.object_id[i] }),
      make("dl", {}, ...facts.map(([word, value]) => make("div", {}, make("dt", { textContent: word }), make("dd", { textContent: value })))));
    const toggle = make("button", { type: "button", textContent: selected[i] ? "Take out of the selection" : "Select" });
    toggle.addEventListener("click", () => choose([i], "toggle"));
    box.append(make("div", { className: "do" }, toggle, ...(desk ? [labelButton("Label it", () => [i])] : []), ...(i < numOutliers ? [make("a", { href: `#rank-${MAP.rank[i]}`, textContent: "Go to its card" })] : [])));
    if (goes) {
      settle();
      if (Number.isNaN(x[i])) tell(`${MAP.object_id[i]} has no position on the sky`);
      else Object.assign(view, { x: x[i], y: y[i], scale: Math.max(view.scale, whole().scale * 2.5) });
    }
  }
  redraw();
};
const openCard = (i) => {
  if (i < 0 || i >= numOutliers) return;
  goTo(`#rank-${MAP.rank[i]}`);
};
const point = (i, px, py) => {
  if (i !== over) { over = i; redraw(); }
  canvas.classList.toggle("over", i >= 0);
  if (i < 0) { hover.hidden = true; return; }
  const box = canvas.getBoundingClientRect();
  showHover(label(i), addressOf(i), { right: box.left + px, top: box.top + py });
};
const find = (text, next) => {
  const asked = text.trim().toLowerCase();
  if (!next) {
    const found = asked && MAP.object_id.flatMap((id, i) => id.toLowerCase().includes(asked) || String(MAP.rank[i]) === asked ? [i] : []);
    const isExact = (i) => MAP.object_id[i].toLowerCase() === asked || String(MAP.rank[i]) === asked;
    matches = found ? [...found.filter(isExact), ...found.filter((i) => !isExact(i))] : [];
  } else matches.push(matches.shift());
  if (!asked) tell(""); else if (!matches.length) tell(`none of the ${total.toLocaleString("en")} objects on the map has this id or rank`);
  else { tell(`${matches.length.toLocaleString("en")} found${matches.length > 1 ? "; Enter shows the next one" : ""}`); pin(matches[0], true); }
};

// ---- many objects

const choose = (list, how) => {
  if (how === "new") selected.fill(0);
  for (const i of list) selected[i] = how === "toggle" ? 1 - selected[i] : 1;
  const rows = chosenOnes(), color = byId("map-color").value;
  const shown = [MAP.scores[0], ...MAP.scores.slice(1).filter((score) => score.name === color)], hasSky = "sky" in MAP.layouts, parts = partsBy(color);
  const listed = rows.slice(0, SHOWN_ROWS), hasPictures = listed.some(addressOf);
  byId("map-gallery").replaceChildren(...listed.map((i) => {
    const picture = addressOf(i) ? make("img", { src: addressOf(i), alt: `Picture of ${MAP.object_id[i]}`, loading: "lazy", onerror: (event) => event.target.replaceWith(make("span", { className: "picture none" })) }) : make("span", { className: "picture none" });
    const one = make("button", { type: "button", title: label(i), style: parts ? `border-bottom-color:${colors[bin[i]]}` : "" }, picture, make("span", { className: "end", textContent: MAP.rank[i].toLocaleString("en") }));
    one.dataset.i = i;
    one.addEventListener("click", () => { pin(i, true); frameOf.scrollIntoView({ block: "nearest" }); });
    return one;
  }));
  const showsPictures = hasPictures && (asPictures ?? 2 * listed.filter(addressOf).length >= listed.length);
  byId("map-as").hidden = !hasPictures;
  byId("map-selected").classList.toggle("as-pictures", showsPictures);
  $("[data-as]").forEach((one) => one.setAttribute("aria-pressed", String((one.dataset.as === "pictures") === showsPictures)));
  byId("map-selected").hidden = !rows.length;
  byId("map-count").textContent = rows.length.toLocaleString("en");
  byId("map-head").replaceChildren(make("tr", {}, ...(hasPictures ? [make("th", { textContent: "Picture" })] : []), make("th", { className: "number", textContent: "Rank" }), make("th", { className: "name", textContent: "Object" }), ...(parts ? [make("th", { textContent: parts.words })] : []), ...shown.map((score) => make("th", { className: "number", textContent: score.words })), ...(hasSky ? ["RA, deg", "Dec, deg"].map((text) => make("th", { className: "number", textContent: text })) : [])));
  byId("map-rows").replaceChildren(...listed.map((i) => {
    const go = make("button", { type: "button", textContent: MAP.object_id[i], title: "Show it on the map" });
    go.addEventListener("click", () => { pin(i, true); frameOf.scrollIntoView({ block: "nearest" }); });
    const cells = shown.map((score) => number(score.values[i])).concat(hasSky ? [MAP.ra, MAP.dec].map((column) => column[i] === null ? "–" : column[i].toFixed(5)) : []);
    return make("tr", {}, ...(hasPictures ? [make("td", {}, ...(addressOf(i) ? [make("img", { src: addressOf(i), alt: "", loading: "lazy" })] : []))] : []), make("td", { className: "number", textContent: MAP.rank[i].toLocaleString("en") }), make("td", { className: "name" }, go), ...(parts ? [make("td", { textContent: parts.values[parts.value_of[i]] ?? "–" })] : []), ...cells.map((textContent) => make("td", { className: "number", textContent })));
  }));
  byId("map-more").textContent = rows.length > SHOWN_ROWS ? `The first ${SHOWN_ROWS} by rank are shown; the CSV has all.` : "";
  tellHost(rows.map((i) => MAP.object_id[i]));
  if (pinned >= 0) pin(pinned); else redraw();
};
const within = (path) => {
  project();
  const inside = (px, py) => path.reduce((is, [x1, y1], k) => { const [x0, y0] = path.at(k - 1); return (y0 > py) !== (y1 > py) && px < (x0 - x1) * (py - y1) / (y0 - y1) + x1 ? !is : is; }, false);
  return all().filter((i) => inside(sx[i], sy[i]));
};
const csv = () => {
  const cell = (value) => value === null ? "" : value === Infinity ? "inf" : /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  const columns = { object_id: MAP.object_id, ra: MAP.ra, dec: MAP.dec, rank: MAP.rank, ...Object.fromEntries(MAP.scores.map((score) => [score.name, score.values])), ...Object.fromEntries(MAP.groups.map((group) => [group.name, group.value_of.map((value) => group.values[value] ?? null)])) };
  const rows = all().filter((i) => selected[i]).map((i) => Object.values(columns).map((column) => cell(column[i])).join(","));
  return `${[Object.keys(columns).join(","), ...rows].join("\r\n")}\r\n`;
};

// ---- pointers and keys

const spot = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  pointers.set(event.pointerId, spot(event)); canvas.setPointerCapture(event.pointerId); canvas.focus({ preventScroll: true });
  const kind = event.shiftKey && drag === "move" ? "box" : drag;
  gesture = pointers.size > 1 ? { kind: "pinch" } : { kind, from: spot(event), last: spot(event), moved: false };
});
canvas.addEventListener("pointermove", (event) => {
  const [px, py] = spot(event);
  if (!pointers.has(event.pointerId)) { point(pick(px, py), px, py); return; }
  const before = [...pointers.values()].map((p) => [...p]);
  pointers.set(event.pointerId, [px, py]);
  if (gesture.kind === "pinch") {
    const after = [...pointers.values()], length = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1, middle = ([a, b], c) => (a[c] + b[c]) / 2;
    if (after.length > 1) { view.x -= (middle(after, 0) - middle(before, 0)) / view.scale; view.y += (middle(after, 1) - middle(before, 1)) / view.scale; zoomBy(length(after) / length(before), middle(after, 0), middle(after, 1)); }
    return;
  }
  if (!gesture.moved && Math.hypot(px - gesture.from[0], py - gesture.from[1]) < 4) return;
  gesture.moved = true; hover.hidden = true; over = -1; settle();
  if (gesture.kind === "move") { view.x -= (px - gesture.last[0]) / view.scale; view.y += (py - gesture.last[1]) / view.scale; }
  else if (gesture.kind === "box") { const [a, b] = gesture.from; gesture.path = [[a, b], [px, b], [px, py], [a, py]]; }
  else (gesture.path ||= [gesture.from]).push([px, py]);
  gesture.last = [px, py];
  redraw();
});
canvas.addEventListener("pointerup", (event) => {
  const done = gesture;
  pointers.delete(event.pointerId);
  if (pointers.size) return;
  gesture = null;
  if (done?.path) choose(within(done.path), event.shiftKey && drag !== "move" ? "more" : "new");
  else if (done && !done.moved && done.kind !== "pinch") {
    const i = pick(...spot(event));
    if (i >= 0 && event.shiftKey) choose([i], "toggle"); else if (i >= 0 && i === pinned) openCard(i); else pin(i);
  }
  redraw();
});
canvas.addEventListener("pointercancel", (event) => { pointers.delete(event.pointerId); gesture = null; redraw(); });
canvas.addEventListener("pointerleave", () => point(-1));
canvas.addEventListener("blur", () => point(-1));
canvas.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls on until the map is chosen
  event.preventDefault(); settle();
  zoomBy(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 120) / 400), ...spot(event));
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key], step = { n: 1, p: -1 }[event.key];
  if (by) { settle(); view.x += by[0] * 60 / view.scale; view.y += by[1] * 60 / view.scale; redraw(); }
  else if (event.key === "+" || event.key === "=") zoomBy(1.5); else if (event.key === "-") zoomBy(1 / 1.5); else if (event.key === "0") zoomBy(0);
  else if (step && numOutliers) pin(pinned < 0 || pinned >= numOutliers ? (step > 0 ? 0 : numOutliers - 1) : (pinned + step + numOutliers) % numOutliers, true);
  else if (event.key === "Enter") openCard(pinned); else if (event.key === " " && pinned >= 0) choose([pinned], "toggle");
  else if (event.key === "l" && desk) sendToDesk(chosenOnes().length ? chosenOnes() : [pinned]);
  else if (event.key === "a") { project(); choose(all().filter(inView), "new"); }
  else if (event.key === "Escape") { if (selected.includes(1)) choose([], "new"); else pin(-1); }
  else return;
  event.preventDefault();
});
$("[data-drag]").forEach((button) => button.addEventListener("click", () => {
  drag = button.dataset.drag; canvas.classList.toggle("draws", drag !== "move");
  $("[data-drag]").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
}));
$("[data-zoom]").forEach((button) => button.addEventListener("click", () => { settle(); zoomBy(Number(button.dataset.zoom)); }));
byId("map-layout").addEventListener("change", (event) => setLayout(event.target.value));
byId("map-color").addEventListener("change", (event) => { setColor(event.target.value); choose([], "more"); if (desk) refreshSaid(); });
$("[data-as]").forEach((button) => button.addEventListener("click", () => {
  asPictures = button.dataset.as === "pictures"; choose([], "more");
}));
byId("map-pictures")?.addEventListener("change", redraw);
byId("map-find").addEventListener("input", (event) => find(event.target.value, false));
byId("map-find").addEventListener("keydown", (event) => { if (event.key === "Enter" && matches.length) find(event.target.value, true); });
byId("map-clear").addEventListener("click", () => choose([], "new"));
byId("map-save").addEventListener("click", () => {
  const link = make("a", { download: "selected.csv", href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })) });
  link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
byId("map-copy").hidden = !navigator.clipboard;
byId("map-copy").addEventListener("click", async () => {
  const ids = chosenOnes().map((i) => MAP.object_id[i]);
  await navigator.clipboard.writeText(ids.join("\n")); tell(`${ids.length.toLocaleString("en")} copied`);
});
cards.forEach((card) => {
  const i = indexOf.get(card.dataset.id);
  if (i === undefined) return;
  const show = make("button", { type: "button", className: "on-map", textContent: "On the map" });
  show.addEventListener("click", () => { pin(i, true); frameOf.scrollIntoView({ block: "center" }); canvas.focus({ preventScroll: true }); });
  card.querySelector(".facts").append(show);
});

byId("map").querySelector(".map-plain").classList.add("printed");
byId("map").querySelector(".map-view").hidden = false;
[x, y].forEach((axis, k) => axis.set(places(layout)[k]));
new ResizeObserver(() => {
  const wasWhole = size.w === 1 || Math.abs(view.scale / whole().scale - 1) < 1e-6, ratio = devicePixelRatio || 1;
  size = { w: canvas.clientWidth, h: canvas.clientHeight };
  canvas.width = Math.round(size.w * ratio); canvas.height = Math.round(size.h * ratio);
  if (wasWhole) Object.assign(view, whole());
  redraw();
}).observe(canvas);
$(".map-note").forEach((note) => { note.hidden = note.dataset.note !== layout; });
if (desk) joinDesk();
setColor("outlier_score"); choose([], "new"); pin(0);
