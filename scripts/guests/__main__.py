import sys

from guests.cli import main

sys.exit(main())
