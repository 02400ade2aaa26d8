"""Several data sets together, below one root."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.sources.base import Source
from simipu_core.data.splits import Split

if TYPE_CHECKING:
    from simipu_core.data.sources import AnySource


class Mixed(Source):
    """Several data sets, listed in `sources`, below one root, each with its own options and split."""

    kind: Literal["mixed"] = "mixed"
    split: Literal["none"] = "none"
    """Each of the sources has its own, and so it is with `every` and `train_share`."""
    sources: "tuple[AnySource, ...]" = ()
    """What is read together, each with its own kind and options, all below the one `root`. How often training sees each
    is a matter of its `source_weights`."""

    expected: ClassVar = "the folders of its sources"

    @model_validator(mode="after")
    def _sources_fit_together(self) -> Self:
        kinds = [source.kind for source in self.sources]
        if not kinds:
            raise ValueError("kind: mixed and a list of sources go together")
        if self.kind in kinds or len(set(kinds)) < len(kinds):
            raise ValueError("sources must be of different kinds, none of them mixed")
        fields = type(self).model_fields
        if any(source.root != fields["root"].default for source in self.sources):
            raise ValueError("sources have no root of their own; all lie below the root of the mixed source")
        if any(source.allow_faults for source in self.sources):
            raise ValueError("`allow_faults` is an option of the mixed source, whose frames are checked together")
        if (self.every, self.train_share) != (fields["every"].default, fields["train_share"].default):
            raise ValueError("`every` and `train_share` are options of each of the sources")
        return self

    @property
    def parts(self) -> tuple[Source, ...]:
        """The sources that it mixes."""
        return self.sources

    def list_frames(self, root: Path) -> list[Frame | Rejected]:
        """The frames of all sources, one source after the other."""
        return [frame for source in self.sources for frame in source.list_frames(root)]

    def split_frames(self, root: Path) -> list[tuple[Frame | Rejected, Split | None]]:
        """The frames of all sources, each split as its source says."""
        return [each for source in self.sources for each in source.split_frames(root)]
