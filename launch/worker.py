"""Runs one worker of the cluster that TF_CONFIG describes; started by the launchers."""

from launch.cli import app, flags
from launch.run import process
from launch.run.job import JobSettings
from launch.run.settings import TrainingSettings
from tf_lars.cluster import supervisor
from tf_lars.cluster.discovery import resolve_cluster


def main() -> int:
    """Joins the cluster and trains."""
    supervisor.start_heartbeat()
    settings = TrainingSettings(**flags.values(TrainingSettings))
    job = JobSettings(**flags.values(JobSettings))
    return process.run(settings, resolve_cluster(), job.startup_timeout)


if __name__ == "__main__":
    flags.define(TrainingSettings)
    flags.define(JobSettings)
    app.run(main)
