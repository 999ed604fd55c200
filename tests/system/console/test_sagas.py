"""Sagas in a browser: the graph, a step settled by keys, a dry run; in the dark, on a phone."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.sagas import registry
from app.sagas.parse import parse
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.console.test_sagas import DIAMOND, OLGA, PIVOT, step, stuck
from tests.sagas.lab import Lab, open_lab
from tests.system.console.conftest import Desk, Scheme, accessible, picture

PROVISION: dict[str, Any] = {
    "name": "provision",
    "description": "A host, its network, its service; undone in reverse.",
    "steps": [
        step("reserve_address"),
        step("create_host", "reserve_address"),
        step("open_firewall", "reserve_address"),
        step("install", "create_host"),
        step("check", "install", "open_firewall", kind="readonly", tool="lab_look"),
        step("go_live", "check", kind="pivot"),
        step("announce", "go_live", kind="retriable"),
    ],
}


@pytest.fixture
async def lab(desk: Desk, database: Dsns, issuer: DevIssuer) -> AsyncIterator[Lab]:
    async with open_lab(desk.broker, database, settings_of(database.relay, issuer)) as made:
        yield made


@pytest.mark.guarantee("console:accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_pages_of_sagas_meet_wcag_2_2_aa(desk: Desk, lab: Lab, scheme: Scheme) -> None:
    base = f"{desk.url}/console/sagas"
    async with desk.page(scheme=scheme) as page:
        await page.goto(base)
        await page.get_by_text("No sagas yet.").wait_for()
        await accessible(page)
        await page.goto(f"{base}/definitions")
        await accessible(page)
        await registry.register(
            desk.broker.database.engine, desk.broker.catalog, OLGA, parse(PROVISION)
        )
        undone = await lab.run(DIAMOND)
        await lab.do(undone, "a")
        await lab.do(undone, "b")
        await lab.do(undone, "c", error={"code": "no_space", "message": "The disk is full."})
        waiting = await stuck(lab)
        saga = await lab.run(PROVISION)
        await lab.do(saga, "reserve_address")
        await lab.do(saga, "create_host")
        for one in (undone, waiting, saga):
            await page.goto(f"{base}/{one}")
            await page.locator("svg .node").first.wait_for()
            await accessible(page)
        await picture(page, f"saga-{scheme}")
        await page.goto(base)
        await page.locator("td .state.stuck").wait_for()
        await accessible(page)
        for path in ("definitions", "definitions/provision", "plan?name=provision", "none"):
            await page.goto(f"{base}/{path}")
            await accessible(page)
        await page.goto(f"{base}/plan?name=provision")
        await page.get_by_role("button", name="Show the plan").click()
        await page.get_by_text("Nothing was started.").wait_for()
        await accessible(page)
        await picture(page, f"saga-plan-{scheme}")
        await page.get_by_label("Registered saga").fill("none")
        await page.get_by_role("button", name="Show the plan").click()
        await page.get_by_role("alert").wait_for()
        await accessible(page)
    expected = ("404", "422", "400")
    said = [one for one in desk.complaints if not any(code in one for code in expected)]
    assert said == []


async def test_a_stuck_step_is_settled_by_keys_and_shows_so_without_a_reload(
    desk: Desk, lab: Lab
) -> None:
    saga = await stuck(lab)
    async with desk.page() as page, desk.page() as beside:
        await beside.goto(f"{desk.url}/console/sagas/{saga}")
        await beside.locator(".head .state.stuck").wait_for()
        await page.goto(f"{desk.url}/console/sagas?state=stuck")
        await page.locator(f"#saga-{saga}").wait_for()
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await page.locator("#resolve-succeeded-p").focus()
        await page.keyboard.press("Enter")
        await page.get_by_label("Reason").fill("The host has it.")
        await accessible(page)
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"**/console/sagas/{saga}")
        await lab.turns()
        await page.locator(".head .state.running").wait_for()
        await beside.locator(".head .state.running").wait_for()
        await beside.locator("svg .node.dispatched").wait_for()
    assert desk.complaints == []


@pytest.mark.parametrize("width", [320, 390])
async def test_a_saga_fits_a_phone_and_400_percent(desk: Desk, lab: Lab, width: int) -> None:
    saga = await lab.run(PIVOT)
    size = {"width": width, "height": 640}
    async with desk.page(viewport=size) as page:
        for path in (f"sagas/{saga}", "sagas", "sagas/plan", "sagas/definitions"):
            await page.goto(f"{desk.url}/console/{path}")
            await accessible(page)
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, path
        await page.goto(f"{desk.url}/console/sagas/{saga}")
        if width > 320:
            await picture(page, "saga-phone")
