"""Settings from the environment (ANYLOOM_*): where things are kept, which model, which device, what is taken in.

Knows no command line; commands' options win over these.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..anygpt_model.errors import SettingsError


class Settings(BaseSettings):
    """Every field is an environment variable with ANYLOOM_ before it; an empty one is as good as unset."""

    model_config = SettingsConfigDict(env_prefix="ANYLOOM_", extra="ignore", env_ignore_empty=True)

    home: Path = Field(default_factory=lambda: user_data_path("anyloom", appauthor=False))
    """The folder of the default database and its media."""
    database_url: str | None = None
    """Any SQLAlchemy URL; SQLite in `home` where unset."""
    model: str = "pocket"
    """A model's name or its folder."""
    device: str | None = None
    """cpu, cuda, cuda:1 …; unset: a GPU if there is one."""
    quantize: str | None = None
    """int8 or int4: the bits of the language model's weights; unset: as they are."""
    low_memory: bool = False
    """Keep codecs off the GPU while they are idle."""
    voice: str | None = None
    """The voice of spoken replies: a saved voice's name."""
    urls: bool = False
    """Whether a served graph fetches what messages name by URL."""
    out: Path = Path("out")
    """Where commands write media."""
    debug: bool = False
    """Show tracebacks."""

    @cached_property
    def database(self) -> str | None:
        """The URL to open; None lets the store choose its place in `home`."""
        return self.database_url or f"sqlite:///{self.home.expanduser().absolute() / 'anyloom.db'}"


def settings() -> Settings:
    """The settings of this process's environment. Raises SettingsError for a value that can't be read."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "ANYLOOM_" + "_".join(map(str, first["loc"])).upper()
        raise SettingsError(f"{name} can't be used: {first['msg']}; correct it or unset it.") from None
