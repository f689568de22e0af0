"""The end of a run, where the link breaks between the last frame and its confirmation. Real processes."""

from __future__ import annotations

import pytest
from commands import settings_file
from runs import assert_same_run
from tcp_proxy import TcpProxy

from smartedge.artifacts.summary import has_finished
from smartedge.runs.progress import Quiet
from smartedge.training import collect, train


@pytest.mark.parametrize("killed", [False, True])
def test_a_cloud_does_not_end_before_its_edge_knows_that_everything_arrived(killed, tiny_config, start) -> None:
    """Nothing comes back any more once the frames of the last stream are on their way. When the cloud has learned from
    everything the connection breaks; and, in the second case, the cloud is killed then, and started again."""
    last = False

    def mute_at(data: bytes) -> bool:
        nonlocal last
        frames_of_the_last_stream = last and len(data) > 4000  # they follow when its header was answered
        last = last or b'"split":"test"' in data.replace(b" ", b"")
        return frames_of_the_last_stream

    whole, broken = tiny_config("whole", epochs=1), tiny_config("broken", epochs=1)
    train(whole, single_process=True, monitor=Quiet())
    file = settings_file(broken, "broken")
    cloud = start("cloud", file, "--listen", "127.0.0.1:0")
    proxy = TcpProxy(cloud.port(), mute_at)
    try:
        edge = start("edge", file, "--connect", f"127.0.0.1:{proxy.port}")
        cloud.says("waiting up to 120 s until the edge knows that everything arrived")
        assert not has_finished(broken.run_dir / "edge") and edge.process.is_alive()
        if killed:
            cloud.kill()
            cloud = start("cloud", file, "--listen", "127.0.0.1:0", "--resume")
            proxy.target = cloud.port()
        proxy.cut()
        assert edge.end() == 0, edge.output
        assert cloud.end() == 0, cloud.output
    finally:
        proxy.close()
    collect(broken.run_dir)
    assert_same_run(whole.run_dir, broken.run_dir)
