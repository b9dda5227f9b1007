"""Settings as flags: how messages name them, checks of their values, which may change later."""

import dataclasses


def free(default):
    """Declare a field that may change when a run is resumed: it shapes nothing a run computes."""
    return dataclasses.field(default=default, metadata={"free": True})


def plain(value):
    """JSON knows no tuples."""
    return list(value) if isinstance(value, tuple) else value


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def require(config, name: str, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{flag(name)} {getattr(config, name)}: it must be {what}")
