"""What holds for every test."""

from __future__ import annotations

import signal

# A test run that a script starts in the background, or under nohup, ignores these signals, and so
# would all programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
