"""The page of an approval in a browser: where an MCP client sends its person."""

import pytest

from devstack.stack import Dsns
from tests.console.waiting import waits
from tests.support.calls import subject
from tests.system.console.conftest import Desk, Scheme, accessible


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_an_approval_is_given_by_keys_and_its_page_meets_wcag_2_2_aa(
    desk: Desk, database: Dsns, scheme: Scheme
) -> None:
    found = await waits(desk.broker, database)
    async with desk.page(scheme=scheme) as page:
        await page.goto(f"{desk.url}/console/approvals/{found.approval}")
        await page.get_by_role("heading", name="Your decision").wait_for()
        await accessible(page)
        await page.get_by_label("Reason").fill("it is in the plan")
        await page.get_by_role("button", name="Approve").focus()
        await page.keyboard.press("Enter")
        await page.locator(".notice", has_text="Approved.").wait_for()
        await accessible(page)
        await page.goto(f"{desk.url}/console/approvals/{found.approval}")
        await page.get_by_text("Nothing is left to decide").wait_for()
        await accessible(page)
    assert not (await subject(desk.broker, found.approval)).awaits_approval
    assert desk.complaints == []
