"""MLflow's database, and MLflow itself, in folders of whatever name."""

from pathlib import Path


def sqlite_uri(file: Path) -> str:
    """Address of a database: SQLAlchemy takes what follows a ``?`` for options, and ``%41`` for a letter."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def _make_nothing(db_uri: str) -> None: ...


def mend_mlflow() -> None:
    """Let MLflow be where a ``%`` is in its own path or its database's.

    Alembic takes a ``%`` in the path of MLflow's migrations for a placeholder. And MLflow makes the folder of a
    database by its address as it stands, a second one where that is quoted; the right one is made by `connect`.
    """
    from alembic.config import Config
    from mlflow.store.db import utils

    original = Config.set_main_option
    if original.__module__ == __name__:
        return

    def set_main_option(self: Config, name: str, value: str) -> None:
        original(self, name, value.replace("%", "%%") if name == "script_location" else value)

    Config.set_main_option = set_main_option  # type: ignore[method-assign]
    utils._make_parent_dirs_if_sqlite = _make_nothing
