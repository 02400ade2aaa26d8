"""Ingest: check every raw frame and describe it in a catalogue."""

import json
from collections import Counter
from collections.abc import Collection
from contextlib import closing
from functools import partial
from pathlib import Path

from simipu_core import storage
from simipu_core.artifacts import Manifest, check_new, read_manifest, write_artifact
from simipu_core.checking.report import Report, Severity
from simipu_core.data import catalogue
from simipu_core.data.catalogue import SYNTHETIC_FILE
from simipu_core.data.frames import Frame, Rejected, too_much
from simipu_core.data.schema import CatalogueRow, FrameRow
from simipu_core.data.sources import Source, source_named
from simipu_core.errors import SimipuError
from simipu_core.parallel import map_frames
from simipu_core.stages.check import PAGE_FILE, check_sample
from simipu_core.tracking.run import Run, SilentRun, address_digest


def ingest(
    source: Source, out: Path, *, root: str | None = None, run: Run = SilentRun(), page: Path | None = None
) -> Manifest:
    """Validate the frames of a source and write the catalogue (``frames.parquet``, ``rejected.json``).

    The digest depends on the frames' content, not on where the data lies: paths are relative to the root, and the
    root itself is kept as the manifest's `origin` only.

    Args:
        source: the data set and its options.
        out: artifact directory to make.
        root: URI of the raw data (see `simipu_core.storage.resolve`); overrides `source.root`.
        run: where counts and the page are recorded.
        page: HTML file for what the quick part of `simipu check` finds in the frames; None leaves that part out.

    Raises:
        SimipuError: no frames, more broken ones than `source.max_broken_share` allows, or a fault that
            `source.allow_faults` does not name.
    """
    check_new(out)
    uri = root or source.root
    folder = storage.resolve(uri)
    found = source.split_frames(folder)
    _check_ids([frame.sample_id for frame, _ in found])
    kept = [(frame, split) for frame, split in found if split]
    candidates = [frame for frame, _ in kept if isinstance(frame, Frame)]
    broken = [frame for frame, _ in kept if isinstance(frame, Rejected)]
    examined: list[FrameRow] = []
    group = _container if any(map(_container, candidates[:1])) else None
    examine = partial(catalogue.examine, folder, sizes=source.image_sizes)
    with closing(map_frames(examine, candidates, "ingest", group=group, rejected=too_much)) as results:
        for result in results:
            if isinstance(result, Rejected):
                broken.append(result)
            else:
                examined.append(result)
    catalogue.check_broken_share(
        broken, len(kept), source.max_broken_share, "max_broken_share of pretrain_data or depth_data", folder
    )
    if not examined:
        raise SimipuError(
            f"{folder}: every frame is broken; mend the data or set another `root` in pretrain_data or depth_data."
        )

    if page is not None:
        report = check_sample(source, folder, kept, examined, broken, page)
        run.log_file(page, name=PAGE_FILE)
        _stop_on_faults(report, source.allow_faults, f"{PAGE_FILE} of {run.page}" if run.page else str(page))
    split_of = {frame.sample_id: split for frame, split in kept}
    rows: list[CatalogueRow] = [{**row, "split": split_of[row["sample_id"]]} for row in examined]
    with write_artifact(
        out,
        "catalogue",
        inputs={},
        parameters={"source": source.content_options()},
        licence=_licence(source, folder),
        mlflow_run_id=run.run_id,
        origin=storage.absolute(uri),
    ) as draft:
        catalogue.write_frames(rows, draft.path)
        catalogue.write_rejected(broken, draft.path, folder)
        draft.counts.update(
            frames=len(rows),
            broken=len(broken),
            left_out_by_split=len(found) - len(kept),
            train=sum(row["split"] == "train" for row in rows),
            eval=sum(row["split"] == "eval" for row in rows),
            sequences=len({row["sequence"] for row in rows}),
            with_scan=sum(row["points"] is not None for row in rows),
            with_depth=sum(row["depth"] is not None for row in rows),
            points_dropped=sum(row["num_dropped"] or 0 for row in rows),
        )
    manifest = read_manifest(out, "catalogue")
    run.log_input("raw", address_digest(uri) or manifest.digest, "raw", source=uri)
    run.log_metrics(manifest.counts)
    return manifest


def _stop_on_faults(report: Report, allowed: Collection[str], place: str) -> None:
    """Print what was found; `place` is where it can be looked at.

    Raises:
        SimipuError: a fault that is not allowed.
    """
    for finding in report.findings:
        if finding.severity is not Severity.OK:
            print(f"{finding.severity}: {finding.check}: {finding.what}", flush=True)
    if faults := [finding for finding in report.faults if finding.name not in allowed]:
        told = "; ".join(f"{finding.check}: {finding.what}" for finding in faults)
        names = ", ".join(dict.fromkeys(finding.name for finding in report.faults))
        raise SimipuError(
            f"{report.root}: these frames should not be trained on ({told}); look at {place}, and mend the data, or "
            f"set allow_faults: [{names}] in pretrain_data or depth_data."
        )


def _container(frame: Frame) -> Path | None:
    return source_named(frame.source).container(frame.image)


def _check_ids(ids: list[str]) -> None:
    if repeated := next((each for each, count in Counter(ids).items() if count > 1), None):
        raise SimipuError(f"{repeated}: two sources read this frame; drop one of them from `sources`.")


def _licence(source: Source, folder: Path) -> str:
    file = folder / SYNTHETIC_FILE
    if file.is_file():
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["licence"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SimipuError(f"{file}: states no licence; run `simipu synthesize` again.") from None
    return "; ".join(dict.fromkeys(part.licence for part in source.parts))
