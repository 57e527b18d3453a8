"""docs/seed-map.md names things that exist, and every identifier of the two seed documents."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "seed-map.md"
REFERENCE = re.compile(r"`([\w./-]+)#([\w-]+)`")
# Words that look like calls or constants in the documents but are the language's or the C library's.
NOT_OURS = frozenset(
    "append bytes byref CDLL copy_from_user ffs for hang if ioctl kfree kmalloc len list_add list_del max mean Popen "
    "pr_debug pr_err print range robin sizeof sleep so Thread time terminate trace_printk gpu_id ID".split()
)


def seeds() -> Path | None:
    folder = Path(os.environ.get("GPREEMPT_SEEDS", ROOT.parent / "shared" / "seeds"))
    return folder if folder.is_dir() else None


def defines(file: Path, name: str) -> bool:
    """Whether a file defines a name, as far as its language says what a definition is."""
    word = rf"(?<!\w){re.escape(name)}(?!\w)"
    patterns = {
        ".rs": rf"\b(?:fn|struct|enum|trait|const|type|macro_rules!)\s+{word}|^\s+{word}(?:\s*[,({{]|$)",
        ".py": rf"^\s*(?:def|class)\s+{word}|^\s*{word},?$",
        ".pyi": rf"^\s*(?:def|class)\s+{word}",
        ".h": rf"\b(?:struct|enum)\s+{word}\s*\{{|\b{word}\(|#define\s+{word}",
        ".toml": rf'^name = "{word}"',
    }
    return file.is_file() and re.search(patterns.get(file.suffix, word), file.read_text(), re.MULTILINE) is not None


def test_every_reference_of_the_seed_map_resolves() -> None:
    references = REFERENCE.findall(PAGE.read_text())
    assert len(references) > 90
    assert not [f"{path}#{name}" for path, name in references if not defines(ROOT / path, name)]


def test_every_identifier_of_the_seeds_has_a_row() -> None:
    folder = seeds()
    if folder is None:
        pytest.skip("the seed documents are not at hand (GPREEMPT_SEEDS)")
    page = PAGE.read_text()
    missing = set()
    for document in ("map-unmap-preemption.md", "mqd-hqd-mapping-mechanism.md"):
        text = (folder / document).read_text()
        words = set(re.findall(r"\b([a-z_]\w*)\s*\(", text, re.ASCII))
        words |= set(re.findall(r"\b(?:struct|class)\s+(\w+)", text, re.ASCII))
        words |= set(re.findall(r"\b(?:AMDKFD|KFD|KGD|HIP|GFP)_[A-Z0-9_]+\b", text))
        words |= set(re.findall(r"\b\w+\.(?:py|so)\b", text, re.ASCII))
        missing |= {word for word in words - NOT_OURS if not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", page)}
    assert not missing
