// What several of our scripts do with ComfyUI's page: find a node, and show what nodes give out.

import { app } from "../../../scripts/app.js";

/** A node by the name that ComfyUI has for it: "3", or the way to it through subgraphs, "5:3".
 *  Outputs are kept by the subgraph's own name in place of the node that stands for it. */
export function findNode(name) {
  const path = String(name).split(":");
  const root = app.rootGraph ?? app.graph;
  let graph = root;
  for (const part of path.slice(0, -1)) {
    graph = root.subgraphs?.get(part) ?? graph?.getNodeById(part)?.subgraph;
  }
  return graph?.getNodeById(path.at(-1));
}

/** Call `show(node, output)` whenever a node of the kinds that `isOurs` names has an output. */
export function showOutputs(name, isOurs, show) {
  app.registerExtension({
    name,
    beforeRegisterNodeDef(nodeType, nodeData) {
      if (!isOurs(nodeData.name)) return;
      const earlier = nodeType.prototype.onExecuted;
      nodeType.prototype.onExecuted = function (output) {
        earlier?.apply(this, arguments);
        show(this, output);
      };
    },
    // Nodes are made anew when a person undoes something or comes back from another workflow.
    onNodeOutputsUpdated(outputs) {
      for (const [place, output] of Object.entries(outputs)) {
        const node = findNode(place);
        if (node && isOurs(node.type)) show(node, output);
      }
    },
  });
}
