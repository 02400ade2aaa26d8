"""Text without the secrets that it may hold: what people, servers and files get to read passes through here."""

import os
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

MASK = "***"

_SECRET_NAME = re.compile(
    r"(^|_)(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|COOKIE|CREDENTIALS?|API_?KEY|ACCESS_KEY(_ID)?|SECRET_KEY|PRIVATE_KEY"
    r"|ACCOUNT_KEY|STORAGE_KEY|CONNECTION_STRING)(_VALUE)?$|^PGPASSWORD$",
    re.IGNORECASE,
)
_SHORTEST = 4
"""Characters below which a variable's value is no secret that could be found in text."""
_USERINFO = re.compile(
    r"(?<=://)(?:"
    r"[^\s:/@]{0,200}:(?!\d{1,5}(?:[\s/?#).,;'\"]|$))(?:(?!://)[^\n]){0,500}@"  # user:password@, with anything in it
    r"|[^\s:/@]{0,200}:\S{0,500}@"  # the same, where it begins as a port does
    r"|[^\s:/?#@]{1,500}@"  # user@ or token@
    r")"
)
_ASSIGNMENT = re.compile(
    r"((?:password|passwd|passphrase|secret|token|api_?key|access_?key|secret_?key|signature)\s*=\s*)[^\s&,;'\"()]+",
    re.IGNORECASE,
)
_BARE_LOGIN = re.compile(r"[^\s:/@]+:(?!//|\S*@sha256:)[^\s@]+@[^\s@]+")
"""user:password@host, where a whole text is one; not: name:tag@sha256:…"""
_AUTHORIZATION = re.compile(r"\b(Basic|Bearer)\s+(?=\S*[0-9=+/_])[A-Za-z0-9+/=._~-]{8,}")


def redacted(text: str) -> str:
    """The text with every secret in it masked.

    Secrets are the values of environment variables with secret-looking names, the user and password in the address
    that any variable holds, and what looks like either in the text itself.
    """
    for secret in _known(os.environ):
        text = text.replace(secret, MASK)
    text = _USERINFO.sub(f"{MASK}@", text)
    text = _ASSIGNMENT.sub(rf"\1{MASK}", text)
    return _AUTHORIZATION.sub(rf"\1 {MASK}", text)


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a secret, e.g. ``HF_TOKEN``; not: ``KFP_TOKEN_FILE``."""
    return _SECRET_NAME.search(name) is not None


def holds_secret(text: str) -> bool:
    """Whether a setting looks as if it held a login, token or signature."""
    patterns = (_USERINFO, _ASSIGNMENT, _AUTHORIZATION)
    return any(each.search(text) for each in patterns) or _BARE_LOGIN.fullmatch(text) is not None


def has_userinfo(uri: str) -> bool:
    """Whether an address holds a user or password, as in ``http://user:password@host``; any character may be in it."""
    return _userinfo(uri) is not None


def has_password(uri: str) -> bool:
    """Whether an address holds a password; a user alone is none."""
    return ":" in (_userinfo(uri) or "")


def without_userinfo(uri: str) -> str:
    """The address without the user and password that it may hold."""
    userinfo = _userinfo(uri)
    return uri if userinfo is None else uri.replace(f"{userinfo}@", "", 1)


def credentials(header: str) -> list[str]:
    """What is secret in the value of a header: it, a bearer token, and the value of each cookie; longest first."""
    cookies = {cookie.partition("=")[2].strip() for cookie in header.split(";")}
    found = {header, header.removeprefix("Bearer "), *cookies}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True)


def _userinfo(uri: str) -> str | None:
    found = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://([^/].*)@", uri, re.DOTALL)
    return found[1] if found else None


def _known(environment: Mapping[str, str]) -> list[str]:
    """Secrets that the environment holds, longest first, as they are and as addresses write them."""
    found = set()
    for name, value in environment.items():
        if is_secret_name(name):
            found |= {value, *(credentials(value) if "COOKIE" in name.upper() else [])}
        elif userinfo := _userinfo(value):
            found |= {userinfo, userinfo.partition(":")[2]}
    found |= {unquote(secret) for secret in found} | {quote(secret, safe="") for secret in found}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True)
