"""An adapter's words quote no secret, in whatever form its interpreter or its tools print it."""

import base64
import html
import json
import re
import shlex
import subprocess
import sys
import urllib.parse
from typing import Any

import pytest
import yaml

from app.catalog.redaction import REDACTED, mask, secrets

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "password": {"type": "string", "x-sensitive": True},
        "pin": {"x-sensitive": True},
        "keys": {"type": "array", "items": {"x-sensitive": True}},
        "user": {},
    },
}
SECRETS = (
    "p\"a'ss\\w/rd <&> ü\n\tend+1 %",
    "s3cr3t-plain",
    "it's/a+b=c?d&e",
    "\u00e9\u4e2d\U0001f511k",
)


def lowered(quoted: str) -> str:
    return re.sub("%..", lambda one: one[0].lower(), quoted)


PRINTED = {
    "as it is": lambda secret: f"logging in with {secret}!",
    "JSON": lambda secret: json.dumps({"password": secret}),
    "JSON, not ASCII": lambda secret: json.dumps({"password": secret}, ensure_ascii=False),
    "JSON of PHP": lambda secret: json.dumps({"password": secret}).replace("/", "\\/"),
    "repr": lambda secret: f"KeyError: {secret!r} in {[secret]}",
    "ascii": lambda secret: ascii({"password": secret}),
    "bytes": lambda secret: repr(f"x{secret}y".encode()),
    "a shell's argument": lambda secret: f"curl -u {shlex.quote('me:' + secret)}",
    "a URL": lambda secret: f"https://me:{urllib.parse.quote(secret, safe='')}@host/",
    "a URL's path": lambda secret: f"https://host/{urllib.parse.quote(secret)}",
    "a form": lambda secret: urllib.parse.urlencode({"password": secret}),
    "a URL in lower case": lambda secret: lowered(urllib.parse.quote(secret, safe="")),
    "HTML": lambda secret: f"<b>{html.escape(secret)}</b>",
    "XML": lambda secret: f"<b>{html.escape(secret, quote=False)}</b>",
    "Base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "Basic": lambda secret: base64.b64encode(f"ada:{secret}".encode()).decode(),
    "Base64 in between": lambda secret: base64.urlsafe_b64encode(
        f"ab{secret}xyz".encode()
    ).decode(),
    "SQL": lambda secret: "VALUES ('" + secret.replace("'", "''") + "')",
}


def readings(said: str) -> str:
    """What somebody can read of a text who knows these forms, in one text."""
    found = [said, html.unescape(said), urllib.parse.unquote(said), urllib.parse.unquote_plus(said)]
    for word in said.replace("-", "+").replace("_", "/").split():
        for part in range(4):
            padded = word[part:] + "=" * (-len(word[part:]) % 4)
            try:
                found.append(base64.b64decode(padded).decode("utf-8", "ignore"))
            except ValueError:
                continue
    return "\n".join(found)


@pytest.mark.guarantee("redaction:everywhere")
@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", PRINTED)
def test_a_secret_is_masked_in_each_form_that_programs_print(form: str, secret: str) -> None:
    hidden = secrets({"password": secret, "user": "ada"}, SCHEMA)
    printed = PRINTED[form](secret)
    told = mask({"message": printed, "more": [printed]}, hidden)
    assert REDACTED in told["message"], told
    assert secret not in readings(told["message"])
    assert printed not in str(told)
    assert "ada" in mask(f"ada {printed}", hidden)


@pytest.mark.guarantee("redaction:everywhere")
def test_a_traceback_of_an_interpreter_is_masked() -> None:
    secret = SECRETS[0]
    lines = f"password = {secret!r}\nraise KeyError({{'password': password}})"
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, check=False
    )
    assert repr(secret)[1:-1] in done.stderr
    masked = mask(done.stderr, secrets({"password": secret}, SCHEMA))
    assert repr(secret)[1:-1] not in masked
    assert "KeyError" in masked


@pytest.mark.guarantee("redaction:everywhere")
@pytest.mark.parametrize(
    "said",
    [
        {"pin": "123"},
        {"pin": 123},
        {"args": ["123"]},
        "{'pin': '123', 'user': 'ada'}",
        json.dumps({"pin": 123}),
        yaml.safe_dump({"pin": 123}),
        "login --pin 123 failed",
        "pin=123&user=ada",
    ],
)
def test_a_short_secret_is_masked_by_its_field(said: Any) -> None:
    told = str(mask(said, secrets({"pin": 123, "keys": ["ab"]}, SCHEMA)))
    assert "123" not in told
    assert REDACTED in told


def test_a_short_secret_is_not_looked_for_in_other_words() -> None:
    hidden = secrets({"pin": 7, "keys": ["ab"]}, SCHEMA)
    for said in ("took 7 s", "about 70", {"line": "7 of 17"}, "pin 77", "spin 7"):
        assert mask(said, hidden) == said
    assert mask(["ab", "abc"], hidden) == [REDACTED, "abc"]
