"""How well the words of a page stand out from what is behind them, by WCAG 2.2 (1.4.3)."""

from typing import Any

from tests.browser import Page

__all__ = ["faint_words"]

SCRIPT = """
(() => {
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (color) => {  // any CSS color, color-mix too, as the browser paints it
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = color;
    pixel.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const light = (color) => {
    const part = color.map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      layers.unshift(parse(getComputedStyle(one).backgroundColor));
    }
    const canvas = getComputedStyle(document.documentElement).colorScheme.includes("dark")
      && !matchMedia("print").matches ? [18, 18, 18] : [255, 255, 255];
    return layers.reduce((below, layer) => over(layer, below), canvas);
  };
  const words = [];
  const look = (element, text, pseudo) => {
    const style = getComputedStyle(element, pseudo);
    const isSvg = element instanceof SVGElement;
    let opacity = 1;
    for (let one = element; one; one = one.parentElement) opacity *= +getComputedStyle(one).opacity;
    const color = parse(isSvg ? style.fill : style.color);
    color[3] *= opacity;
    const back = behind(isSvg ? element.closest("svg") : element);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    const found = ratio(light(over(color, back)), light(back));
    words.push({ text: text.trim().slice(0, 40), found, needed: isLarge ? 3 : 4.5,
      where: element.tagName.toLowerCase() + (element.id ? "#" + element.id : "")
        + [...element.classList].map((name) => "." + name).join(""),
      color: style.color, back: back.map(Math.round).join() });
  };
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true })
    && !element.closest("option, :disabled, .visually-hidden");
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const parent = walk.currentNode.parentElement;
    if (walk.currentNode.data.trim() && isShown(parent)) look(parent, walk.currentNode.data);
  }
  for (const field of document.querySelectorAll("input[placeholder]")) {
    if (isShown(field)) look(field, field.placeholder, "::placeholder");
  }
  return words;
})()
"""


async def faint_words(page: Page) -> tuple[int, list[dict[str, Any]]]:
    """How many pieces of text a page shows, and those whose contrast is below what AA asks.

    That is 4.5, and 3 for large text: 24 px, or 18.66 px in bold.
    """
    words = await page.value(SCRIPT)
    assert words is not None
    return len(words), [word for word in words if word["found"] < word["needed"]]
