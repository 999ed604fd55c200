"""Calls in a browser: found, followed, opened, cancelled; by keys, at any width, in the dark."""

import pytest

from app.console import live
from devstack.stack import Dsns
from tests.console.conftest import link_of
from tests.support.calls import accept, claim, delete, echo, fetch, finish
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


@pytest.mark.guarantee("console:text")
async def test_a_script_in_arguments_result_error_and_link_runs_nowhere(desk: Desk) -> None:
    call = (await accept(desk.broker, echo(EVIL, labels=("<b>l</b>",)))).written.id
    await claim(desk.broker, call)
    await finish(desk.broker, call, result={EVIL: EVIL})
    async with desk.page() as page:
        for path in ("calls", f"calls/{call}"):
            await page.goto(f"{desk.url}/console/{path}")
            await page.locator("#live").wait_for()
            assert "owned" not in await page.title()
            assert await page.locator("#live img").count() == 0
        await page.get_by_text("<script>document.title").first.wait_for()
    assert desk.complaints == []


@pytest.mark.guarantee("console:sessions")
async def test_a_page_that_is_open_says_when_its_session_is_over(
    desk: Desk, database: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "CHECK_S", 0.0)
    async with desk.page() as page:
        await page.goto(f"{desk.url}/console/calls")
        await page.get_by_text("No calls yet.").wait_for()
        await fetch(database.owner, "UPDATE console_sessions SET ended_at = now()")
        await page.get_by_text("Your session has ended.").wait_for()
        await accessible(page)
        await page.get_by_role("link", name="Sign in again").click()
        await page.get_by_role("heading", name="Sign in").wait_for()
        await page.goto(f"{desk.url}/console/calls?tool=probe")
        await page.get_by_text("sign in to go on where you were").wait_for()


async def test_a_page_says_when_its_connection_is_lost_and_when_it_is_back(desk: Desk) -> None:
    async with desk.context() as context:
        page = await context.new_page()
        await page.goto(link_of(desk.issuer, "olga", base=desk.url))
        await page.get_by_role("main").get_by_role("button", name="Sign in").click()
        await page.goto(f"{desk.url}/console/calls")
        await page.get_by_text("No calls yet.").wait_for()
        await page.locator("body[data-followed]").wait_for()
        await context.set_offline(True)
        await page.get_by_text("Connection lost.").wait_for()
        await context.set_offline(False)
        await page.get_by_text("Connection lost.").wait_for(state="hidden")


async def test_a_call_is_cancelled_from_its_page_with_a_reason(desk: Desk) -> None:
    call = (await accept(desk.broker, delete("x"))).written.id
    async with desk.page() as page:
        await page.goto(f"{desk.url}/console/calls/{call}")
        button = page.get_by_role("button", name="Cancel this call")
        await button.click()
        assert page.url.endswith(str(call)), "the browser asks for a reason first"
        await page.get_by_label("Reason").fill("not needed")
        await button.click()
        await page.locator(".head .state.cancelled").wait_for()
        await page.get_by_text("user:olga").first.wait_for()
    assert desk.complaints == []
