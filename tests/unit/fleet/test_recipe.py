"""The recipe of docs/fleet.md with openssl alone gives files with which both sides talk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from headers import stream_header

from smartedge.errors import LinkError
from smartedge.types import StreamHeader
from smartedge.wire.credentials import Credentials
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver


class Names:
    """Keeps who sent."""

    def __init__(self) -> None:
        self.edges: list[str] = []

    def accept(self, edge: str, header: StreamHeader) -> int:
        self.edges.append(edge)
        return header.end_seq

    def sync(self, edge: str, header: StreamHeader) -> int:
        return header.end_seq

    def finish(self, edge: str, header: StreamHeader) -> None: ...

    def abort(self, edge: str, header: StreamHeader) -> None: ...


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_the_recipe_works_as_it_stands(repo_root: Path, tmp_path: Path) -> None:
    page = (repo_root / "docs" / "fleet.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("<!-- this block is run by tests/unit/fleet/test_recipe.py -->\n```bash\n")
    recipe, end, _ = rest.partition("```\n")
    assert recipe and end
    subprocess.run(["bash", "-e", "-c", recipe], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    def of(name: str) -> Credentials:
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        return Credentials.from_files(ca=tmp_path / "authority.pem", certificate=certificate, key=key)

    handler = Names()
    receiver = GrpcReceiver(handler, "127.0.0.1", credentials=of("cloud"))  # type: ignore[arg-type]
    receiver.start()
    try:
        link = GrpcLink(f"127.0.0.1:{receiver.port}", of("door"), connect_timeout_s=10)
        link.open(stream_header())
        link.close()
        link.disconnect()
        assert handler.edges == ["door"]
        with pytest.raises(LinkError):  # a certificate of the cloud is none of an edge
            GrpcLink(f"127.0.0.1:{receiver.port}", of("cloud"), connect_timeout_s=0.3).open(stream_header())
        assert handler.edges == ["door"]
    finally:
        receiver.close()
