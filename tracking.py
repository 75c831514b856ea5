"""What is seen of a run: metrics.jsonl always, TensorBoard beside it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class Log:
    """metrics.jsonl and TensorBoard; on resuming, rows after the checkpoint are dropped."""

    def __init__(self, output: Path, step: int) -> None:
        self.path = output / "metrics.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        self.path.write_text("".join(line + "\n" for line in kept))
        self.board = SummaryWriter(str(output), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float | None], prefix: str) -> None:
        """Add one row; TensorBoard shows its values under `prefix`."""
        with self.path.open("a") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if value is not None:
                self.board.add_scalar(f"{prefix}/{name}", value, step)

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        self.board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # the last line of a killed run may be cut off
        return math.inf
