"""A job's labels: those of the mapping, and the command's id, by which people find its job."""

from collections.abc import Sequence
from typing import Any

from adapters.aap.api import Api
from adapters.contract import CallFailedError, Known


class Labels:
    """Of one controller; what stays the same is asked for once."""

    def __init__(self) -> None:
        self._organizations: dict[str, int] = {}
        self._known: dict[tuple[int, str], int] = {}

    async def ids(self, api: Api, template: str, names: Sequence[str], command: str) -> list[int]:
        """The ids that a launch of the template at this path takes; made where they are not there.

        A label is an organization's, and its members may make one.

        Raises:
            CallFailedError: they cannot be had.
        """
        if template not in self._organizations:
            said = await api.get(template)
            if not said.get("organization"):
                words = "the template is in no organization"
                raise CallFailedError(Known.REFUSED, "target_refused", words)
            self._organizations[template] = said["organization"]
        organization = self._organizations[template]
        found: list[int] = []
        for name in names:
            if (organization, name) not in self._known:
                self._known[organization, name] = await _had(api, organization, name)
            found.append(self._known[organization, name])
        return [*found, await _had(api, organization, command)]


async def _had(api: Api, organization: int, name: str) -> int:
    asked: dict[str, Any] = {"name": name, "organization": organization}
    try:
        return (await api.post("labels/", asked))["id"]
    except CallFailedError as error:
        # One of the name is there, or it may not be made.
        results = (await api.get("labels/", **asked))["results"]
        if not results:
            raise error from None
        return results[0]["id"]
