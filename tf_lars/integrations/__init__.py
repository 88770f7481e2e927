"""Engines that start a job's workers and hold its data; each is imported by its users alone."""
