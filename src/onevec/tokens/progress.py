"""A progress bar with rate and time left, on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Bar:
    """Counts sequences or steps; silent where standard error is no terminal."""

    def __init__(self, total: int | None, show: bool, label: str = "encoding"):
        from rich.console import Console

        console = Console(stderr=True)
        self.note = ""  # shown behind the rate
        self._bar: Any = None
        if show and console.is_terminal:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(label, total=total, rate="")

    def advance(self, count: int) -> None:
        """Count some more sequences."""
        if self._bar is None:
            return
        self._bar.update(self._task, advance=count)
        speed = self._bar.tasks[0].speed
        rate = [f"{speed:,.0f}/s"] if speed else []
        self._bar.update(self._task, rate=", ".join([*rate, self.note] if self.note else rate))

    def step(self, step: int, steps: int, loss: float) -> None:
        """Count one training step and show its loss."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, total=steps, rate=f"loss {loss:.3f}")

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
