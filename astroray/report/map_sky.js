// The grid of the sky under the map: its projection as sky_view.py has it, its lines closer as one zooms in.
const RAD = Math.PI / 180, LINE_POINTS = 60, SKY = MAP.sky;
const toPlane = (away, dec) => { // deg east of the middle, deg north: deg to the west and north; null where it is not on the plane
  if (SKY.kind === "MOL") {
    let g = dec * RAD;
    for (let i = 0; i < 12 && Math.abs(dec) < 89.99; i++) g -= (2 * g + Math.sin(2 * g) - Math.PI * Math.sin(dec * RAD)) / (2 + 2 * Math.cos(2 * g));
    return [-2 * Math.SQRT2 / Math.PI * away * Math.cos(g), Math.SQRT2 / RAD * Math.sin(g)];
  }
  const [a, d, d0] = [away * RAD, dec * RAD, SKY.dec_deg * RAD], depth = Math.sin(d0) * Math.sin(d) + Math.cos(d0) * Math.cos(d) * Math.cos(a);
  return depth < 0.02 ? null : [-Math.cos(d) * Math.sin(a) / depth / RAD, (Math.cos(d0) * Math.sin(d) - Math.sin(d0) * Math.cos(d) * Math.cos(a)) / depth / RAD];
};
const fromPlane = (west, north) => { // the other way round
  if (SKY.kind === "MOL") {
    const sine = north * RAD / Math.SQRT2, g = Math.asin(sine), away = -west * Math.PI / (2 * Math.SQRT2 * Math.cos(g));
    return Math.abs(sine) <= 1 && Math.abs(away) <= 180 ? [away, Math.asin((2 * g + Math.sin(2 * g)) / Math.PI) / RAD] : null;
  }
  const [e, n, d0] = [-west * RAD, north * RAD, SKY.dec_deg * RAD], far = Math.hypot(e, n) || 1e-12, c = Math.atan(far);
  return [Math.atan2(e * Math.sin(c), far * Math.cos(d0) * Math.cos(c) - n * Math.sin(d0) * Math.sin(c)) / RAD, Math.asin(Math.cos(c) * Math.sin(d0) + n * Math.sin(c) * Math.cos(d0) / far) / RAD];
};
const toPixel = (away, dec) => {
  const spot = toPlane(away, dec);
  return spot && [size.w / 2 + ((spot[0] - SKY.low[0]) * SKY.unit - view.x) * view.scale, size.h / 2 - ((spot[1] - SKY.low[1]) * SKY.unit - view.y) * view.scale];
};
const fromPixel = (px, py) => fromPlane(((px - size.w / 2) / view.scale + view.x) / SKY.unit + SKY.low[0], ((size.h / 2 - py) / view.scale + view.y) / SKY.unit + SKY.low[1]);
const isInside = (spot) => spot && spot[0] >= 0 && spot[1] >= 0 && spot[0] <= size.w && spot[1] <= size.h;
const roundStep = (deg) => {
  if (deg > 7) return [10, 15, 30, 45, 60, 90].find((step) => step >= deg) || 90;
  const power = 10 ** Math.floor(Math.log10(deg));
  return [1, 2, 5, 10].find((step) => step * power >= deg * 0.999) * power;
};
const edgesInView = () => { // least and greatest [away, dec] that can be seen; null where there is no sky
  const seen = [];
  for (let a = 0; a <= 16; a++) for (let b = 0; b <= 16; b++) { const spot = fromPixel(a * size.w / 16, b * size.h / 16); if (spot) seen.push(spot); }
  if (!seen.length) return null;
  const edges = [0, 1].map((k) => [Math.min(...seen.map((spot) => spot[k])), Math.max(...seen.map((spot) => spot[k]))]);
  for (const pole of [-90, 90]) if (isInside(toPixel(0, pole))) { edges[0] = [-180, 180]; edges[1][pole < 0 ? 0 : 1] = pole; }
  return edges;
};
const gridLines = () => { // those in view: {kind, deg, text, spots}, spots in pixels
  const edges = edgesInView();
  if (!edges) return [];
  return ["ra", "dec"].flatMap((kind, k) => {
    const [low, high] = edges[k], [from, to] = edges[1 - k], zero = kind === "ra" ? SKY.ra_deg : 0, lines = [];
    const step = roundStep((high - low) / 6), digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
    for (let deg = Math.ceil((low + zero) / step - 1e-9) * step; deg <= high + zero + 1e-9 && lines.length < 40; deg += step) {
      if (kind === "dec" && Math.abs(deg) > 89.999 || kind === "ra" && deg - zero >= 180 - 1e-9) continue;
      const spots = Array.from({ length: LINE_POINTS + 1 }, (_, i) => { const along = from + i / LINE_POINTS * (to - from); return kind === "ra" ? toPixel(deg - zero, along) : toPixel(along, deg); });
      const shown = kind === "ra" ? ((deg % 360) + 360) % 360 : deg;
      lines.push({ kind, deg: shown, spots, text: `${kind === "dec" && shown > 0 ? "+" : ""}${shown.toFixed(digits).replace("-", "−")}°` });
    }
    return lines;
  });
};
const nameSpot = ({ kind, spots }) => { // declinations stand at the left, right ascensions at the foot, of the whole sky on the equator
  const equator = SKY.kind === "MOL" ? toPixel(0, 0)[1] : size.h, foot = Math.min(Math.max(equator, 20), size.h - 12);
  const far = ([px, py]) => kind === "dec" ? px : Math.abs(py - foot);
  const near = spots.filter((spot) => spot && spot[0] > 2 && spot[0] < size.w - 40 && spot[1] > 14 && spot[1] < size.h - 4).sort((a, b) => far(a) - far(b))[0];
  return near && (kind === "dec" || far(near) < size.h / 8) ? near : null;
};
const strokeSpots = (spots) => {
  paint.beginPath();
  spots.forEach((spot, i) => { if (spot) paint[i && spots[i - 1] ? "lineTo" : "moveTo"](...spot); });
  paint.stroke();
};
const drawGraticule = () => { // the lines at once; gives what writes their names, above the objects
  const lines = gridLines(), put = [];
  paint.globalAlpha = 1; paint.strokeStyle = css("--line"); paint.lineWidth = 1;
  lines.forEach(({ spots }) => strokeSpots(spots));
  if (SKY.kind === "MOL") for (const away of [-180, 180]) strokeSpots(Array.from({ length: 121 }, (_, i) => toPixel(away, -90 + 1.5 * i)));
  for (const line of lines) {
    const spot = nameSpot(line);
    if (spot && !put.some((one) => Math.abs(one.x - spot[0]) < 46 && Math.abs(one.y - spot[1]) < 16)) put.push({ kind: line.kind, deg: line.deg, text: line.text, x: spot[0], y: spot[1] });
  }
  canvas.dataset.sky = JSON.stringify(put);
  return () => {
    const [cx, cy] = [size.w - 18, size.h - 18];
    paint.globalAlpha = 1; paint.font = "12px sans-serif"; paint.lineWidth = 4; paint.lineJoin = "round"; paint.strokeStyle = css("--panel"); paint.fillStyle = css("--muted");
    const words = [...put.map((one) => [one.text, one.x + 4, one.y - 4]), ["N", cx - 4, cy - 34], ["E", cx - 44, cy + 4]];
    for (const word of words) { paint.strokeText(...word); paint.fillText(...word); }
    paint.strokeStyle = css("--muted"); paint.lineWidth = 1.4; strokeSpots([[cx, cy - 30], [cx, cy], [cx - 30, cy]]);
  };
};
