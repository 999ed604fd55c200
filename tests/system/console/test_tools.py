"""The page of tools in a browser, and holds from there: live, by keys, in the dark, on a phone."""

import pytest

from app.console.pages import tools
from benchmarks.servers import execute
from devstack.stack import Dsns
from tests.support.calls import accept, delete, fetch
from tests.system.console.conftest import Desk, Scheme, accessible, picture
from tests.tenancy.theirs import fill


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_of_tools_meets_wcag_2_2_aa(desk: Desk, scheme: Scheme) -> None:
    await fill(desk.broker)
    async with desk.page(scheme=scheme) as page:
        await page.goto(f"{desk.url}/console/tools")
        await page.get_by_role("heading", name="Grants").wait_for()
        await accessible(page)
        await picture(page, f"tools-{scheme}")
        await page.set_viewport_size({"width": 320, "height": 640})
        await accessible(page)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320
    assert desk.complaints == []


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_tenant_without_tools_is_told_how_it_gets_some(
    desk: Desk, database: Dsns, scheme: Scheme
) -> None:
    await execute(database.owner, "DELETE FROM grants WHERE tenant_id = 'other'")
    desk.broker.catalog.forget()
    async with desk.page("eve", tenant="other", scheme=scheme) as page:
        await page.goto(f"{desk.url}/console/tools")
        for empty in ("No tools.", "No targets.", "No grants."):
            await page.get_by_text(empty).wait_for()
        await accessible(page)
    assert desk.complaints == []


async def test_figures_and_holds_show_without_a_reload(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "EVERY_S", 0.1)
    async with desk.page() as page, desk.page("oskar", "operator") as beside:
        await beside.goto(f"{desk.url}/console/tools")
        await beside.locator("body[data-followed]").wait_for()
        await accept(desk.broker, delete("x"))
        await beside.locator("dd", has_text="1 of").first.wait_for()
        await page.goto(f"{desk.url}/console/tools/hold?tool=git/delete")
        await page.get_by_role("button", name="Preview…").click()
        await page.get_by_label("Reason").fill("mending")
        await page.get_by_role("button", name="Hold", exact=True).click()
        await page.get_by_role("heading", name="The hold is in force").wait_for()
        await beside.get_by_role("heading", name="Holds in force").wait_for()
        await beside.get_by_text("mending").wait_for()
    assert desk.complaints == []


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_hold_is_placed_and_released_by_keys_and_its_pages_meet_wcag_2_2_aa(
    desk: Desk, database: Dsns, scheme: Scheme
) -> None:
    await accept(desk.broker, delete("x"))
    async with desk.page(scheme=scheme) as page:
        await page.goto(f"{desk.url}/console/tools")
        await page.get_by_role("link", name="Hold git/delete").focus()
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Hold calls").wait_for()
        await accessible(page)
        await page.get_by_label("Argument, a JSON Pointer").fill("name")
        await page.get_by_label("Ends by itself, UTC").fill("2099-01-31T09:00:00")
        await page.keyboard.press("Enter")
        await page.get_by_role("alert").wait_for()
        await accessible(page)
        await page.get_by_label("Argument, a JSON Pointer").fill("")
        await page.get_by_label("are refused").check()
        await page.keyboard.press("Enter")
        await page.get_by_text("nothing is held yet").wait_for()
        await accessible(page)
        await picture(page, f"hold-{scheme}")
        await page.get_by_label("Reason").fill("<b>the cutover</b>")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="The hold is in force").wait_for()
        await accessible(page)
        await page.get_by_role("link", name="Back to the tools").click()
        await page.get_by_text("<b>the cutover</b>").wait_for()
        await accessible(page)
        await page.get_by_role("button", name="Release the hold").focus()
        await page.keyboard.press("Enter")
        await page.get_by_text("it is in force yet").wait_for()
        await accessible(page)
        await page.get_by_label("Reason").fill("done")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/console/tools")
        assert await page.get_by_role("heading", name="Holds in force").count() == 0
        await page.set_viewport_size({"width": 320, "height": 640})
        await page.goto(f"{desk.url}/console/tools/hold")
        await accessible(page)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320
    [row] = await fetch(database.owner, "SELECT * FROM holds")
    assert (row["effect"], row["released_by"]) == ("refuse", "operator:olga")
    assert len([one for one in desk.complaints if "422" not in one and "400" not in one]) == 0
