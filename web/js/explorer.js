// Shows the page that Concept Explorer wrote on its node. Without this script the file is still there.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const NODE = "ConceptAttentionExplorer";
const SIZE = [560, 720];

async function show(node, file) {
  const frame = node.conceptExplorer ?? add(node);
  const answer = await api.fetchApi(`/view?${new URLSearchParams(file)}`);
  // ComfyUI serves HTML as a download, so the page goes in as text. Its sandbox has an origin of
  // its own: a page can never reach ComfyUI.
  frame.srcdoc = await answer.text();
}

function add(node) {
  const frame = document.createElement("iframe");
  frame.title = "Concept Explorer";
  frame.setAttribute("sandbox", "allow-scripts allow-downloads");
  frame.style.cssText = "width: 100%; height: 100%; border: 0; border-radius: 4px";
  node.addDOMWidget("explorer", "iframe", frame, { serialize: false, getMinHeight: () => 480 });
  node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])]);
  node.conceptExplorer = frame;
  return frame;
}

app.registerExtension({
  name: "conceptattention.explorer",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const earlier = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      earlier?.apply(this, arguments);
      if (output?.explorer?.length) show(this, output.explorer[0]);
    };
  },
});
