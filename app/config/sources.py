"""Where settings come from: arguments, the environment, and the files that it names."""

from pathlib import Path
from typing import Any, Final

import orjson
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsError

PREFIX: Final = "MCP_BROKER_"


class FileSource(PydanticBaseSettingsSource):
    """Reads `MCP_BROKER_X_FILE` for a setting x: the way of mounted secrets and Vault agents."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Unused: `__call__` reads all fields."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        import os  # noqa: PLC0415 the only place that reads the environment by hand

        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            path = os.environ.get(f"{PREFIX}{name.upper()}_FILE")
            if path:
                found[name] = self._read(Path(path), field)
        return found

    def _read(self, path: Path, field: Any) -> Any:
        """A file's value; one that cannot be read is told by what the setting wants."""
        try:
            text = path.read_text(encoding="utf-8").strip()
            return orjson.loads(text) if self.field_is_complex(field) else text
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {error}") from None


class Sourced(BaseSettings):
    """Settings from these sources."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the files that `*_FILE` variables name."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, FileSource(settings_cls)
