"""Whose autoscaler do Celery's own tests test? A pytest plugin that makes it ours."""

from __future__ import annotations

from celery.worker import autoscale

from celery_flame_ec2.autoscaler import Autoscaler

autoscale.Autoscaler = Autoscaler


def pytest_report_header() -> str:
    """Say which class is under test."""
    return f"autoscaler under test: {autoscale.Autoscaler.__module__}"
