"""What a measured machine would take if it might use only a share of one core: its profile, with longer times."""

from __future__ import annotations

from dataclasses import dataclass

from smartedge.artifacts.profile import CheckpointCost, CutFigures, Profile, Timing, Transport, WholeFigures


def at_share(profile: Profile, share: float) -> Profile:
    """``profile`` of the same machine where it may use only this share of one core.

    Processor times are divided by ``share``, as if the clock were slower. Seconds in which a step waited, for example
    for the disk, stay as they are. Of a checkpoint no processor time is known; its fixed part counts as the disk's.
    """
    stretch = _Stretch(share)
    cost, disk = profile.transport, profile.checkpoint
    return profile.model_copy(
        update={
            "kind": "scaled",
            "notes": (*profile.notes, f"the times of {profile.name} ÷ {share:g}, the share of a core that may be used"),
            "cores": 1,
            "cuts": tuple(
                cut.model_copy(update=stretch.timings(cut) | {"build_seconds": cut.build_seconds / share})
                for cut in profile.cuts
            ),
            "whole": profile.whole.model_copy(
                update=stretch.timings(profile.whole) | {"build_seconds": profile.whole.build_seconds / share}
            ),
            "data": stretch.timing(profile.data),
            "transport": Transport(
                seconds_per_frame=stretch.seconds(cost.seconds_per_frame, cost.cpu_seconds_per_frame),
                seconds_per_byte=stretch.seconds(cost.seconds_per_byte, cost.cpu_seconds_per_byte),
                cpu_seconds_per_frame=cost.cpu_seconds_per_frame / share,
                cpu_seconds_per_byte=cost.cpu_seconds_per_byte / share,
            ),
            "checkpoint": CheckpointCost(seconds=disk.seconds, seconds_per_byte=disk.seconds_per_byte / share),
        }
    )


@dataclass(frozen=True)
class _Stretch:
    """Makes times longer for a machine that may use a share of one core."""

    share: float

    def seconds(self, wall: float, cpu: float) -> float:
        """Seconds of waiting stay, seconds of work grow."""
        work = min(wall, cpu)
        return wall - work + work / self.share

    def timing(self, timing: Timing) -> Timing:
        return Timing(
            seconds=self.seconds(timing.seconds, timing.cpu_seconds),
            cpu_seconds=timing.cpu_seconds / self.share,
            spread=timing.spread,
            first_seconds=timing.first_seconds / self.share,
        )

    def timings(self, figures: CutFigures | WholeFigures) -> dict[str, object]:
        """All timings among the figures, and those of their codecs."""
        found: dict[str, object] = {name: self.timing(value) for name, value in figures if isinstance(value, Timing)}
        codecs = {
            name: codec.model_copy(update={"encode": self.timing(codec.encode), "decode": self.timing(codec.decode)})
            for name, codec in figures.codecs.items()
        }
        return found | {"codecs": codecs}
