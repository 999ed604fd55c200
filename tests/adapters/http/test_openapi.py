"""Operations of OpenAPI documents: FastAPI's own, one of 3.0 and one of 3.1 with its hard parts."""

import base64
import enum
from typing import Annotated, Any, Final

import jsonschema_rs
import pytest
from fastapi import FastAPI, File, Header, UploadFile
from pydantic import BaseModel

from adapters.contract import Result
from adapters.http.documents import read
from adapters.http.openapi import Operation, Unusable, operations
from adapters.http.pointers import OpenApiError
from adapters.kinds import Adapters, check
from adapters.targets import Target
from app.cli.imports import openapi
from app.errors import BadRequestError
from tests.adapters.executor import Heard, call_of
from tests.adapters.http.conftest import Server
from tests.edges.hostile.places import Pointer, of_value, spliced
from tests.support.stack import listening


class Kind(enum.StrEnum):
    CAT = "cat"
    DOG = "dog"


class Pet(BaseModel):
    name: str
    kind: Kind = Kind.CAT
    parent: "Pet | None" = None


def shop() -> FastAPI:
    app = FastAPI()

    @app.put("/pets/{pet_id}", operation_id="put_pet")
    async def put_pet(
        pet_id: int, pet: Pet, tags: Annotated[list[str] | None, Header()] = None, dry: bool = False
    ) -> dict[str, Any]:
        return {"id": pet_id, "pet": pet.model_dump(), "tags": tags, "dry": dry}

    @app.post("/files", operation_id="send")
    async def send(one: Annotated[UploadFile, File()], many: list[UploadFile]) -> dict[str, Any]:
        return {"one": (await one.read()).hex(), "many": [(await f.read()).hex() for f in many]}

    return app


def found(document: Any) -> dict[str, Operation]:
    made = {one.name: one for one in operations(document)}
    for one in made.values():
        assert isinstance(one, Operation), one
        jsonschema_rs.validator_for(dict(one.input_schema))
        assert not check(Target(name="t", kind="http", address="https://x"), one.mapping)
    return {name: one for name, one in made.items() if isinstance(one, Operation)}


async def test_the_operations_of_a_fastapi_app_are_called_by_its_own_document() -> None:
    app, adapters = shop(), Adapters()
    tools = found(app.openapi())
    async with listening(app) as port:
        target = Target(name="shop", kind="http", address=f"http://127.0.0.1:{port}")

        async def called(name: str, args: dict[str, Any]) -> Any:
            jsonschema_rs.validate(dict(tools[name].input_schema), args)
            call = call_of(target, args=args, mapping=tools[name].mapping)
            outcome = await adapters.run(call, Heard())
            assert isinstance(outcome, Result), outcome
            return outcome.value

        pet = {
            "name": "Tom",
            "kind": "dog",
            "parent": {"name": "Ma", "kind": "cat", "parent": None},
        }
        put = await called("put_pet", {"pet_id": 7, "body": pet, "dry": True})
        files = {"one": base64.b64encode(b"1").decode(), "many": ["Mg==", "Mw=="]}
        sent = await called("send", {"body": files})
        await adapters.close()
    assert put == {"id": 7, "pet": pet, "tags": None, "dry": True}
    assert sent == {"one": "31", "many": ["32", "33"]}
    wrong = {"pet_id": 7, "body": {"name": "Tom", "kind": "bird"}}
    assert not jsonschema_rs.is_valid(dict(tools["put_pet"].input_schema), wrong)


OLD: dict[str, Any] = {
    "openapi": "3.0.3",
    "paths": {
        "/pets/{id}": {
            "parameters": [
                {"$ref": "#/components/parameters/Id"},
                {
                    "name": "filter",
                    "in": "query",
                    "style": "deepObject",
                    "schema": {"type": "object"},
                },
            ],
            "get": {
                "operationId": "getPet",
                "summary": "One pet",
                "parameters": [
                    {"name": "id", "in": "query", "schema": {"type": "integer"}},
                    {"name": "Accept", "in": "header", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": {
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}
                        }
                    }
                },
            },
            "patch": {
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/x-www-form-urlencoded": {
                            "schema": {"$ref": "#/components/schemas/Pet"}
                        }
                    },
                }
            },
        }
    },
    "components": {
        "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": {}}},
        "schemas": {
            "Pet": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "nullable": True, "example": "Tom"},
                    "age": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
                    "kind": {"type": "string", "enum": ["cat"], "nullable": True},
                    "parent": {"allOf": [{"$ref": "#/components/schemas/Pet"}], "nullable": True},
                },
            }
        },
    },
}


