const $ = (query, root = document) => [...root.querySelectorAll(query)];
const byId = (id) => document.getElementById(id);
const make = (tag, facts = {}, ...children) => { const one = Object.assign(document.createElement(tag), facts); one.append(...children); return one; };
const style = getComputedStyle(document.documentElement), css = (name) => style.getPropertyValue(name).trim();
const source = (key) => byId(key).getAttribute("href");
const cards = $(".card"), more = $("details.more", byId("outliers") || document.createElement("p"))[0];
$(".tools").forEach((tools) => { tools.hidden = false; });

const filter = byId("filter"), sort = byId("sort"), copy = byId("copy");
if (filter) filter.addEventListener("input", () => {
  const text = filter.value.trim().toLowerCase();
  if (text && more) more.open = true;
  cards.forEach((card) => { card.hidden = text !== "" && card.dataset.rank !== text && !card.dataset.id.toLowerCase().includes(text); });
});
if (sort) sort.addEventListener("change", () => {
  const value = (card) => card.dataset[sort.value] ? Number(card.dataset[sort.value]) : -Infinity;
  const sign = sort.value === "rank" || sort.value === "ra" ? 1 : -1;
  const ordered = [...cards].sort((a, b) => sign * (value(a) - value(b)) || a.dataset.rank - b.dataset.rank);
  const boxes = $("#outliers .cards");
  ordered.forEach((card, i) => boxes[i < 24 ? 0 : 1].append(card));
  const score = sort.selectedOptions[0].dataset.score;
  $(".other").forEach((line) => {
    const number = value(line.closest(".card"));
    line.hidden = !score;
    line.textContent = `${score} ${number === -Infinity ? "–" : number === Infinity ? "∞" : number.toPrecision(4)}`;
  });
  if (more) { more.querySelector("summary").textContent = sort.value === "rank" ? `Ranks 25 to ${cards.length}` : `The other ${cards.length - 24}`; }
});
if (copy) copy.hidden = !navigator.clipboard;
if (copy) copy.addEventListener("click", async () => {
  const shown = cards.filter((card) => !card.hidden).sort((a, b) => a.dataset.rank - b.dataset.rank);
  const lines = shown.map((card) => [card.dataset.id, card.dataset.ra, card.dataset.dec].join("\t").trimEnd());
  await navigator.clipboard.writeText(lines.join("\n"));
  byId("told").textContent = `${lines.length} copied`;
});
const isFramed = location.protocol === "about:"; // in a notebook's cell, where what follows a # leads nowhere by itself
const reveal = (hash = location.hash) => {
  const target = hash.startsWith("#rank-") && byId(hash.slice(1));
  if (!target) return;
  target.hidden = false;
  if (more && more.contains(target)) more.open = true;
  target.scrollIntoView({ block: "center" });
};
const goTo = (hash) => { if (isFramed || location.hash === hash) { byId(hash.slice(1))?.scrollIntoView(); reveal(hash); } else location.hash = hash; };
addEventListener("hashchange", () => reveal()); reveal();
if (isFramed) document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (link) { event.preventDefault(); goTo(link.getAttribute("href")); }
});

const light = byId("light"), pictures = $("svg.picture");
let current = 0;
const show = (i) => {
  current = (i + pictures.length) % pictures.length;
  const label = pictures[current].dataset.label;
  byId("large").src = source(pictures[current].dataset.picture);
  byId("large").alt = pictures[current].getAttribute("aria-label");
  byId("caption").textContent = label;
  if (!light.open) light.showModal();
};
pictures.forEach((picture, i) => {
  if (picture.closest("a")) return;
  picture.tabIndex = 0; picture.setAttribute("role", "button");
  picture.addEventListener("click", () => show(i));
  picture.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(i); } });
});
light.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) show(current + step);
});
light.addEventListener("click", (event) => {
  const step = event.target.dataset.step;
  if (step === "0" || event.target === light) light.close(); else if (step) show(current + Number(step));
});

const hover = byId("hover");
const showHover = (label, address, box) => {
  hover.replaceChildren();
  if (address) hover.append(make("img", { src: address, alt: "", onerror: (event) => event.target.remove() }));
  hover.append(label); hover.hidden = false;
  hover.style.left = `${Math.min(box.right + 10, innerWidth - 160)}px`;
  hover.style.top = `${Math.max(8, Math.min(box.top - 60, innerHeight - 200))}px`;
};
$("circle[data-label]").forEach((circle) => {
  $("title", circle).forEach((title) => title.remove());
  const open = () => showHover(circle.dataset.label, circle.dataset.picture && source(circle.dataset.picture), circle.getBoundingClientRect());
  const owner = circle.closest("a") || circle;
  if (owner !== circle) owner.setAttribute("aria-label", circle.dataset.label);
  owner.addEventListener("pointerenter", open); owner.addEventListener("focus", open);
  owner.addEventListener("pointerleave", () => { hover.hidden = true; }); owner.addEventListener("blur", () => { hover.hidden = true; });
});
