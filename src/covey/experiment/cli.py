"""The command line of a training program, made from the dataclasses of its settings.

    python algos/<program>.py <preset or environment> [--preset-scale small] [--num-seeds 64] [--env.num-agents 8] ...
    python algos/<program>.py --resume <folder>

A program has one frozen dataclass of settings, `Args`, whose fields are frozen dataclasses in turn: `env`, `run` (a
`RunConfig`) and whatever its method needs. Each of their fields is a flag, with the preset's value as default and the
docstring below the field as help; flags carry no prefix but `--env.` and `--social.`. A preset is a value of `Args`.

Exit status: 0 done, 2 wrong input (one line says what), 3 some seed diverged, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from covey.experiment import folder
from covey.experiment.checkpoint import RunError
from covey.experiment.runner import RunConfig, RunResult, run
from covey.learners.base import Learner

_runner: ContextVar[Callable[..., RunResult]] = ContextVar("runner", default=run)
Args = TypeVar("Args")
Presets = Mapping[str, Mapping[str, Args]]

SCALES = ("paper", "small")
PREFIXED = ("env", "social")
"""Settings whose flags carry their name, since their fields are called like others'."""


class Job(NamedTuple):
    """What `build` makes of the settings.

    learner, hp: as in `covey.learners.base`. data: arrays shared by all seeds, or None.
    """

    learner: Learner
    hp: Any
    data: Any = None


def main(
    program: str,
    doc: str | None,
    presets: Presets[Args],
    build: Callable[[Args], Job | tuple],
    for_env: Callable[[str], Args] | None = None,
    env_ids: Sequence[str] = (),
    argv: Sequence[str] | None = None,
) -> RunResult:
    """Parse the command line, build the job, run it; leaves with an exit status if something is wrong.

    program: the name in the run's folder. doc: the module's docstring, whose first paragraph heads the help.
    presets: preset -> scale ("paper", "small") -> settings. for_env: settings for a registered environment that has no
    preset; env_ids: their names. build: settings -> `Job(learner, hp, data)` or `(learner, hp)`; its ValueErrors, like
    those of the settings, become one line. argv: in place of the command line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    summary = (doc or "").strip().split("\n\n")[0]
    try:
        argv, resumed = _stored_argv(argv, program)
        if not argv or argv[0].startswith("-"):
            _overview(program, summary, presets, env_ids, argv)
        name, rest = argv[0], argv[1:]
        scale, rest = _take(rest, "--preset-scale")
        defaults = _defaults(name, scale, presets, for_env, env_ids)
        help_text = (
            f"{summary}\n\nSettings of {name}" + (f" ({scale})" if scale else "") + "; see --help alone for the others."
        )
        args = parse(defaults, rest, prog=f"{_script()} {name}", description=help_text)
        if resumed:
            args = dataclasses.replace(args, run=dataclasses.replace(args.run, resume=resumed))  # type: ignore[attr-defined]
        job = Job(*build(args))
        description = {"program": program, "script": sys.argv[0], "preset": name, "argv": argv, "args": args}
        description["env"] = repr(args.env)  # type: ignore[attr-defined]
    # A peer's environment may have a part that no adapter takes, or need a package that is not there.
    except (ValueError, NotImplementedError, ImportError) as error:
        _fail(error)
    except BrokenPipeError:  # `--help | head`: nobody reads on, which is nobody's mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    render = getattr(args.env, "render", None)  # type: ignore[attr-defined]
    try:
        result = _runner.get()(job.learner, job.hp, args.run, description, data=job.data, render=render)  # type: ignore[attr-defined]
    except RunError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    if result.diverged:
        sys.exit(3)
    return result


@contextlib.contextmanager
def runs_go_to(runner: Callable[..., RunResult]) -> Iterator[None]:
    """Within this block `main` calls `runner`, with the arguments of `covey.experiment.runner.run`, in place of that
    one: for who wants to know what a command line stands for, or to run it elsewhere."""
    token = _runner.set(runner)
    try:
        yield
    finally:
        _runner.reset(token)


class Planned(NamedTuple):
    """What a command line stands for: the arguments of `covey.experiment.runner.run`."""

    learner: Any
    hp: Any
    config: RunConfig
    description: dict[str, Any]
    data: Any
    render: Any


class _Caught(BaseException):
    """Leaves a program at the point where its run would begin."""


def plan(script: str | Path, argv: Sequence[str]) -> Planned:
    """What `python script *argv` would run. Raises ValueError with what is wrong, in the program's own words."""
    if not Path(script).is_file():
        raise ValueError(f"there is no program {script}")
    caught: list[Planned] = []

    def catch(
        learner: Any, hp: Any, config: RunConfig, description: dict[str, Any], *, data: Any, render: Any
    ) -> NoReturn:
        caught.append(Planned(learner, hp, config, description, data, render))
        raise _Caught

    said, before = io.StringIO(), sys.argv
    try:
        sys.argv = [str(script), *argv]
        with runs_go_to(catch), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(script), run_name="__main__")
    except _Caught:
        return caught[0]
    except SystemExit:
        message = said.getvalue().strip().removeprefix("error: ") or "its program left without saying why"
        raise ValueError(message) from None
    finally:
        sys.argv = before
    raise ValueError(f"{script} runs nothing through covey.experiment.cli")


