"""What a run says: a header, progress, a closing table. A few plain lines where stdout is not a terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_LINES = 8


class Log:
    """Says things on stdout, or nothing if `quiet`. Errors and warnings go to stderr either way."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False)
        if not self.console.is_terminal:
            self.console.width = 140  # a log file has no width to wrap at
        self.errors = Console(stderr=True, highlight=False)
        self.bar: Progress | None = None

    def line(self, text: str) -> None:
        """One line; "[...]" in it is taken literally."""
        self.console.print(text, markup=False, soft_wrap=True)

    def warning(self, text: str) -> None:
        """One line on stderr."""
        self.errors.print(text, style="yellow", markup=False, soft_wrap=True)

    def header(self, rows: dict[str, str]) -> None:
        """A block of names and values."""
        width = max(map(len, rows))
        for name, value in rows.items():
            self.line(f"{name:<{width}}  {value}")

    def start(self, done: int, total: int, steps_per_update: int) -> None:
        """Begin to count updates; `steps_per_update` over all seeds."""
        self.first, self.total, self.steps_per_update = done, total, steps_per_update
        self.began, self.printed, self.latest = time.perf_counter(), done, ""
        if self.console.is_terminal and not self.console.quiet:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("updates"), TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console)
            self.task = self.bar.add_task("", total=total, completed=done, note="")
            self.bar.start()

    def advance(self, done: int, seconds: float, latest: str) -> None:
        """`done` updates so far; `seconds` of computing since `start`; `latest` result in words, "" if none is new."""
        self.latest = latest or self.latest
        rate = (done - self.first) * self.steps_per_update / max(seconds, 1e-9)
        speed = f"{number(rate)} steps/s  " if self.steps_per_update else ""
        if self.bar:
            self.bar.update(self.task, completed=done, note=speed + self.latest)
        elif done == self.total or done - self.printed >= self.total / PLAIN_LINES:
            elapsed = time.perf_counter() - self.began
            left = elapsed * (self.total - done) / max(done - self.first, 1)
            self.line(f"{done}/{self.total} updates  {speed}{self.latest}  {duration(left)} left")
            self.printed = done

    def stop(self) -> None:
        """End the progress display."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def table(self, head: list[str], rows: list[list[str]], title: str | None = None) -> None:
        """A table, the first column left-aligned and the others right-aligned."""
        table = Table(title=title, title_justify="left")
        for i, name in enumerate(head):
            table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


def number(x: float) -> str:
    """A count to three digits: 12300000 as "12.3M"."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= 0.9995 * scale:
            return f"{x / scale:.3g}{unit}"
    return f"{x:.3g}"


def duration(seconds: float) -> str:
    """Seconds in words: "3.2 s", "4 min 10 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
