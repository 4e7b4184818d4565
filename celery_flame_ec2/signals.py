"""What can an application be told about its pools?

Each is a Celery signal, sent on the parent's service thread with the pool's name as sender:

runner_launched   runner, reason
runner_up         runner, seconds (from launch to hello), phases (those of uptime.PHASES that are known, in seconds)
runner_ended      runner, reason, kind (of lifetime.ENDING_KINDS)
launch_failed     reason, kind (of errors.FAILURE_KINDS)
pool_grew         count, reason
pool_shrank       count, reason
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

runner_launched = Signal(name="runner_launched", providing_args={"runner", "reason"})
runner_up = Signal(name="runner_up", providing_args={"runner", "seconds", "phases"})
runner_ended = Signal(name="runner_ended", providing_args={"runner", "reason", "kind"})
launch_failed = Signal(name="launch_failed", providing_args={"reason", "kind"})
pool_grew = Signal(name="pool_grew", providing_args={"count", "reason"})
pool_shrank = Signal(name="pool_shrank", providing_args={"count", "reason"})
