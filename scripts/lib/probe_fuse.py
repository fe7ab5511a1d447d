"""Print the path of the libfuse3 that pyfuse3 works with here; fail if it cannot be loaded."""

import os
import re
import sys

try:
    import pyfuse3  # noqa: F401
except ImportError as error:
    sys.exit(f"pyfuse3: {error}")

with open("/proc/self/maps") as maps:
    found = re.search(r"(/\S*/libfuse3\.so\.\d+)(\S*)", maps.read())
if found is None:
    print(os.path.realpath(sys.executable))  # a libfuse3 of its own, then, that nobody takes away
else:
    # An update may change the numbers behind the first; the name before them is what is needed.
    print(found[1] if os.path.exists(found[1]) else found[0])
