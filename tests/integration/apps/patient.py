"""What does a runner's worker do with messages that its broker waits for no longer than 2.4 s?"""

from __future__ import annotations

from celery_flame_ec2.custody import Custody, CustodyStep
from celery_flame_ec2.manners import acknowledge_late

from .work import app

if __name__ == "__main__":
    custody = Custody(waits=2.4)
    app.steps["consumer"].add(CustodyStep)
    worker = app.Worker(
        concurrency=1,
        prefetch_multiplier=1,
        optimization="fair",
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        flame_custody=custody,
    )
    custody.take_over(app, late=acknowledge_late(app))
    worker.start()
