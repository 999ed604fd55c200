"""docs/GUARANTEES.md and the tests name the same promises, both ways."""

from tests.support import guarantees


def test_every_promise_has_a_test_and_every_marked_test_a_promise() -> None:
    promised = [name for _, name, _ in guarantees.promised()]
    tested = set(guarantees.tested())
    assert len(promised) == len(set(promised)), "an id stands once"
    assert set(promised) - tested == set(), "promised and not tested"
    assert tested - set(promised) == set(), "tested and not promised: add it to guarantees.yml"


def test_the_page_is_that_of_the_promises_and_their_tests() -> None:
    assert guarantees.PAGE.read_text() == guarantees.page(), "run `make guarantees`"
