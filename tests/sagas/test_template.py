"""References in arguments: what they bring in, and that nothing else is ever read as one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sagas.template import TemplateError, check, references, render

hostile = st.sampled_from(["{{ saga.id }}", " {{ input.x }} ", "{{", "}}", "{{ 1 + 1 }}"])
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | hostile
)
values = st.recursive(scalars, lambda of: st.lists(of) | st.dictionaries(st.text(), of))
plain = st.text().filter(lambda text: "{{" not in text)
plain_values = st.recursive(
    st.integers() | plain, lambda of: st.lists(of) | st.dictionaries(plain, of)
)
SCOPE: dict[str, Any] = {
    "input": {"name": "web", "ports": [80, 443], "deep": {"on": True}},
    "steps": {"make": {"result": {"id": 7}}},
    "saga": {"id": "s-1"},
}


@pytest.mark.guarantee("saga:templates")
@given(value=values)
def test_a_value_comes_in_as_it_is_whatever_is_in_it(value: Any) -> None:
    scope = {"input": {"x": value}, "saga": {"id": "s-1"}}
    assert render({"a": ["{{ input.x }}"]}, scope) == {"a": [value]}


@given(text=st.text() | hostile)
def test_a_text_comes_into_a_text_as_it_is(text: str) -> None:
    scope = {"input": {"x": text}, "saga": {"id": "s-1"}}
    assert render("<{{input.x}}|{{ input.x }}>", scope) == f"<{text}|{text}>"


@given(value=plain_values)
def test_what_holds_no_reference_stays_as_it_is(value: Any) -> None:
    assert list(references(value)) == []
    assert render(value, {}) == value


def test_a_reference_keeps_its_type_alone_and_becomes_text_within_a_text() -> None:
    said = {
        "whole": "{{ input.ports }}",
        "item": "{{ input.ports.1 }}",
        "text": "{{ input.name }}:{{ input.ports.0 }} {{ input.deep }} #{{ steps.make.result.id }}",
        "id": "{{ saga.id }}",
    }
    assert render(said, SCOPE) == {
        "whole": [80, 443],
        "item": 443,
        "text": 'web:80 {"on":true} #7',
        "id": "s-1",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ input.nome }}", "there is no input.nome"),
        ("{{ input.name.first }}", "there is no input.name.first"),
        ("{{ input.ports.2 }}", "there is no input.ports.2"),
        ("{{ input.ports." + "9" * 5000 + " }}", "there is no input.ports.9"),
        ("{{ steps.other.result }}", "there is no steps.other"),
        ("{{ steps.make.state }}", "write {{ steps.id.result }}"),
        ("{{ saga.tenant }}", "{{ saga.id }}"),
        ("{{ env.HOME }}", "begins with none of input, steps, saga"),
        ("{{ 1 + 1 }}", "begins no reference"),
        ("{{ input.name | upper }}", "begins no reference"),
        ("{{ input.name }} and {{", "begins no reference"),
        ("{{", "begins no reference"),
    ],
)
def test_what_is_missing_or_malformed_is_named_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render({"a": [1, {"b": text}]}, SCOPE)
    assert caught.value.at == "a[1].b"
    assert problem in caught.value.problem


@pytest.mark.guarantee("saga:templates")
@pytest.mark.parametrize("value", ["a" * 100_000, ["a"] * 25_000])
@pytest.mark.parametrize("said", ["{{ input.x }} " * 100, ["{{ input.x }}"] * 100])
def test_references_bring_in_so_much_and_no_more(said: Any, value: Any) -> None:
    scope = {"input": {"x": value}}
    for read in (render, check):
        with pytest.raises(TemplateError, match="over 4194304 characters"):
            read({"a": said}, scope)


def test_a_name_holds_no_reference() -> None:
    with pytest.raises(TemplateError, match="may hold no reference"):
        list(references({"a": {"{{ input.name }}": 1}}))


@given(text=st.text(alphabet="{} inputsaga.x", max_size=40))
def test_any_text_is_either_rendered_or_refused(text: str) -> None:
    scope = {"input": {}, "saga": {"id": "1"}, "steps": {}}
    try:
        done = render(text, scope)
    except TemplateError:
        assert "{{" in text
    else:
        assert "{{" not in str(done)
