"""What work is there?"""

from __future__ import annotations

import os
import time

from celery import shared_task

from .models import Order


@shared_task
def pack(order_id: int, seconds: float = 1.0) -> None:
    """Pack an order, and note on which runner: "parent" where it is none. What is packed is not packed again."""
    time.sleep(seconds)
    Order.objects.filter(pk=order_id, packed_by="").update(packed_by=os.environ.get("FLAME_RUNNER_ID", "parent"))
