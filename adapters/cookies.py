"""No cookies: what a server sets in one call is in no other, which may be another user's."""

from http.cookiejar import CookieJar, DefaultCookiePolicy


def none() -> CookieJar:
    """A jar that takes and gives nothing; a header `cookie` that a mapping names goes along."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))
