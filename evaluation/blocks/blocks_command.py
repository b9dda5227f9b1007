"""`python -m evaluation blocks`: opens everything, measures what is missing, writes and draws."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evaluation.blocks.blocks_config import BlocksConfig, check_blocks_config
from evaluation.blocks.blocks_record import (
    BlocksRecord,
    check_finite_numbers,
    common_recipe,
    key_of,
)
from evaluation.blocks.experiments import Experiment, Subject, checkpoint_name, find_experiment
from evaluation.blocks.held_out import with_split_folders
from evaluation.blocks.probed_checkpoint import ProbedCheckpoint
from evaluation.blocks.summary import summary_table
from runtime.command import run_errors
from runtime.files import write_text
from runtime.locks import lock_output
from runtime.processes import Processes, choose_device, told_by_first

SUMMARY = "summary.md"
REMEDY = "What was measured is kept; repair that and give the command again"


def run_blocks(c: BlocksConfig) -> None:
    """Run the command on this process; raise `ValueError` for bad input before any work."""
    check_blocks_config(c)
    c = with_split_folders(c)
    folder = Path(c.out) if c.out else default_folder(c.ckpt[0])
    processes = Processes()
    lock = lock_output(folder, folder / "blocks.lock")
    with lock.released_on_error():
        subjects = open_subjects(c, processes)
        experiments = make_experiments(c, subjects)
        record = BlocksRecord(folder)
    if processes.first:
        for subject in subjects:
            print(describe(subject), flush=True)
    with run_errors(REMEDY):
        done = measure_all(experiments, subjects, record)
        if processes.first:
            finish(done, record)
    lock.release()
    processes.close()


def open_subjects(c: BlocksConfig, processes: Processes) -> list[Subject]:
    """Open every checkpoint; raise `ValueError` for one that cannot be probed."""
    device = choose_device()
    subjects = []
    for name, path in zip(c.names or default_names(c.ckpt), c.ckpt, strict=True):
        one = ProbedCheckpoint(path, c, device)
        if set(c.probes) != {"segmentation"}:  # segmentation looks at other images
            one.encoding  # noqa: B018 (made here, it refuses data that the network cannot see)
        depth = len(one.blocks)
        if c.labels == "null":
            one.check_null_label("; --labels true gives it the images' own")
        elif max(one.source.labels) >= one.trained.arch["num_classes"]:
            raise ValueError(
                f"--labels true: {one.data.data_name} has label {max(one.source.labels)}, "
                f"checkpoint {path} knows {one.trained.arch['num_classes']} classes"
            )
        if c.blocks and max(c.blocks) > depth:
            raise ValueError(f"--blocks {max(c.blocks)}: checkpoint {path} has {depth} blocks")
        numbers = tuple(sorted(c.blocks)) or tuple(range(1, depth + 1))
        subjects.append(Subject(name, one, c, processes, numbers))
    return subjects


def make_experiments(
    c: BlocksConfig, subjects: Sequence[Subject]
) -> list[tuple[tuple[str, ...], Experiment]]:
    """Make each experiment that --probes asks for, with all of the words that it answers."""
    words: dict[type[Experiment], list[str]] = {}
    for word in c.probes:
        words.setdefault(find_experiment(word), []).append(word)
    return [(tuple(own), kind(tuple(own), subjects)) for kind, own in words.items()]


def measure_all(
    experiments: Sequence[tuple[tuple[str, ...], Experiment]],
    subjects: Sequence[Subject],
    record: BlocksRecord,
) -> list[dict]:
    """Measure what the record does not hold yet; return all measurements of this command."""
    done: list[dict] = []
    for words, experiment in experiments:
        for subject in subjects:
            recipe = common_recipe(subject) | experiment.recipe(subject)
            key = key_of(subject, recipe)
            missing = told_by_first(partial(record.missing, words, key))
            if missing:
                scratch = record.folder / f"{words[0]}-{key}.part"
                measurements = experiment.measure(subject, scratch)
                check_finite_numbers(measurements, subject.name)
                if subject.processes.first:
                    for word in missing:
                        own = {p: m for p, m in measurements.items() if p.partition(" ")[0] == word}
                        record.add(word, key, subject, recipe, own)
                    scratch.unlink(missing_ok=True)
            elif subject.processes.first:
                print(f"{subject.name}: {', '.join(words)} measured before", flush=True)
            for word in words:
                entries = record.find(word, key)
                done += [entry | {"name": subject.name} for entry in entries]
    return done


def finish(done: Sequence[dict], record: BlocksRecord) -> None:
    """Print and write the summary, and draw the pictures."""
    from evaluation.blocks.blocks_pictures import draw_maps, draw_probe

    probes: dict[str, list[dict]] = {}
    for entry in done:
        probes.setdefault(entry["probe"], []).append(entry)
    table = summary_table(probes)
    write_text(record.folder / SUMMARY, table + "\n")
    for probe, entries in probes.items():
        path = record.folder / f"{probe.replace(' ', '-')}.png"
        draw_probe(entries, path)
        if any(entry["maps"] for entry in entries):
            draw_maps(entries, path.with_name(f"{path.stem}-maps.png"))
    print(f"\n{table}\n\n{record.folder} holds all of it: blocks.json, blocks.csv, pictures")


def describe(subject: Subject) -> str:
    trained = subject.checkpoint.trained
    step = "" if trained.step is None else f", step {trained.step:,}"
    blocks = ", ".join(map(str, subject.numbers))
    data = subject.checkpoint.data.data_name
    if set(subject.config.probes) == {"segmentation"}:  # which looks at no others
        data = str(subject.config.segmentation_options.masks)
    return f"{subject.name}: {trained.arch['name']}{step}, blocks {blocks}; images of {data}"


def default_folder(ckpt: str) -> Path:
    """Return FILE.blocks beside the checkpoint, or here for one on the hub."""
    path = Path(ckpt)
    return (path if path.is_file() else Path(path.name)).with_suffix(".blocks")


def default_names(paths: Sequence[str]) -> list[str]:
    """Return a name for each checkpoint: its run's, with the file's where runs do not differ."""
    names = [checkpoint_name(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    names = [f"{name} {path.stem}" for name, path in zip(names, map(Path, paths), strict=True)]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]
