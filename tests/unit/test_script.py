"""What is cut out of a script, and that nothing else is."""

from __future__ import annotations

from celery_flame_ec2 import script

PYTHON = '''\
#!/bin/sh /run/install
"""What it does.

At length.
"""

import os  # for paths
from typing import Any

#: how many
COUNT: int = 3


class Thing:
    """A thing."""

    size: int  # in bytes

    def __init__(self, *, root: str = "# no comment", more: dict[str, Any] | None = None) -> None:
        """Make one."""
        # why
        self.path: str = f"{root}/{more['x'] if more else ''}"

    def longest(
        self, first: int, *rest: tuple[int, int]
    ) -> list[
        int
    ]:
        return [first, COUNT]  # noqa: X
'''
BARE = """\
#!/bin/sh /run/install
import os
COUNT=3
class Thing:
 size:int
 def __init__(self,*,root="# no comment",more=None):
  self.path=f"{root}/{more['x'] if more else ''}"
 def longest(self,first,*rest):
  return[first,COUNT]
"""


def test_python_is_left_with_its_first_line_and_what_runs() -> None:
    assert [line.rstrip() for line in script.bare_python(PYTHON).splitlines()] == BARE.splitlines()


def test_a_script_is_left_without_blank_lines_and_lines_that_are_comments() -> None:
    assert script.bare("#!/bin/sh\n\n# why\n  # and why\necho '#'  # said\n") == "#!/bin/sh\necho '#'  # said"
