"""Both halves of an automation platform: what a controller keeps, and what EDA keeps."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.system.eda.configuration import (
    Answer,
    Api,
    Field,
    Object,
    RefusedError,
    check_inputs,
    check_type,
    flag,
    reference,
    text,
)
from tests.system.eda.templates import ASKED

NAMED = {"name": text(required=True), "description": text()}
TYPED = {"inputs": Field(is_a=dict, default={}), "injectors": Field(is_a=dict, default={})}
ORGANIZED = reference("organizations", required=True)
LAUNCHING = re.compile(r"run_(job|workflow)_template")


class ControllerApi(Api):
    """A controller, with an organization and a project's playbooks."""

    def __init__(self, playbooks: set[str], root: str = "/api/v2") -> None:
        asks = {f"ask_{name}_on_launch": flag() for name in (*ASKED, "variables")}
        super().__init__(
            root,
            {
                "organizations": NAMED,
                "execution_environments": NAMED,
                "credential_types": NAMED
                | TYPED
                | {"kind": text(required=True), "managed": flag()},
                "credentials": NAMED
                | {
                    "organization": reference("organizations"),
                    "credential_type": reference("credential_types", required=True),
                    "inputs": Field(is_a=dict, default={}),
                },
                "inventories": NAMED
                | {"organization": ORGANIZED, "kind": text(), "host_filter": text()},
                "projects": NAMED
                | {"organization": ORGANIZED, "scm_type": text(), "scm_url": text()}
                | {"scm_branch": text(), "scm_update_on_launch": flag()},
                "job_templates": NAMED
                | asks
                | {
                    "organization": reference("organizations"),
                    "job_type": text(default="run"),
                    "inventory": reference("inventories"),
                    "project": reference("projects"),
                    "playbook": text(required=True),
                    "execution_environment": reference("execution_environments"),
                    "allow_simultaneous": flag(),
                },
            },
            {
                "credential_types": self._type,
                "credentials": self._credential,
                "projects": self._project,
                "job_templates": self._template,
            },
        )
        self._playbooks = playbooks
        self.attached: dict[int, list[int]] = {}
        self.make("organizations", {"name": "Default"})

    def answer(self, method: str, path: list[str], query: Mapping[str, str], body: Any) -> Answer:
        match [method, *path]:
            case ["GET", "job_templates", number, "credentials"]:
                found = [self.one("credentials", n) for n in self.attached.get(int(number), ())]
                return 200, {"count": len(found), "next": None, "results": found}
            case ["POST", "job_templates", number, "credentials"]:
                self._attach(self.attached.setdefault(int(number), []), body)
                return 204, None
            case _:
                return Api.answer(self, method, path, query, body)

    def _attach(self, attached: list[int], body: Object) -> None:
        if body.get("disassociate"):
            attached.remove(body["id"])
            return
        kind = self.one("credentials", body["id"])["credential_type"]
        if any(self.one("credentials", n)["credential_type"] == kind for n in attached):
            raise RefusedError({"detail": "Cannot assign multiple credentials of this type."})
        attached.append(body["id"])

    def view(self, kind: str, one: Object) -> Object:
        shown = Api.view(self, kind, one)
        if kind == "projects":
            shown |= {"scm_revision": "0" * 40, "summary_fields": {}}
        return shown

    def _type(self, made: Object) -> None:
        if made["kind"] not in {"net", "cloud"}:
            raise RefusedError({"kind": ["Must be 'cloud' or 'net'"]})
        check_type(made, {"env", "extra_vars", "file"})

    def _credential(self, made: Object) -> None:
        check_inputs(made["inputs"], self.type_of(made)["inputs"])

    def _project(self, made: Object) -> None:
        if made["scm_type"] and not made["scm_url"]:
            raise RefusedError({"scm_url": ["SCM URL is required."]})

    def _template(self, made: Object) -> None:
        if made["inventory"] is None and not made["ask_inventory_on_launch"]:
            raise RefusedError({"inventory": ["Job Template must provide 'inventory'."]})
        if made["project"] is None:
            raise RefusedError({"project": ["Job Templates must have a project assigned."]})
        if made["playbook"] not in self._playbooks:
            raise RefusedError({"playbook": ["Playbook not found for project."]})


