"""Timings as ratios against named peers, measured in one sitting."""
