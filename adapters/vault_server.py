"""Which vault an executor has, and how it logs in there; apart, as settings know it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultServer:
    """Where it is, and how to log in: by `token`, by AppRole (`role_id`, `secret_id`) or by a JWT
    (`role`, `jwt`). All but addresses, roles and mounts are references of kind env: or file:.
    """

    address: str
    namespace: str | None = None
    ca_file: str | None = None
    token: str | None = None
    role_id: str | None = None
    secret_id: str | None = None
    role: str | None = None
    jwt: str | None = None
    auth_mount: str | None = None

    def __post_init__(self) -> None:
        ways = [self.token, self.role_id and self.secret_id, self.role and self.jwt]
        if sum(one is not None for one in ways) != 1:
            raise ValueError("a vault needs one of token, role_id and secret_id, role and jwt")
