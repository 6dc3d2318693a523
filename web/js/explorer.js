// Shows the page that Concept Explorer wrote on its node. Without this script the file is still there.

import { api } from "../../../scripts/api.js";
import { showOutputs } from "./outputs.js";

const NODE = "ConceptAttentionExplorer";
const SIZE = [560, 720];
const LEAST_HEIGHT = 480;
const MARGIN = 10; // what the classic canvas leaves on each side of a frame
const CLASS = "conceptattention-explorer";

async function show(node, files) {
  if (!files?.length || !node.addDOMWidget) return;
  const answer = await api.fetchApi(`/view?${new URLSearchParams(files[0])}`);
  if (!answer.ok) return; // for instance somebody deleted the file
  const frame = node.conceptExplorer ?? add(node);
  // ComfyUI serves HTML as a download, so the page goes in as text. Its sandbox has an origin of
  // its own: a page can never reach ComfyUI.
  const text = await answer.text();
  if (frame.srcdoc !== text) frame.srcdoc = text; // else what a person chose there stays
}

function add(node) {
  const frame = document.createElement("iframe");
  frame.title = "Concept Explorer";
  frame.className = CLASS;
  frame.setAttribute("sandbox", "allow-scripts allow-downloads");
  // Nodes 2.0 asks the style for the least height, the classic canvas asks the widget.
  frame.style.cssText =
    `width: 100%; height: 100%; min-height: ${LEAST_HEIGHT}px; border: 0; border-radius: 4px`;
  node.addDOMWidget("explorer", "iframe", frame, {
    serialize: false,
    hideOnZoom: false, // a picture, like those that ComfyUI shows from far away
    getMinHeight: () => LEAST_HEIGHT + 2 * MARGIN,
  });
  node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])]);
  node.conceptExplorer = frame;
  return frame;
}

// A frame with an origin of its own keeps the pointer, even from who captured it. Whoever drags
// something over the canvas, a link for instance, would lose it there: until it is let go, frames
// are out of the way.
for (const [kind, takes] of [["pointerdown", "none"], ["pointerup", ""], ["pointercancel", ""]]) {
  const tell = frame => (frame.style.pointerEvents = takes);
  window.addEventListener(kind, () => document.querySelectorAll(`.${CLASS}`).forEach(tell), true);
}

showOutputs("conceptattention.explorer", kind => kind === NODE, (node, output) => show(node, output?.explorer));
