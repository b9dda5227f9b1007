"""Switches with three positions: --compile, --no-compile, and neither, which is decided later."""

from tyro.constructors import PrimitiveConstructorSpec

WORDS = {"yes": True, "no": False, "None": None}
NAMES = {value: word for word, value in WORDS.items()}

SWITCH = PrimitiveConstructorSpec(
    nargs=1,
    metavar="{" + ",".join(WORDS) + "}",
    choices=tuple(WORDS),
    instance_from_str=lambda words: WORDS[words[0]],
    is_instance=lambda value: value is None or isinstance(value, bool),
    str_from_instance=lambda value: [NAMES[value]],
)
"""Mark of a field, `Annotated[bool | None, SWITCH]`: True for --name and --name yes, False for
--no-name, None for neither."""


def spell_switches(words: list[str], names: list[str]) -> list[str]:
    """Return a command line with --name and --no-name of these fields as --name yes and --name no.

    Where a word of `WORDS` follows --name, it stays.
    """
    spelled = []
    for i, word in enumerate(words):
        name = word[2:].replace("-", "_") if word[:2] == "--" else ""
        follows = words[i + 1] if i + 1 < len(words) else ""
        if name in names and follows not in WORDS:
            spelled += [word, "yes"]
        elif name.removeprefix("no_") in names and name.startswith("no_"):
            spelled += [f"--{word[5:]}", "no"]
        else:
            spelled.append(word)
    return spelled
