"""Files and figures have models; a mapping of anything is left where a library wants one."""

from __future__ import annotations

from pathlib import Path


def test_there_are_few_mappings_of_anything(repo_root: Path):
    found = {
        str(path.relative_to(repo_root)): count
        for path in (repo_root / "src").rglob("*.py")
        if (count := path.read_text(encoding="utf-8").count("dict[str, Any]"))
    }
    assert 0 < sum(found.values()) < 20, f"give what is new a model of artifacts/, or a dataclass: {found}"
