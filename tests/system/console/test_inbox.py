"""The inbox in a browser: by mouse and by keys, live, at any width, in the dark."""

import pytest

from app.commands.state import State
from benchmarks.servers import execute
from benchmarks.servers import fill as fill_many
from devstack.stack import Dsns
from tests.console.test_inbox_of_groups import FOUR_EYES, OTHERS, four_eyes
from tests.console.waiting import waits
from tests.support.calls import accept, delete, subject
from tests.system.console.conftest import Desk, Scheme, accessible, picture


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_inbox_meets_wcag_2_2_aa_and_so_do_preview_and_outcome(
    desk: Desk, database: Dsns, scheme: Scheme
) -> None:
    async with desk.page(scheme=scheme) as page:
        await page.goto(f"{desk.url}/console/inbox")
        await page.get_by_text("Nobody is waited for.").wait_for()
        await accessible(page)
        found = await waits(desk.broker, database)
        await page.locator(f"#pick-{found.dead}").wait_for()
        await accessible(page)
        await picture(page, f"inbox-{scheme}")
        await page.locator(f"#pick-{found.approval}").check()
        await page.locator(f"#pick-{found.second}").check()
        await page.get_by_text("2 chosen").wait_for()
        await page.get_by_role("button", name="Deny…").click()
        await page.get_by_role("heading", name="Deny").wait_for()
        await accessible(page)
        await picture(page, f"preview-{scheme}")
        await page.get_by_label("Reason").fill("the change was called off")
        await page.get_by_role("button", name="Deny 2").click()
        await page.locator(".notice", has_text="2 done").wait_for()
        await accessible(page)
        await page.get_by_role("link", name="Back to the inbox").click()
        await page.get_by_role("heading", name="Dead letters").wait_for()
        assert await page.get_by_role("heading", name="Approvals").count() == 0
    assert (await subject(desk.broker, found.second)).state is State.CANCELLED
    assert desk.complaints == []


@pytest.mark.guarantee("console:inbox")
async def test_a_call_is_approved_by_keys_alone(desk: Desk, database: Dsns) -> None:
    found = await waits(desk.broker, database)
    async with desk.page() as page:
        await page.goto(f"{desk.url}/console/inbox")
        await page.locator(f"#pick-{found.second}").wait_for()
        await page.keyboard.press("j")
        assert await page.evaluate("document.activeElement.id") == f"call-{found.second}"
        await page.keyboard.press("j")
        await page.keyboard.press("k")
        await page.keyboard.press("x")
        assert await page.locator(f"#pick-{found.second}").is_checked()
        await page.get_by_role("button", name="Approve…").focus()
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Approve").wait_for()
        await page.get_by_label("Reason").focus()
        await page.keyboard.type("it is in the plan")
        await page.keyboard.press("Enter")
        await page.locator(".notice", has_text="1 done").wait_for()
    assert not (await subject(desk.broker, found.second)).awaits_approval


async def test_a_choice_outlasts_what_comes_in_meanwhile(desk: Desk, database: Dsns) -> None:
    found = await waits(desk.broker, database)
    async with desk.page() as page:
        await page.goto(f"{desk.url}/console/inbox")
        await page.locator(f"#pick-{found.approval}").check()
        await page.locator(f"#call-{found.second}").focus()
        another = (await accept(desk.broker, delete("another"))).written.id
        await page.locator(f"#pick-{another}").wait_for()
        await page.get_by_text("1 chosen").wait_for()
        assert await page.locator(f"#pick-{found.approval}").is_checked()
        assert not await page.locator(f"#pick-{another}").is_checked()
        focus = "document.activeElement.id"
        assert await page.evaluate(focus) == f"call-{found.second}"


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize(("width", "height", "name"), [(360, 740, "phone"), (320, 256, "at 400 %")])
async def test_no_page_scrolls_sideways_on_a_phone_or_at_400_percent(
    desk: Desk, database: Dsns, width: int, height: int, name: str
) -> None:
    found = await waits(desk.broker, database)
    size = {"width": width, "height": height}
    async with desk.page(viewport=size) as page:
        for path in ("inbox", "calls", f"calls/{found.dead}", "sign-in"):
            await page.goto(f"{desk.url}/console/{path}")
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (path, wide)
            await accessible(page)
            if name == "phone" and path == "inbox":
                await picture(page, "inbox-phone")