async def test_the_words_of_3_0_are_put_into_json_schemas(
    adapters: Adapters, server: Server
) -> None:
    tools = found(OLD)
    get, patch = tools["getPet"], tools["patch /pets/{id}"]
    assert set(get.input_schema["properties"]) == {"id", "filter", "query_id"}
    assert (get.title, get.input_schema["required"]) == ("One pet", ["id"])
    assert get.output_schema is not None
    schema = dict(patch.input_schema)
    for pet, fits in (
        ({"name": None, "age": 1, "kind": None, "parent": None}, True),
        ({"name": "x", "parent": {"name": "y"}}, True),
        ({"name": "x", "age": 0}, False),
        ({"name": "x", "kind": "dog"}, False),
        ({"name": "x", "parent": {"age": 1}}, False),
    ):
        assert jsonschema_rs.is_valid(schema, {"id": "1", "body": pet}) == fits, pet
    args = {"id": "a/b", "query_id": 3, "filter": {"a": [1, 2]}}
    outcome = await adapters.run(call_of(server.target(), args=args, mapping=get.mapping), Heard())
    assert isinstance(outcome, Result)
    assert outcome.value["path"] == "/pets/a%2Fb"
    assert outcome.value["query"] == "filter[a]=1&filter[a]=2&id=3"


def test_what_cannot_be_called_says_why_and_the_rest_can() -> None:
    new = {
        "openapi": "3.1.0",
        "paths": {
            "/away": {"get": {"parameters": [{"$ref": "other.yaml#/P"}]}},
            "/gone": {"get": {"parameters": [{"$ref": "#/components/parameters/P"}]}},
            "/circle": {"get": {"requestBody": {"$ref": "#/components/requestBodies/A"}}},
            "/good": {
                "post": {
                    "requestBody": {
                        "content": {
                            "application/json": {
                                "schema": {
                                    "oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/T"}]
                                }
                            }
                        }
                    }
                }
            },
        },
        "components": {
            "requestBodies": {"A": {"$ref": "#/components/requestBodies/A"}},
            "schemas": {
                "T": {"type": ["object"], "properties": {"t": {"$ref": "#/components/schemas/T"}}}
            },
        },
    }
    made = list(operations(new))
    bad = [one.reason for one in made if isinstance(one, Unusable)]
    assert len(bad) == 3
    assert "leads out of the document" in bad[0]
    assert "nothing at" in bad[1]
    assert "circle" in bad[2]
    good = made[-1]
    assert isinstance(good, Operation)
    assert jsonschema_rs.is_valid(dict(good.input_schema), {"body": {"t": {"t": {}}}})
    assert not jsonschema_rs.is_valid(dict(good.input_schema), {"body": {"t": 1}})
    for none in ({"swagger": "2.0"}, [], {"openapi": 3}):
        with pytest.raises(OpenApiError):
            list(operations(none))


def test_a_digest_changes_with_the_operation() -> None:
    before = found(OLD)["getPet"].mapping["digest"]
    changed = {**OLD, "info": {"version": "2"}}
    assert found(changed)["getPet"].mapping["digest"] == before
    schemas = {"Pet": {"type": "object"}}
    other = {**OLD, "components": {**OLD["components"], "schemas": schemas}}
    assert found(other)["getPet"].mapping["digest"] != before


EVERY: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {"title": "t", "version": "1"},
    "servers": [{"url": "https://{host}", "variables": {"host": {"default": "api.test"}}}],
    "paths": {
        "/a/{b}": {
            "parameters": [{"name": "b", "in": "path", "schema": {"type": "string"}}],
            "post": {
                "operationId": "a",
                "summary": "s",
                "parameters": [{"name": "q", "in": "query", "explode": True, "style": "form"}],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {"x": {"$ref": "#/components/schemas/X"}},
                                "required": ["x"],
                            }
                        }
                    },
                },
                "responses": {"200": {"content": {"application/json": {"schema": {}}}}},
            },
        }
    },
    "components": {
        "schemas": {"X": {"allOf": [{"type": "string"}]}},
        "securitySchemes": {"s": {"type": "http"}},
    },
}
ODD: Final = ("null", "5", "true", '"x"', '"http://["', "[]", "[null]", "{}", '{"": {}}', "1e400")
DEEP: Final = '{"allOf": [' * 300 + "{}" + "]}" * 300


@pytest.mark.guarantee("hostile:documents")
@pytest.mark.parametrize("place", [*of_value(EVERY)])
def test_a_document_with_anything_anywhere_is_read_or_refused_in_words(place: Pointer) -> None:
    for odd in (*ODD, DEEP):
        written = spliced(EVERY, place, odd.encode())
        try:
            value = read(written)
            for one in operations(value):
                assert isinstance(one, Operation) or one.reason
            openapi.source(value, {"kind": "http"}, None)
        except (OpenApiError, BadRequestError) as error:
            told = str(error)
            assert 0 < len(told) < 1000, odd
