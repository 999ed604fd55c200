"""The page of tools in a browser: light, dark, on a phone."""

import pytest

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
