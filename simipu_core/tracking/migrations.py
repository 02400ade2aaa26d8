"""MLflow's database in whatever folder this Python lies."""


def allow_percent_signs() -> None:
    """Let MLflow find its migrations in a folder whose path has a `%`, which Alembic would take for a placeholder."""
    from alembic.config import Config

    original = Config.set_main_option
    if getattr(original, "__module__", "") == __name__:
        return

    def set_main_option(self: Config, name: str, value: str) -> None:
        original(self, name, value.replace("%", "%%") if name == "script_location" else value)

    Config.set_main_option = set_main_option  # type: ignore[method-assign]
