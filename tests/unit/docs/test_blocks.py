"""Every block of the documents is run by tests/e2e/test_pages.py or says why not, and there a wrong one fails."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from pages import PAGES, Folder, blocks_of

NOT_RUN = {  # blocks by page: a new one needs a reason that is better than these
    "CONTRIBUTING.md": 2,  # runs all tests; takes an hour
    "README.md": 2,  # installs, runs the demo
    "docs/audit-schema.md": 1,  # downloads
    "docs/broker.md": 1,  # two machines
    "docs/device.md": 2,  # installs
    "docs/fleet.md": 2,  # a proxy; several edges
    "docs/install.md": 2,  # installs, a wheel
    "docs/operation.md": 3,  # changes the machine; needs a cluster; three terminals
    "docs/tutorial.md": 1,  # installs
    "docs/two-machines.md": 2,  # two machines
    "docs/workers.md": 2,  # several machines
}


def test_the_blocks_that_do_not_run_stay_few():
    marked = Counter(block.page for page in PAGES for block in blocks_of(page) if block.not_run)
    assert marked == NOT_RUN


def test_every_block_has_a_language_that_says_what_is_done_with_it():
    languages = {block.language for page in PAGES for block in blocks_of(page)}
    assert languages <= {"bash", "python", "yaml", "text", "", "{toctree}", "{eval-rst}"}
    assert sum(block.runs for page in PAGES for block in blocks_of(page)) > 50


def test_every_fence_is_read():
    for page in PAGES:
        fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("```")]
        assert len(fences) == 2 * len(blocks_of(page)), page


def test_no_page_holds_the_marks_of_a_merge():
    for page in PAGES:
        assert not re.search(r"^(<{7}|>{7}) ", page.read_text(encoding="utf-8"), re.MULTILINE), page


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


RIGHT = """\
```python
# made.py
answer = 41
```

```python
from made import answer

total = answer + 1
```

```python
print("the answer is", total)
```

```text
the answer ... 13
```

<!-- not run: it would fail -->
```bash
false
```

```bash
test -f made.py && echo there
```

```yaml
train: {lr: 0.01}
```
"""


def test_a_page_that_is_right_runs(tmp_path):
    folder = Folder(tmp_path)
    try:
        folder.run(blocks_of(page(tmp_path, RIGHT)))
    finally:
        folder.close(kill=False)
    assert folder.printed.splitlines() == ["the answer is 42", "there"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("```bash\nfalse\ntrue\n```\n", "exit code 1"),
        ("```bash\nsmartedge init --no-such-option\n```\n", "SE-CONFIG"),
        ("```python\nundefined\n```\n", "NameError"),
        ("```bash\necho yes\n```\n\n```text\nno\n```\n", "was not printed: no"),
        ("```yaml\ntrain: {rate: 1}\n```\n", "unknown key"),
    ],
)
def test_a_block_that_is_wrong_fails(tmp_path, text, told):
    folder = Folder(tmp_path)
    try:
        with pytest.raises(Exception, match=told):
            folder.run(blocks_of(page(tmp_path, text)))
    finally:
        folder.close(kill=True)
