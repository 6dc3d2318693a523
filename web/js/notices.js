// Shows what a node has to say on the node: notices, scores, the name of a file. It stays until the
// node runs again. (ComfyUI's own text of a running node goes when the run ends.)

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { findNode, showOutputs } from "./outputs.js";

const OURS = /^ConceptAttention/;
const LINE = 18; // pixels
const CHARACTER = 6.5; // pixels, of the font below, on average
const MOST_LINES = 14; // then the text scrolls
const MARGIN = 10; // what the classic canvas leaves on each side of an element

function show(node, lines) {
  const text = (lines ?? []).join("\n").trim();
  const box = node.conceptText ?? (text && node.addDOMWidget ? add(node) : null);
  if (!box || box.textContent === text) return;
  box.textContent = text;
  box.style.display = text ? "" : "none";
  box.style.minHeight = `${height(node, text)}px`; // Nodes 2.0 asks the style
  const [, least] = node.computeSize();
  node.setSize([node.size[0], Math.max(node.size[1], least)]);
  app.graph?.setDirtyCanvas(true, true);
}

function add(node) {
  const box = document.createElement("div");
  box.className = "conceptattention-text";
  box.setAttribute("role", "status");
  box.style.cssText = `overflow: auto; white-space: pre-wrap; box-sizing: border-box; padding: 4px 8px;
    font: 12px/${LINE}px sans-serif; border-radius: 4px; border-left: 3px solid #d8a13c;
    color: var(--input-text); background: var(--comfy-input-bg); user-select: text`;
  // of a kind of its own: Nodes 2.0 would make a "text" a field of its own
  const widget = node.addDOMWidget("notice", "notice", box, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => (box.textContent ? height(node, box.textContent) + 2 * MARGIN : 0),
    getMaxHeight: () => (box.textContent ? height(node, box.textContent) + 2 * MARGIN : 0),
  });
  widget.serialize = false; // neither in the prompt nor in a saved workflow
  node.conceptText = box;
  return box;
}

function height(node, text) {
  const most = Math.max(20, Math.floor((node.size[0] - 5 * MARGIN) / CHARACTER));
  const lines = text.split("\n").map(line => Math.max(1, Math.ceil(line.length / most)));
  return Math.min(MOST_LINES, lines.reduce((sum, count) => sum + count, 0)) * LINE + 8;
}

// A node that runs again may have nothing to say this time; one that is cached keeps its text.
api.addEventListener("executing", ({ detail }) => {
  const node = detail == null ? null : findNode(detail?.node ?? detail);
  if (node?.conceptText) show(node, []);
});

showOutputs("conceptattention.text", kind => OURS.test(kind), (node, output) => show(node, output?.text));
