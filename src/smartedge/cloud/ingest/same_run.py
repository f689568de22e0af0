"""What must be equal in all streams of one edge, and of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import JsonValue

from smartedge.cloud.handover import Handover
from smartedge.cloud.intake import Intake
from smartedge.codec import get_codec
from smartedge.config import Config, config_of_edge, differences
from smartedge.errors import CodecError, ConfigError, LinkError, RunError
from smartedge.types import StreamHeader
from smartedge.wire.frame import settings_in
from smartedge.wire.link_pb2 import Ask, Told
from smartedge.wire.questions import NOT_HERE

__all__ = ["agreed", "answer_about_settings", "facts_of_edge", "facts_of_run", "of_another_run"]


def agreed(config: Config, agreement: str) -> Config:
    """The settings of one edge of the run, where they are those on which both sides must agree.

    Where the front is given, pretrained weights and their learning rate are about the back alone, and an edge need not
    have them.

    Args:
        config: the cloud's settings.
        agreement: the edge's, as it sent them.

    Raises:
        FrameError: they are no JSON object.
        RunError: the run has other ones.
    """
    theirs = settings_in(agreement)
    try:
        own = config_of_edge(config, theirs)
        get_codec(own.codec_name)
    except (ConfigError, CodecError) as error:
        raise RunError(f"the edge was started with settings that this run cannot have: {error}") from error
    mine = own.agreement()
    if "front" in mine:
        mine, theirs = map(_about_the_front, (mine, theirs))
    if theirs != mine:
        found = differences(mine, theirs).items()
        keys = ", ".join(f"{key}: {its!r} at the edge, {ours!r} here" for key, (ours, its) in found) or "their form"
        raise RunError(f"edge and cloud were started with different settings ({keys}); give both the same config")
    return own


def _about_the_front(agreement: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """An agreement without what is about the back alone where the front is given."""
    kept = {key: value for key, value in agreement.items() if key != "weights"}
    if isinstance(train := kept.get("train"), dict):
        kept["train"] = {key: value for key, value in train.items() if key != "lr_pretrained"}
    return kept


def answer_about_settings(config: Config, handover: Handover) -> Callable[[str, bytes], bytes]:
    """Answers an edge that asks, before it trains, whether it could send.

    Args:
        config: the cloud's settings, on which the edge must agree.
        handover: knows the runs of which the cloud holds frames.
    """

    def answer(edge: str, question: bytes) -> bytes:
        asked = Ask.FromString(question)
        if not asked.settings:
            raise LinkError(NOT_HERE)
        agreed(config, asked.settings)
        with handover.changed:
            intake = handover.intakes.get(edge)
            if asked.HasField("begun") and intake and intake.streams and intake.streams[0].run != asked.begun:
                raise of_another_run(intake)
        return bytes(Told(edge=edge).SerializeToString())

    return answer


def of_another_run(intake: Intake) -> RunError:
    """Why an edge may not send: the cloud holds frames of another run of it."""
    return RunError(
        f"{intake.folder}: the log belongs to another run: frames of edge {intake.edge!r} came from another run "
        "directory before. Restore that one at the edge, and use --resume; or give both sides a new run_dir"
    )


def facts_of_edge(header: StreamHeader) -> tuple[object, ...]:
    """The facts that are equal in all streams of one edge, beyond the settings."""
    own = header.agreement, header.feature_shape, header.codec, header.batch_size
    return header.run, header.train_steps, *own, *facts_of_run(header)


def facts_of_run(header: StreamHeader) -> tuple[object, ...]:
    """The facts that are equal in all streams of one run, beyond the settings."""
    return header.feature_dtype, header.task_kind, header.outputs
