"""The pages of the console, in the order of the navigation.

A page is a module here with a `PAGE`, a template of its name, and SQL in its noun's store.
"""

from typing import Final

from app.console.pages import audit, calls, inbox, sagas, tools
from app.console.parts import Page

PAGES: Final[tuple[Page, ...]] = (inbox.PAGE, calls.PAGE, sagas.PAGE, tools.PAGE, audit.PAGE)
