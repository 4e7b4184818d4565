"""Is Celery's app there as soon as Django is? `@shared_task` needs it."""

from .celery import app as celery_app

__all__ = ["celery_app"]
