"""`broker catalog import openapi`: the Petstore, a hard document of 3.1, and an app's own."""

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI, Request

from adapters.contract import Failure, Result
from adapters.kinds import Adapters
from app.catalog import file as catalog_file
from devstack.stack import Dsns
from tests.adapters.executor import Heard, call_of
from tests.adapters.http.conftest import Server, server
from tests.cli.imports.reviewed import applied, broker, called, entries
from tests.support.stack import listening

__all__ = ["server"]

DATA = Path(__file__).with_name("data")
IMPORT = ("catalog", "import", "openapi")


async def test_the_petstore_is_imported_put_in_force_and_called(
    database: Dsns, server: Server, tmp_path: Path
) -> None:
    argv = (DATA / "petstore.yaml", "--server", f"{server.address}/v3", "--name", "pets")
    await broker(*IMPORT, *argv, "--out", tmp_path)
    path = tmp_path / "pets.yml"
    await applied(path, database.owner)
    found = entries(path.read_text())
    assert len(found) == 19
    assert found["getPetById"]["output_schema"]["type"] == "object"
    again, once = {"attempts_max": 3}, {"attempts_max": 1}
    policies = {one: found[one]["policy"] for one in ("getPetById", "addPet", "deletePet")}
    assert policies == {
        "getPetById": {"idempotent": True, "retry": again},
        "addPet": {"idempotent": False, "retry": once},
        "deletePet": {"idempotent": True, "retry": again, "approval": "ask"},
    }
    outcome = await called(path, "findPetsByStatus", {"status": "sold"})
    assert isinstance(outcome, Result), outcome
    assert (outcome.value["path"], outcome.value["query"]) == (
        "/v3/pet/findByStatus",
        "status=sold",
    )
    source = ("--source", f"pets={DATA / 'petstore.yaml'}")
    assert "no_source" in (await broker("catalog", "diff", path)).stdout
    assert "19 same" in (await broker("catalog", "diff", path, *source)).stdout


async def test_a_document_of_3_1_with_its_hard_parts_becomes_requests(
    server: Server, tmp_path: Path
) -> None:
    argv = (DATA / "hard.yaml", "--server", server.address, "--name", "hard", "--out", tmp_path)
    done = await broker(*IMPORT, *argv)
    path = tmp_path / "hard.yml"
    found = entries(path.read_text())
    create = found["items_create"]
    book = {"type": "book", "pages": 1, "sequel": {"type": "book", "pages": 2}}
    args = {"shop-id": 7, "kind": "book", "tags": ["a", "b"], "X-Trace": "af", "session": "s"}
    args |= {"filter": {"min": 1, "since": "2020-01-01"}, "body": book}
    fits = jsonschema_rs.validator_for(create["input_schema"])
    assert fits.is_valid(args)
    for wrong in ({"kind": "car"}, {"body": {"type": "book", "pages": 0}}, {"shop-id": 0}):
        assert not fits.is_valid(args | wrong), wrong
    outcome = await called(path, "items_create", args)
    assert isinstance(outcome, Result), outcome
    sent = outcome.value
    assert (sent["path"], sent["headers"]["x-trace"]) == ("/shops/7/items/book", "af")
    assert sent["query"] == "tags=a,b&filter[min]=1&filter[since]=2020-01-01"
    assert sent["headers"]["cookie"] == "session=s"
    assert json.loads(sent["body"]) == book
    photo = {"photo": base64.b64encode(b"png!").decode(), "more": ["YQ=="], "note": "n"}
    outcome = await called(path, "photos_replace", {"shop-id": 7, "body": photo})
    assert isinstance(outcome, Result), outcome
    assert 'filename="photo"' in outcome.value["body"]
    assert "png!" in outcome.value["body"]
    assert "items_create: A pattern of its arguments is left out" in done.stderr


@pytest.mark.guarantee("catalog:imports-are-safe")
async def test_what_looks_secret_is_marked_and_no_document_says_it_in_our_words(
    tmp_path: Path,
) -> None:
    done = await broker(*IMPORT, DATA / "hard.yaml", "--out", tmp_path)
    path = tmp_path / "hard_parts.yml"
    text = path.read_text()
    form = entries(text)["login"]["input_schema"]["properties"]["body"]["properties"]
    assert form == {
        "user": {"type": "string"},
        "code": {"type": "string", "format": "password", "x-sensitive": True},
    }
    assert "login: Looks secret" in done.stderr
    assert "It is deprecated." in text
    assert "server of its own" in text
    assert "The API wants a credential (apiKey header X-Key)" in text
    assert "address: https://eu.api.example/v1" in text
    await broker("catalog", "check", path)


