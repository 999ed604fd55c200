"""The audit trail in a browser: searched, checked, downloaded; by keys, in the dark, on a phone."""

import pytest

from devstack.stack import Dsns
from tests.audit.conftest import open_log
from tests.console.test_audit import EVIL, tampered
from tests.support.calls import accept, echo
from tests.system.console.conftest import Desk, Scheme, accessible, picture
from tests.tenancy.theirs import fill


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_pages_of_the_audit_trail_meet_wcag_2_2_aa(
    desk: Desk, database: Dsns, scheme: Scheme
) -> None:
    base = f"{desk.url}/console/audit"
    await fill(desk.broker)
    await accept(desk.broker, echo(EVIL))
    async with desk.page("anna", "auditor", scheme=scheme) as page:
        await page.goto(f"{base}?person=ada")
        await page.get_by_role("heading", name="What ada did").wait_for()
        await page.locator("details summary").first.click()
        await accessible(page)
        await page.goto(base)
        await picture(page, f"audit-{scheme}")
        await page.get_by_role("button", name="Verify").click()
        await page.get_by_role("heading", name="Nothing is sealed yet").wait_for()
        await accessible(page)
        async with open_log(database) as log:
            await log.seal()
            await page.goto(base)
            await page.get_by_role("button", name="Verify").focus()
            await page.keyboard.press("Enter")
            await page.get_by_role("heading", name="The log is as it was sealed").wait_for()
            await accessible(page)
            await picture(page, f"audit-verified-{scheme}")
            async with page.expect_download() as download:
                await page.get_by_role("button", name="Download this part as a bundle").click()
            assert (await download.value).suggested_filename.endswith(".ndjson")
            await tampered(log)
            await page.goto(base)
            await page.get_by_role("button", name="Verify").click()
            await page.get_by_text("First bad place").wait_for()
            await accessible(page)
        for query in ("?tool=none", "?command=x"):
            await page.goto(f"{base}{query}")
            await accessible(page)
        assert await page.title() != "owned"
    assert [one for one in desk.complaints if "400" not in one] == []


@pytest.mark.parametrize("width", [320, 390])
async def test_the_audit_trail_fits_a_phone_and_400_percent(desk: Desk, width: int) -> None:
    await fill(desk.broker)
    size = {"width": width, "height": 640}
    async with desk.page("anna", "auditor", viewport=size) as page:
        await page.goto(f"{desk.url}/console/audit?person=ada")
        await accessible(page)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
