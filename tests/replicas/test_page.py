"""What docs/operations/size.md shows is what happens."""

from __future__ import annotations

import sys
from pathlib import Path

from tests import warm
from tests.docs.documents import ADDRESS, Document
from tests.docs.test_documents import DOCS, OWN_DATABASE, grpcurl, serving

__all__ = ["grpcurl"]


async def test_the_page_about_replicas_is_true(database_url: str, grpcurl: Path, tmp_path: Path) -> None:
    async with serving(database_url) as service:
        replaced = {ADDRESS: service.address, OWN_DATABASE: database_url}
        programs = [grpcurl, warm.command().parent, Path(sys.executable).parent]
        document = Document(DOCS / "operations/size.md", tmp_path, replaced, programs)
        assert await document.carry_out() == 8
