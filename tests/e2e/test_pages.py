"""The commands and programs of the documents, as written and in their order. Only the sizes are smaller."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import PAGES, ROOT, Folder, blocks_of

SETTINGS = """\
cat > run.yaml <<END
data: {path: drawn, desired: smile, sensitive: [masculine]}
model: {name: resnet18, cut: layer1, bottleneck: 4x1x1}
dp: {mechanism: gaussian, sigma: 0.4}
END
"""
PHOTOGRAPHS = """\
python - <<END
from pathlib import Path
from PIL import Image
for number in range(12):
    folder = Path("photographs", ("train", "val", "test")[number % 3], ("no", "yes")[number % 2])
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (20 * number, 90, 200)).save(folder / f"{number}.png")
Path("camera").mkdir()
Image.new("RGB", (32, 32)).save("camera/0.png")
END
"""
FLEET = "smartedge fleet init factory; smartedge fleet add factory door --cloud SERVER:8815"
BEFORE = {  # what a page assumes to be there
    "docs/device.md": SETTINGS + PHOTOGRAPHS + FLEET,
    "docs/fleet.md": SETTINGS
    + "smartedge train run.yaml --set run_dir=runs/one; cp runs/one/edge/front.safetensors front.safetensors",
    "docs/networks.md": "mkdir weights; touch weights/lite0.safetensors",
    "docs/store.md": SETTINGS + "smartedge train run.yaml --set run_dir=runs/faces",
}
AFTER = {
    "README.md": ("runs/run-2/cloud/back.safetensors",),  # the second run of the same settings
}
RUN = [
    pytest.param(path, id=path.relative_to(ROOT).as_posix(), marks=pytest.mark.timeout(900))
    for path in PAGES
    if any(block.runs or block.language == "yaml" for block in blocks_of(path))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run_in_their_order(page: Path, tmp_path: Path) -> None:
    name = page.relative_to(ROOT).as_posix()
    folder, ended = Folder(tmp_path, BEFORE.get(name, "")), False
    try:
        folder.run(blocks_of(page))
        ended = True
    finally:
        folder.close(kill=not ended)
    for file in AFTER.get(name, ()):
        assert (tmp_path / file).exists(), file
