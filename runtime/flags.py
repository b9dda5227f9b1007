"""Settings as flags: how messages name them, and checks of their values."""


def plain(value):
    """JSON knows no tuples."""
    return list(value) if isinstance(value, tuple) else value


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def require(config, name: str, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{flag(name)} {getattr(config, name)}: it must be {what}")