async def test_all_of_it_works_without_scripts(desk: Desk, database: Dsns) -> None:
    found = await waits(desk.broker, database)
    async with desk.page(java_script_enabled=False) as page:
        await page.goto(f"{desk.url}/console/inbox")
        await page.locator(f"#pick-{found.dead}").check()
        await page.get_by_role("button", name="Discard…").click()
        await page.get_by_label("Reason").fill("known")
        await page.get_by_role("button", name="Discard 1").click()
        await page.locator(".notice", has_text="1 done").wait_for()
        await page.goto(f"{desk.url}/console/calls?state=dead_lettered&tool=probe")
        await page.locator(f"#call-{found.dead}").click()
        await page.get_by_role("heading", name="probe/echo").wait_for()
        stamp = page.locator("time").first
        title = await stamp.get_attribute("title")
        assert title is not None
        assert title.endswith(" UTC")


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_member_of_a_group_approves_by_keys_and_sees_the_quorum(
    desk: Desk, database: Dsns, scheme: Scheme
) -> None:
    await execute(database.owner, FOUR_EYES)
    desk.broker.catalog.forget()
    one = await four_eyes(desk.broker, "x")
    async with (
        desk.page("fay", "tools", scheme=scheme, groups=("finance",)) as fay,
        desk.page("fox", "tools", groups=("finance",)) as fox,
    ):
        assert fay.url.endswith("/console/inbox")
        await fox.locator(f"#pick-{one}").wait_for()
        await fay.get_by_text("0 of 2").wait_for()
        await accessible(fay)
        await fay.locator("body[data-followed]").wait_for()
        await fay.keyboard.press("j")
        await fay.keyboard.press("x")
        assert await fay.locator(f"#pick-{one}").is_checked()
        await fay.get_by_role("button", name="Approve…").focus()
        await fay.keyboard.press("Enter")
        await fay.get_by_text("your yes is one").wait_for()
        await accessible(fay)
        await fay.get_by_label("Reason").fill("it is in the budget")
        await fay.keyboard.press("Enter")
        await fay.locator(".notice", has_text="1 done").wait_for()
        await accessible(fay)
        await fox.get_by_text("1 of 2").wait_for()
        await fox.locator(f"#pick-{one}").check()
        await fox.get_by_role("button", name="Approve…").click()
        await fox.get_by_label("Reason").fill("seen")
        await fox.get_by_role("button", name="Approve 1").click()
        await fox.locator(".notice", has_text="1 done").wait_for()
        await fay.get_by_role("link", name="Back to the inbox").click()
        await fay.get_by_text("Nobody waits for you.").wait_for()
        await accessible(fay)
    assert not (await subject(desk.broker, one)).awaits_approval
    assert desk.complaints == []


async def test_more_of_a_kind_is_a_page_away(desk: Desk, database: Dsns) -> None:
    await fill_many(database.owner, 60)
    await execute(database.owner, "UPDATE commands SET approval = 'pending'")
    await execute(database.owner, OTHERS)
    async with desk.page() as page:
        await page.locator("#more-approvals").click()
        await page.get_by_text("60, soonest deadline first").wait_for()
        assert await page.locator("[data-choose]").count() == 10
        await accessible(page)
        await page.get_by_role("link", name="All that waits").click()
        await page.get_by_role("heading", name="Sagas that wait").wait_for()
        await accessible(page)
    assert desk.complaints == []