def parse(defaults: Args, argv: Sequence[str], prog: str | None = None, description: str | None = None) -> Args:
    """`defaults` with the changes that `argv` asks for.

    Raises ValueError as the settings' own checks do, and on an unknown flag or a value that is not of the flag's type.
    """
    import tyro

    shown = _mirror(defaults, top=True)
    config = (tyro.conf.AvoidSubcommands,)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(
                type(shown), args=list(argv), default=shown, prog=prog, description=description, config=config
            )
    except SystemExit as leaving:
        if leaving.code in (0, None):  # --help
            raise
        raise ValueError(_in_a_line(complaint.getvalue())) from None
    return _unmirror(parsed, defaults)


def _in_a_line(box: str) -> str:
    """What tyro prints in a frame (or between dashes), as one line: its first part, and the flags it proposes."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        text = line.strip("│ ")
        if text and set(text) <= set("─-╰╯"):
            parts.append([])
        elif text:
            parts[-1].append(text)
    parts = [part for part in parts if part]
    close = [line.split()[0] for part in parts if part[0].startswith("Perhaps") for line in part if line[:2] == "--"]
    return " ".join(parts[0]) + (f"; did you mean {' or '.join(close)}?" if close else "")


def _mirror(value: Any, top: bool = False) -> Any:
    """`value` as an instance of a type made for it, which tells tyro what it could not know from the annotations.

    Its nested settings have the types that they have here (a field annotated with a base class gets the flags of the
    environment it holds), flags lose their prefix except `--env.` and `--social.`, and checks wait until the flags are
    read, so that what they raise reaches the caller and not tyro's printer.
    """
    import tyro

    original = type(value)
    values = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    values |= getattr(value, "as_given", {})  # what an object worked out from other settings, flags may change
    annotations = {}
    for name, item in values.items():
        if dataclasses.is_dataclass(item):
            values[name] = item = _mirror(item)
            prefixed = not top or name in PREFIXED
            annotations[name] = type(item) if prefixed else tyro.conf.OmitArgPrefixes[type(item)]
    undocumented = (original.__doc__ or "").startswith(f"{original.__name__}(")  # what `dataclass` writes there
    namespace = {
        # tyro finds the help below each field by module and name.
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": "" if undocumented else original.__doc__,
        "__annotations__": annotations,
        "__post_init__": lambda self: None,
        "__eq__": object.__eq__,
        "__hash__": object.__hash__,
    }
    # What a class sets itself is no flag; tyro makes one of each field that has a value.
    namespace |= {f.name: property(_absent) for f in dataclasses.fields(value) if not f.init}
    # Keywords only, so that fields with and without default may follow one another.
    cls = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(type(original.__name__, (original,), namespace))
    return cls(**values)


def _absent(_: Any) -> NoReturn:
    raise AttributeError


def _unmirror(parsed: Any, like: Any) -> Any:
    """`parsed`, a mirror of `like`, as the real types, whose checks run now."""
    values = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(like) if f.init}
    for name, item in values.items():
        if dataclasses.is_dataclass(getattr(like, name)):
            values[name] = _unmirror(item, getattr(like, name))
    return type(like)(**values)


def _defaults(
    name: str,
    scale: str | None,
    presets: Presets[Args],
    for_env: Callable[[str], Args] | None,
    env_ids: Sequence[str],
) -> Args:
    """The settings that the command line starts from. Raises ValueError for a name or scale that does not exist."""
    if name in presets:
        scales = presets[name]
        if scale is not None and scale not in scales:
            raise ValueError(f"--preset-scale is {scale}; {name} has: {', '.join(scales)}")
        return scales[scale] if scale else next(iter(scales.values()))
    if for_env and (name in env_ids or "/" in name):  # "family/name": the registry knows whether there is such a one.
        if scale is not None:
            raise ValueError(f"--preset-scale is for presets ({', '.join(presets)}); {name} is an environment")
        return for_env(name)
    close = difflib.get_close_matches(name, dict.fromkeys([*presets, *env_ids]), n=3)  # Some are in both.
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    environments = f"; environments: {', '.join(env_ids)}" if env_ids else ""
    raise ValueError(f"no preset or environment is called {name!r}; {hint}presets: {', '.join(presets)}{environments}")


def _stored_argv(argv: list[str], program: str) -> tuple[list[str], Path | None]:
    """The command to run and the folder to resume, if any: `--resume FOLDER [flags]` is the command that started that
    run, with `flags` after its own."""
    path, rest = _take(argv, "--resume")
    if path is None:
        return argv, None
    if rest and not rest[0].startswith("-"):
        return rest, Path(path)
    record = folder.read_config(Path(path))
    if record.get("program") != program:
        raise RunError(f"{path} is a run of {record.get('program')}, not of {program}")
    return [*record["argv"], *rest], Path(path)


def _take(argv: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of `--flag value` or `--flag=value`, and the other arguments. Raises ValueError if it has none."""
    rest, value = list(argv), None
    for i, argument in enumerate(argv):
        if argument == flag:
            if i + 1 == len(argv):
                raise ValueError(f"{flag} needs a value")
            value, rest = argv[i + 1], [*argv[:i], *argv[i + 2 :]]
        elif argument.startswith(f"{flag}="):
            value, rest = argument.split("=", 1)[1], [*argv[:i], *argv[i + 1 :]]
    return value, rest


