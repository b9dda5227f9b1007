"""What a checkpoint says of itself, and how flags add to it: a contradiction is an error."""

from runtime.flags import flag
from sampling.sample_config import SampleConfig

PATHS = ("Linear", "GVP", "VP")
OFFICIAL = {"vae": "ema", "path_type": "Linear", "prediction": "velocity", "sample_eps": None}
"""What a checkpoint without a config, as the official ones are, was trained with."""


def resolve(c: SampleConfig, arch: dict, stored: dict | None) -> dict:
    """The settings in force: the checkpoint's, else the flag's, else the official ones.

    Args:
        arch: the network as read from the checkpoint.
        stored: the config of the training run, None for a checkpoint that carries none.

    Raises `ValueError` for a flag that contradicts the checkpoint.
    """
    stored = stored or {}
    transport = stored.get("transport", {})
    known = {"model": arch["name"], "num_classes": arch["num_classes"]}
    known |= {key: stored[key] for key in ("image_size", "vae") if key in stored}
    known |= {key: transport[key] for key in ("path_type", "prediction") if key in transport}
    for name, value in known.items():
        given = getattr(c, name)
        decodes_alike = name == "vae" and "none" not in (given, value)
        if given is not None and given != value and not decodes_alike:
            raise ValueError(
                f"{flag(name)} {given}: the checkpoint says {value}; leave the flag out"
            )
    defaults = OFFICIAL | known | {"sample_eps": transport.get("sample_eps")}
    given = {key: getattr(c, key) for key in (*OFFICIAL, "image_size")}
    return defaults | {key: value for key, value in given.items() if value is not None}


def stored_settings(checkpoint: dict) -> dict | None:
    """What a checkpoint says of its training: our config, or the command line that SiT stores."""
    if "config" in checkpoint:
        codec = {"vae": checkpoint["codec"]} if "codec" in checkpoint else {}  # a folder, resolved
        return checkpoint["config"] | codec
    args = checkpoint.get("args")
    if getattr(args, "path_type", None) not in PATHS:
        return None  # none, or of another program
    transport = {key: getattr(args, key, None) for key in ("path_type", "prediction", "sample_eps")}
    return {"image_size": args.image_size, "transport": transport}
