"""Calls in a browser: found, followed, opened, cancelled; by keys, at any width, in the dark."""

import pytest

from tests.support.calls import accept, claim, echo, finish
from tests.system.console.conftest import Desk, Scheme, accessible, picture
from tests.tenancy.theirs import fill

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_pages_of_calls_meet_wcag_2_2_aa(desk: Desk, scheme: Scheme) -> None:
    theirs = await fill(desk.broker)
    async with desk.page(scheme=scheme) as page:
        await page.goto(f"{desk.url}/console/calls")
        await page.locator("td .state.dead_lettered").wait_for()
        await accessible(page)
        await picture(page, f"calls-{scheme}")
        for one in (theirs.dead, theirs.running, theirs.queued):
            await page.goto(f"{desk.url}/console/calls/{one}")
            await accessible(page)
        await page.goto(f"{desk.url}/console/calls/{theirs.dead}")
        await picture(page, f"call-{scheme}")
        await page.goto(f"{desk.url}/console/calls?tool=none")
        await accessible(page)
        await page.goto(f"{desk.url}/console/none")
        await accessible(page)
        await page.goto(f"{desk.url}/console/sign-in?ended=1")
        await accessible(page)
    assert len([one for one in desk.complaints if "404" not in one]) == 0, desk.complaints


async def test_a_call_shows_and_moves_without_a_reload(desk: Desk) -> None:
    async with desk.page() as page:
        await page.goto(f"{desk.url}/console/calls")
        await page.get_by_text("No calls yet.").wait_for()
        call = (await accept(desk.broker, echo("live"))).written.id
        await page.locator(f"#call-{call}").wait_for()
        await claim(desk.broker, call)
        await page.locator("td .state.running").wait_for()
        await page.locator(f"#call-{call}").click()
        await page.get_by_role("heading", name="probe/echo").wait_for()
        await finish(desk.broker, call, result={"text": "live"})
        await page.locator(".head .state.succeeded").wait_for()
        await page.get_by_text('"text": "live"').first.wait_for()
    assert desk.complaints == []