def _overview(program: str, summary: str, presets: Presets, env_ids: Sequence[str], argv: Sequence[str]) -> NoReturn:
    """What there is to run, then every flag with the first preset's defaults; leaves."""
    asked = "-h" in argv or "--help" in argv
    if not asked:
        _fail(ValueError(f"name a preset or environment first; presets: {', '.join(presets)} (--help tells more)"))
    lines = [summary, "", "presets:"]
    width = max(map(len, presets))
    for name, scales in presets.items():
        lines.append(f"  {name:<{width}}  {_one_line(next(iter(scales.values())))}; scales: {', '.join(scales)}")
    if env_ids := [name for name in env_ids if name not in presets]:
        lines += ["", "environments (with general settings):", f"  {', '.join(env_ids)}"]
    name, scales = next(iter(presets.items()))
    lines += [
        "",
        f"--preset-scale {{{','.join(SCALES)}}}  size of the preset",
        "",
        f"flags, with the defaults of {name}:",
    ]
    print("\n".join(lines), flush=True)
    parse(next(iter(scales.values())), ["--help"], prog=f"{_script()} PRESET")
    sys.exit(0)


def _one_line(args: Any) -> str:
    """A preset in a few words."""
    config = args.run
    length = f"{config.num_updates} updates" if config.num_updates else f"{config.total_steps:,} steps"
    agents = getattr(args.env, "num_agents", None)
    return f"{type(args.env).__name__}, {agents} agents, {config.num_seeds} seeds, {length}"


def _script() -> str:
    return f"python {sys.argv[0]}"


def _fail(error: Exception) -> NoReturn:
    """One line on stderr, status 2."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
