"""What a pipeline run ends with: build/summary.json and the table on the screen."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from simipu_core.evaluation.report import Scores
from simipu_core.files import disk_errors, write_file
from simipu_core.tracking.registry import ModelVersion


class Step(BaseModel):
    """How a step went."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float
    cached: bool


class Summary(BaseModel):
    """``summary.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    protocol: str
    """Protocol of the headline Abs Rel."""
    abs_rel: float
    metrics: dict[str, Scores]
    baselines: dict[str, dict[str, Scores]]
    model: ModelVersion
    promotion: str = ""
    """What the promotion gate decided, and what was done."""
    mlflow_run_id: str
    mlflow_url: str
    seconds: float
    """Duration of the whole run, the start of each step included."""
    steps: dict[str, Step]

    def write(self, file: Path) -> None:
        """Write the file atomically."""
        with disk_errors(file):
            write_file(file, (self.model_dump_json(indent=2) + "\n").encode())

    def show(self, console: Console) -> None:
        """Print the scores with their reference lines, the model, where to look, and the time of each step."""
        scores = Table(title=f"{self.experiment}: Abs Rel (smaller is better)", title_justify="left")
        scores.add_column("protocol")
        scores.add_column("model", justify="right", style="bold")
        for baseline in self.baselines:
            scores.add_column(baseline.replace("_", " "), justify="right")
        for protocol, values in self.metrics.items():
            others = (by_protocol[protocol]["abs_rel"] for by_protocol in self.baselines.values())
            name = f"{protocol} (headline)" if protocol == self.protocol else protocol
            scores.add_row(name, *(f"{value:.4f}" for value in (values["abs_rel"], *others)))
        console.print(scores)

        times = Table(title=f"Seconds per step ({self.seconds:.0f} in all)", title_justify="left")
        times.add_column("step")
        times.add_column("seconds", justify="right")
        for name, step in self.steps.items():
            times.add_row(name, "cached" if step.cached else f"{step.seconds:.1f}")
        console.print(times)

        console.print(f"Model    {self.model.name} version {self.model.version}, alias {self.model.alias or 'none'}")
        if self.promotion:
            console.print(f"         {self.promotion}", soft_wrap=True, highlight=False)
        console.print(f"MLflow   make mlflow, then {self.mlflow_url}", soft_wrap=True)
