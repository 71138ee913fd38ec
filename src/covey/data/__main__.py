"""The command line: look at datasets, convert them, put them together, draw them.

python -m covey.data inspect PATH
python -m covey.data convert PATH DEST [--format omiga] [--time-limit 1000] [--clip 1]
python -m covey.data merge PATH ... --out DEST
python -m covey.data subsample PATH --out DEST (--episodes 100 | --transitions 100000) [--seed 0]
python -m covey.data histogram PATH --out FILE.png [--what returns actions]

Every PATH may be in any format that `convert` reads. What cannot be read or written ends with status 2 and one line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from covey.data.dataset import DataError, Dataset, episode_returns, merge, statistics, subsample
from covey.data.histogram import PANELS, save_histograms
from covey.data.loaders import FORMATS, detect, read
from covey.data.storage import save
from covey.experiment.log import Log


def inspect(dataset: Dataset, name: str, log: Log, every_dimension: bool = False) -> None:
    """Print what a dataset holds: sizes, ends of episodes, returns, statistics of its arrays, provenance."""
    returns, length = episode_returns(dataset).mean(axis=1), np.asarray(dataset.length)
    steps = dataset.num_transitions
    unusable = steps - int(np.asarray(dataset.mask).sum())
    ended = (
        f"{int(np.asarray(dataset.terminated).sum())} terminated, {int(np.asarray(dataset.truncated).sum())} truncated"
    )
    sizes = f"state {dataset.state_size}, {dataset.num_agents} agents: obs {_own(dataset.obs_mask)}"
    log.header(
        {
            "dataset": name,
            "episodes": f"{dataset.num_episodes}: {ended}",
            "transitions": f"{steps}, {unusable} of them without what followed" if unusable else str(steps),
            "sizes": f"{sizes}, actions {_own(dataset.action_mask)}",
            "memory": f"{dataset.nbytes / 2**20:.3g} MiB",
            "length": _summary(length),
            "return": f"{_summary(returns)}, mean over agents",
        }
    )
    rows = []
    for leaf, own in statistics(dataset)._asdict().items():
        masks = {"obs": dataset.obs_mask, "action": dataset.action_mask}
        shown = np.asarray(masks.get(leaf, np.ones_like(own.constant)), bool)
        padding = int((~shown).sum())
        entries = [(leaf, shown, f"{int(shown.sum())}" + (f" + {padding} padding" if padding else ""))]
        if every_dimension:
            entries = [(f"{leaf}{list(map(int, at))}", _only(shown, at), "1") for at in np.argwhere(shown)]
        for label, part, count in entries:
            cells = [own.min[part].min(), own.max[part].max(), own.mean[part].mean(), own.std[part].mean()]
            flags = [str(int(own.constant[part].sum())), str(int(own.discrete[part].sum()))]
            rows.append([label, count, *(f"{x:.4g}" for x in cells), *flags])
    log.table(["array", "dimensions", "min", "max", "mean", "mean std", "constant", "discrete"], rows)
    log.line(f"provenance {json.dumps(dict(dataset.provenance))}")


def _own(mask: Any) -> str:
    """Agents' own sizes: "3", or "2, 3, 2" where they differ."""
    sizes = np.asarray(mask).sum(axis=1)
    return str(sizes[0]) if (sizes == sizes[0]).all() else ", ".join(map(str, sizes))


def _summary(values: np.ndarray) -> str:
    return f"{values.mean():.4g} ± {values.std():.4g} in [{values.min():.4g}, {values.max():.4g}]"


def _only(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A mask of the shape of `mask` that holds at one place."""
    one = np.zeros_like(mask)
    one[tuple(at)] = True
    return one


def _read(path: Path, args: argparse.Namespace) -> Dataset:
    """The dataset at `path`; options that its format has no use for are an error."""
    format = args.format or detect(path)
    options = {}
    if args.time_limit is not None:
        options["time_limit"] = args.time_limit or None
    if args.clip is not None:
        options["clip"] = args.clip or None
    if options and format == "covey":
        raise DataError(f"{path}: {next(iter(options))}: expected a foreign format to apply it to, found covey's own")
    return read(path, format, **options)


def _parser() -> argparse.ArgumentParser:
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--format", choices=list(FORMATS), help="of PATH; by default told by its files")
    source.add_argument(
        "--time-limit",
        type=int,
        metavar="STEPS",
        help="episodes of this length were cut off; 0: none were (default: 1000 for omiga, else 0)",
    )
    source.add_argument(
        "--clip", type=float, metavar="BOUND", help="clip actions to ± BOUND; 0: don't (default: 1 for omiga, else 0)"
    )
    target = argparse.ArgumentParser(add_help=False)
    target.add_argument("--overwrite", action="store_true", help="replace a dataset that is there")

    parser = argparse.ArgumentParser(prog="python -m covey.data", description="Offline datasets.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("inspect", parents=[source], help="sizes, ends of episodes, returns, statistics")
    one.add_argument("path", type=Path)
    one.add_argument("--every-dimension", action="store_true", help="a row for each dimension")
    one = commands.add_parser("convert", parents=[source, target], help="another project's format to Covey's")
    one.add_argument("path", type=Path)
    one.add_argument("out", type=Path, metavar="DEST")
    one.add_argument("--note", help="a line for the provenance: environment, version, where it is from")
    one = commands.add_parser("merge", parents=[source, target], help="several datasets into one")
    one.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    one.add_argument("--out", type=Path, required=True, metavar="DEST")
    one = commands.add_parser("subsample", parents=[source, target], help="some of its episodes, at random")
    one.add_argument("path", type=Path)
    one.add_argument("--out", type=Path, required=True, metavar="DEST")
    size = one.add_mutually_exclusive_group(required=True)
    size.add_argument("--episodes", type=int, help="how many")
    size.add_argument("--transitions", type=int, help="episodes with at least so many")
    one.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    one = commands.add_parser("histogram", parents=[source], help="a picture")
    one.add_argument("path", type=Path)
    one.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    one.add_argument("--what", nargs="+", choices=PANELS, default=["returns", "lengths", "actions"], help="panels")
    one.add_argument("--bins", type=int, default=50, help="(default: %(default)s)")
    return parser


def run(args: argparse.Namespace, log: Log) -> None:
    """One command. Raises ValueError for what cannot be done."""
    made = merge([_read(path, args) for path in args.paths]) if args.command == "merge" else _read(args.path, args)
    if args.command == "inspect":
        inspect(made, str(args.path), log, args.every_dimension)
        return
    if args.command == "histogram":
        save_histograms(made, args.out, args.what, args.bins, args.path.name)
        log.line(str(args.out))
        return
    if args.command == "subsample":
        made = subsample(made, episodes=args.episodes, transitions=args.transitions, seed=args.seed)
    if args.command == "convert" and args.note:
        made = replace(made, provenance=dict(made.provenance) | {"note": args.note})
    save(made, args.out, args.overwrite)
    log.line(f"{args.out}: {made.num_episodes} episodes, {made.num_transitions} transitions")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; leaves with status 2 and one line if something cannot be read, written or done."""
    args = _parser().parse_args(argv)
    try:
        run(args, Log())
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
