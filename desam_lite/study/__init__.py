"""The study itself: profiles, plans, runs, the report, the chapters, and all of it as jobs."""
