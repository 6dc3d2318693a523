"""The pack as its users meet it: on ComfyUI's page, in a browser."""

from ..comfyui.browser import command, open_help, wait_for_nodes
from ..comfyui.graphs import WORKFLOWS

FIRST = WORKFLOWS / "first_masks.json"


def test_the_template_browser_opens_it_and_a_node_explains_itself(page):
    command(page, "Comfy.BrowseTemplates")
    page.get_by_text("conceptattention", exact=True).last.click()
    template = page.get_by_test_id("template-workflow-first_masks")
    template.wait_for()
    thumbnail = template.locator("img").first
    # Ours; the page has a drawing of another size for templates without one.
    page.wait_for_function("image => image.naturalWidth === 640", arg=thumbnail.element_handle())
    thumbnail.click()
    wait_for_nodes(page, FIRST)

    open_help(page, "ConceptAttentionRecord")
    help_page = page.get_by_text("Put it between the model loader and the sampler")
    help_page.wait_for()
    assert help_page.is_visible()


def test_every_node_has_a_help_page(server):
    ours = {
        name: info["display_name"]
        for name, info in server.object_info().items()
        if info["python_module"] == "custom_nodes.conceptattention"
    }
    assert len(ours) >= 6
    for name, title in ours.items():
        text = server.get(f"/extensions/conceptattention/docs/{name}.md").decode()
        assert text.startswith(f"# {title}\n")
        assert len(text) > 200
