"""Where a test cluster lies: a folder with a short path that every user may enter."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder under /tmp, removed at the end: pytest's own paths are too long for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    folder.chmod(0o755)  # jobs of other users enter it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