class Shop:
    """A FastAPI app, and how often its document was asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.app = self.version("Sell a pet.")

    def version(self, words: str) -> FastAPI:
        app = FastAPI(title="Shop")

        @app.get("/pets/{pet_id}", operation_id="get_pet")
        async def get_pet(pet_id: int) -> dict[str, Any]:
            return {"id": pet_id}

        @app.post("/sales", operation_id="sell")
        async def sell(request: Request, price: int, note: str = words) -> dict[str, Any]:
            return {"key": request.headers.get("x-key"), "price": price, "note": note}

        return app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += scope.get("path") == "/openapi.json"
        await self.app(scope, receive, send)


@pytest.mark.guarantee("catalog:drift-told")
@pytest.mark.guarantee("adapters:reviewed")
async def test_an_apps_own_document_is_what_its_operations_are_compared_with_once_a_minute(
    database: Dsns, tmp_path: Path
) -> None:
    shop = Shop()
    async with listening(shop) as port:
        url = f"http://127.0.0.1:{port}/openapi.json"
        await broker(*IMPORT, url, "--header", "X-Key=env:HOME", "--out", tmp_path)
        path = tmp_path / "shop.yml"
        await applied(path, database.owner)
        assert "2 same" in (await broker("catalog", "diff", path)).stdout
        shop.asked = 0
        read = catalog_file.parse(path)
        [target] = [one.made() for one in read.targets]
        adapters = Adapters()

        async def run(method: str, args: dict[str, Any], using: Adapters) -> Any:
            [mapping] = [one.adapter.mapping for one in read.tools
                         if one.method == method and one.adapter]  # fmt: skip
            return await using.run(call_of(target, args=args, mapping=mapping), Heard())

        for _ in range(3):
            outcome = await run("sell", {"price": 3}, adapters)
            assert isinstance(outcome, Result), outcome
            assert outcome.value["price"] == 3
        assert shop.asked == 1
        shop.app = shop.version("Sell it twice.")
        changed = await broker("catalog", "diff", "--database-url", database.owner, code=1)
        assert "changed: shop_sell (target shop): input_schema" in changed.stdout
        assert "get_pet" not in changed.stdout
        later = Adapters()
        outcome = await run("sell", {"price": 3}, later)
        assert isinstance(outcome, Failure)
        assert (outcome.code, outcome.retryable) == ("target_changed", False)
        assert isinstance(await run("get_pet", {"pet_id": 1}, later), Result)
        shop.app = FastAPI(openapi_url=None)
        gone = Adapters()
        outcome = await run("sell", {"price": 3}, gone)
        assert isinstance(outcome, Failure)
        assert (outcome.code, outcome.retryable) == ("target_unavailable", True)
        for one in (adapters, later, gone):
            await one.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"swagger": "2.0"}', "no OpenAPI 3 document"),
        ("a: &x [1]\nb: *x", "YAML aliases"),
        ("[" * 10_000, "nested deeper than"),
        ("{a: b: c", "neither JSON nor YAML"),
        ('{"openapi": "3.1.0", "servers": [{"url": "/v3"}]}', "say where it is by --server URL"),
        (None, "No such file"),
    ],
)
async def test_a_document_that_cannot_be_imported_is_told_in_a_sentence(
    tmp_path: Path, text: str | None, words: str
) -> None:
    path = tmp_path / "document"
    if text is not None:
        path.write_text(text)
    done = await broker(*IMPORT, path, code=1)
    assert words in done.stderr


async def test_a_url_without_a_document_is_told_in_a_sentence(server: Server) -> None:
    done = await broker(*IMPORT, f"{server.address}/answer", code=1)
    assert "cannot be read: status" in done.stderr
    done = await broker(*IMPORT, "http://127.0.0.1:9/openapi.json", code=1)
    assert "cannot be reached" in done.stderr


async def test_a_name_and_a_folder_that_cannot_be_are_told_in_a_sentence(tmp_path: Path) -> None:
    argv = (*IMPORT, DATA / "petstore.yaml", "--server", "http://127.0.0.1:9")
    done = await broker(*argv, "--name", "!!", code=1)
    assert done.stderr.startswith("--name: '!!' is not of the form")
    file = tmp_path / "file"
    file.touch()
    done = await broker(*argv, "--out", file / "folder", code=1)
    assert str(file) in done.stderr


async def test_an_api_that_is_too_large_for_one_file_is_imported_in_parts(tmp_path: Path) -> None:
    words = "word " * 20_000
    paths = {
        f"/{n}": {"get": {"operationId": f"get{n}", "description": words, "responses": {}}}
        for n in range(50)
    }
    server = [{"url": "https://api.example"}]
    path = tmp_path / "large.json"
    path.write_text(json.dumps({"openapi": "3.1.0", "servers": server, "paths": paths}))
    done = await broker(*IMPORT, path, "--name", "large", code=1)
    assert "import a part of it with --only" in done.stderr
    done = await broker(*IMPORT, path, "--name", "large", "--only", "get1")
    assert set(entries(done.stdout)) == {"get1"}
