"""What is an order?"""

from __future__ import annotations

from django.db import models, transaction


class Order(models.Model):
    """Something to pack, and by whom it was."""

    packed_by = models.CharField(max_length=80, default="")

    @classmethod
    def place(cls) -> Order:
        """Note an order; it is packed as soon as it can be seen by others."""
        from .tasks import pack

        with transaction.atomic():
            order = cls.objects.create()
            pack.delay_on_commit(order.pk)
        return order