class EdaApi(Api):
    """EDA, with an organization and a project's rulebooks; `injects` are its release's."""

    def __init__(self, rulebooks: Mapping[str, str], injects: set[str]) -> None:
        super().__init__(
            "/api/eda/v1",
            {
                "organizations": NAMED,
                "rulebooks": NAMED | {"project_id": reference("projects")},
                "credential-types": NAMED | TYPED,
                "eda-credentials": NAMED
                | {
                    "organization_id": ORGANIZED,
                    "credential_type_id": reference("credential-types", required=True),
                    "inputs": Field(is_a=dict, required=True),
                },
                "projects": NAMED
                | {"organization_id": ORGANIZED, "url": text(required=True)}
                | {"scm_branch": text(), "update_revision_on_launch": flag()}
                | {"scm_update_cache_timeout": Field(is_a=int, default=0)},
                "decision-environments": NAMED
                | {"organization_id": ORGANIZED, "image_url": text(required=True)}
                | {"pull_policy": text(default="always")},
                "activations": NAMED
                | {
                    "organization_id": ORGANIZED,
                    "rulebook_id": reference("rulebooks", required=True),
                    "decision_environment_id": reference("decision-environments", required=True),
                    "eda_credentials": Field(is_a=list, default=[]),
                    "extra_var": text(),
                    "restart_policy": text(default="on-failure"),
                    "restart_on_project_update": flag(),
                    "enable_persistence": flag(),
                    "log_level": text(default="error"),
                    "is_enabled": flag(default=True),
                },
            },
            {
                "credential-types": lambda made: check_type(made, injects),
                "eda-credentials": self._credential,
                "activations": self._activation,
            },
        )
        self._rulebooks = rulebooks
        self.stopping = 0  # so many changes are refused while an activation stops
        self.make("organizations", {"name": "Default"})
        fields = [
            {"id": "host", "label": "Host"},
            {"id": "oauth_token", "label": "Token", "secret": True},
            {"id": "verify_ssl", "label": "Verify SSL", "type": "boolean"},
        ]
        aap = {"name": "Red Hat Ansible Automation Platform", "inputs": {"fields": fields}}
        self.make("credential-types", aap)

    def answer(self, method: str, path: list[str], query: Mapping[str, str], body: Any) -> Answer:
        match [method, *path]:
            case ["GET", "config"]:
                return 200, {}
            case ["POST", "projects"]:
                made = self.make("projects", body)
                for name in self._rulebooks:
                    self.make("rulebooks", {"name": name, "project_id": made["id"]})
                return 201, self.view("projects", made)
            case ["POST", "activations", number, "disable"]:
                self.one("activations", int(number))["is_enabled"] = False
                self.stopping = 1
                return 204, None
            case ["PATCH", "activations", number]:
                if self.one("activations", int(number))["is_enabled"] or self.stopping > 0:
                    self.stopping -= 1
                    said = "Activation is not in disabled mode and in stopped status"
                    raise RefusedError(said, 409)
                return Api.answer(self, method, path, query, body)
            case _:
                return Api.answer(self, method, path, query, body)

    def is_asked_for(self, one: Object, query: Mapping[str, str]) -> bool:
        named = query.get("name", "").lower() in one["name"].lower()
        rest = {name: value for name, value in query.items() if name != "name"}
        return named and Api.is_asked_for(self, one, rest)

    def view(self, kind: str, one: Object) -> Object:
        shown = Api.view(self, kind, one)
        if kind == "projects":
            shown |= {"import_state": "completed"}
        if kind == "activations":
            known = [self.one("eda-credentials", n) for n in one["eda_credentials"]]
            shown["eda_credentials"] = [self.view("eda-credentials", each) for each in known]
            # Its own dump of what it has read.
            shown["extra_var"] = yaml.dump(yaml.safe_load(one["extra_var"]))
        return shown

    def _credential(self, made: Object) -> None:
        check_inputs(made["inputs"], self.type_of(made)["inputs"])

    def _activation(self, made: Object) -> None:
        given = yaml.safe_load(made["extra_var"] or "{}")
        if not isinstance(given, dict):
            raise RefusedError({"extra_var": ["Extra var is not in object format"]})
        types = [self.type_of(self.one("eda-credentials", n)) for n in made["eda_credentials"]]
        for one in types:
            injects = one.get("injectors") or {}
            if both := sorted(set(injects.get("extra_vars", {})) & set(given)):
                raise RefusedError({"non_field_errors": [f"Key: {both} already exists."]})
        rules = self._rulebooks[self.one("rulebooks", made["rulebook_id"])["name"]]
        launches = any(one["name"].startswith("Red Hat") for one in types)
        if LAUNCHING.search(rules) and not launches:
            said = "The rulebook requires an Awx Token or RH AAP credential."
            raise RefusedError({"non_field_errors": [said]})
